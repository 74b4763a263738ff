"""Whether an adapter fits the layers of a base model: a saved one's tensors, or the layers that are named for a new one. By the
headers of the files alone.

Only what is certain is said: a layer that both name, with other sizes. Layers that the base's files call by another name than the
loaded model, or hold packed (4 bit), prove nothing; they are held against each other once the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.checkpoints.adapter import WEIGHTS, tensor_shapes
from engine.checkpoints.files import Unsound, list_folder
from engine.errors import ModelError
from engine.i18n import _
from engine.models.report import NOT_LINEAR, weight_headers

PREFIX = "base_model.model."
"""What PEFT puts before the name of each layer it has an adapter on."""
HALVES = (".lora_A.", ".lora_B.")
NUMBERS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Formats in which a layer is stored with its own shape."""


def other_model(checkpoint: Path, base: Path) -> str | None:
    """Why the adapter in the folder `checkpoint` cannot be one of the model in the folder `base`; None where nothing says so."""
    try:
        stored = {
            name.removesuffix(".weight"): tensor.shape
            for name, tensor in weight_headers(base).items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype in NUMBERS
        }
        adapted = _adapted(checkpoint)
    except (OSError, Unsound):  # told by whoever loads it
        return None
    for layer, sizes in adapted.items():
        there = _stored_as(layer, stored)
        # (out, in); GPT-2's Conv1D stores (in, out).
        if there is not None and sizes not in (there, there[::-1]):
            return _("its adapter is for another model: {layer} is {saved} there, and {here} in {folder}").format(
                layer=layer, saved=_words(sizes), here=_words(there), folder=base
            )
    return None


def need_layers(targets: str, base: Path) -> None:
    """Raise ModelError where a name of --target-modules is of no layer of the model in the folder `base`. Of a mixture of experts,
    which transformers stores under other names than it loads, and of packed weights nothing is said."""
    names = [] if targets == "all-linear" else targets.split(",")
    try:
        stored = {name: tensor for name, tensor in weight_headers(base).items() if name.endswith(".weight")}
    except (OSError, Unsound):  # told by whoever loads it
        return
    known = stored and all("expert" not in name and tensor.dtype in NUMBERS for name, tensor in stored.items())
    layers = {name.removesuffix(".weight") for name in stored}
    missing = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if known and missing:
        linear = {
            name.split(".")[-2]
            for name, tensor in stored.items()
            if len(tensor.shape) == 2 and not any(part in name for part in NOT_LINEAR)
        }
        raise no_such_layers(missing, linear)


def no_such_layers(missing: Iterable[str], linear: Iterable[str]) -> ModelError:
    """The error for names of --target-modules that are of no layer; `linear`: the names that could be."""
    return ModelError(
        _("--target-modules {names}: this model has no such layers").format(names=",".join(missing)),
        _("Its linear layers are: {names}.").format(names=", ".join(sorted(linear))),
        _("all-linear takes every linear layer but the output layer."),
    )


def _adapted(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of each layer that has an adapter: lora_A is (rank, in), lora_B (out, rank)."""
    entries = list_folder(checkpoint)
    name = next((name for name in WEIGHTS if name in entries), None)
    shapes = tensor_shapes(checkpoint / name, entries[name], verify=False) if name is not None else {}
    found = {}
    for tensor, shape in shapes.items():
        layer, half, _rest = tensor.removeprefix(PREFIX).partition(HALVES[0])
        other = shapes.get(tensor.replace(*HALVES)) if half else None
        if other is not None and len(shape) == len(other) == 2:
            found[layer] = (other[0], shape[1])
    return found


def _stored_as(layer: str, stored: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Files of some models (GPT-2) leave out the first part of a name."""
    return stored.get(layer) or stored.get(layer.partition(".")[2])


def _words(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
