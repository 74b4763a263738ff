"""Whether an adapter's tensors fit the layers of a base model, by the headers of both files alone.

Only what is certain is said: a layer that both name, with other sizes. Layers that the base's files call by another name than the
loaded model, or hold packed (4 bit), prove nothing; they are held against each other once the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.checkpoints.adapter import WEIGHTS, tensor_shapes
from engine.checkpoints.files import Unsound, list_folder
from engine.i18n import _
from engine.models.report import weight_headers

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
