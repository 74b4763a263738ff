"""The weights of a checkpoint: what kind they are, and whether they are whole.

An adapter is sound when its configuration can be read, every tensor is there, finite and of the rank the configuration says, and
every lora_A has its lora_B. Weights of other kinds (a whole model, shards of FSDP or DeepSpeed, other adapters) are judged as far
as their files can be judged without loading them, and named, because "this is a whole model" is the answer a person needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engine.checkpoints.checkpoint import AdapterShape, Problem
from engine.checkpoints.files import Entry, Unsound, count, not_a_file, number, read_json
from engine.checkpoints.lora_fields import why_not_trained
from engine.checkpoints.pickles import FLOATS
from engine.checkpoints.safetensors_header import check_safetensors
from engine.checkpoints.torch_file import check_torch_file
from engine.i18n import _

CONFIG_NAME = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""As PEFT looks for them: the first that is there is loaded."""
PROMPT_TYPES = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT"})
TRUSTED_PARENTS = ("transformers", "peft", "trl", "torch")
"""Packages whose model classes an adapter_config.json may name (auto_mapping)."""

NOT_CARRIED_ON = "adapter_not_carried_on"
"""The problem of a sound LoRA adapter that a run here would refuse."""
NOT_TRAINED = ("prompt_tuning", "other_adapter", NOT_CARRIED_ON)
"""Those of sound adapters that no run here starts from."""
BASE_LAYER = ".base_layer."
"""In the names of base weights that an adapter is on, as PEFT wraps them."""
PAIRS = ((".lora_A", ".lora_B"), (".lora_embedding_A", ".lora_embedding_B"))
"""What stands in the names of the two halves of an adapter."""

FRACTIONS = re.compile(r"B?F[0-9]|UntypedStorage")
"""Formats of numbers with fractions; of an untyped storage torch says it elsewhere."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weights:
    """What was found."""

    sound: bool
    continuable: bool
    """Whether this tool can go on training them: one LoRA adapter."""
    adapter: AdapterShape | None
    problems: tuple[Problem, ...]
    files: tuple[str, ...]
    """The files they consist of."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of the tensors of a sound LoRA adapter."""
    names: tuple[str, ...] = ()
    """Theirs."""


def check_adapter(folder: Path, entries: Mapping[str, Entry], verify: bool) -> Weights:
    """Judge the adapter in `folder`; its configuration or its weights are there."""
    weights = next((name for name in WEIGHTS if name in entries), None)
    files = tuple(name for name in (CONFIG_NAME, weights) if name is not None)
    problems: list[Problem] = []
    shape: AdapterShape | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
    sound = True
    try:
        if CONFIG_NAME not in entries:
            raise _missing(CONFIG_NAME)
        shape = read_adapter_config(folder / CONFIG_NAME)
    except Unsound as wrong:
        problems.append(wrong.problem)
        sound = False
    try:
        if weights is None:
            raise _missing(WEIGHTS[0])
        tensors = _tensors(folder / weights, entries[weights], verify)
        if shape is not None and shape.peft_type == "LORA":
            refuse_odd_lora({name: size for name, (size, _kind) in tensors.items()}, shape, weights)
            _refuse_whole_numbers({name: kind for name, (_size, kind) in tensors.items()}, weights)
            shapes, names = tuple(size for size, _kind in tensors.values()), tuple(tensors)
    except Unsound as wrong:
        problems.append(wrong.problem)
        sound = False
    if weights == WEIGHTS[0] and WEIGHTS[1] in entries:
        problems.append(
            Problem(
                "unused_pickle",
                _("{name} stands beside {used} and is never opened.").format(name=WEIGHTS[1], used=weights),
                _("Delete it if nothing else needs it."),
            )
        )
    foreign = _foreign(shape, names) if shape is not None else []
    return Weights(sound, sound and not foreign, shape, (*problems, *foreign), files, shapes, names)


def _foreign(shape: AdapterShape, names: Sequence[str]) -> list[Problem]:
    """Why a sound adapter cannot be trained on here. `names`: of its tensors."""
    found: list[Problem] = []
    if shape.peft_type in PROMPT_TYPES:
        found.append(Problem("prompt_tuning", _("This is a prompt-tuning adapter ({kind}), not LoRA.").format(kind=shape.peft_type),
                             _("Continue it with the program that made it.")))  # fmt: skip
    elif shape.peft_type != "LORA":
        found.append(Problem("other_adapter", _("This is an adapter of type {kind}, not LoRA.").format(kind=shape.peft_type[:40]),
                             _("Continue it with the program that made it.")))  # fmt: skip
    elif (why := why_not_trained(shape.raw) or _of_the_base(shape, names)) is not None:
        words = _("The adapter cannot be trained on here: {why}.").format(why=why[:300])
        found.append(Problem(NOT_CARRIED_ON, words, _("Continue it with the program that made it.")))
    mapping = shape.raw.get("auto_mapping")
    parent = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if mapping is not None and parent is not None and str(parent).partition(".")[0] not in TRUSTED_PARENTS:
        found.append(Problem(
            "adapter_config_imports",
            _("{name} names code to import ({code}); nothing is imported from a checkpoint.").format(
                name=CONFIG_NAME, code=str(parent)[:80]),
            _("Set auto_mapping to null if the base model is a plain transformers model."),
        ))  # fmt: skip
    if shape.raw.get("megatron_config") is not None:
        found.append(Problem(
            "adapter_config_imports",
            _("{name} is for Megatron layers and names a package to import; nothing is imported from a checkpoint.").format(
                name=CONFIG_NAME),
        ))  # fmt: skip
    return found


def _of_the_base(shape: AdapterShape, names: Sequence[str]) -> str | None:
    """Why tensors that are no adapter's speak against training on, in words: PEFT adds the embeddings to the file where the vocabulary
    grew. Nothing in the configuration asks for them, so no model that is built by it has a place for them. Those that an adapter is on
    are held against the base model once that is loaded."""
    whole = shape.raw.get("modules_to_save")
    named = whole if isinstance(whole, list) else []
    kept = [BASE_LAYER, *(f".{name}." for name in named if isinstance(name, str))]
    base = next((name for name in names if ".lora_" not in name and not any(one in f".{name}" for one in kept)), None)
    if base is None:
        return None
    return _("its file holds {tensor} too, weights of the base model that it was trained with").format(tensor=base[:120])


def read_adapter_config(path: Path) -> AdapterShape:
    """What the adapter_config.json `path` says. Raises Unsound."""
    raw = read_json(path)
    kind = raw.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise Unsound("adapter_config_invalid", _("{name} does not say what kind of adapter it is.").format(name=path.name))
    rank = count(raw.get("r"))
    if kind == "LORA" and not rank:
        raise Unsound("adapter_config_invalid", _("{name}: r is not a whole number from 1 on.").format(name=path.name))
    alpha = number(raw.get("lora_alpha"))
    if kind == "LORA" and alpha is None:
        raise Unsound("adapter_config_invalid", _("{name}: lora_alpha is not a number.").format(name=path.name))
    base = raw.get("base_model_name_or_path")
    base = base if isinstance(base, str) and base.strip() else None  # PEFT writes "" of a model that came from no folder
    return AdapterShape(kind, rank, alpha, _targets(raw.get("target_modules"), path.name), base, raw)


def _targets(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(sorted(set(value)))
    raise Unsound("adapter_config_invalid", _("{name}: target_modules is not a list of names.").format(name=name))


def tensor_shapes(path: Path, entry: Entry, verify: bool) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a weight file of either format, if it is sound. Raises Unsound."""
    return {name: size for name, (size, _kind) in _tensors(path, entry, verify).items()}


def _tensors(path: Path, entry: Entry, verify: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """(shape, format in safetensors' words) of each tensor, as `tensor_shapes`; a format that holds no fractions is told by torch's
    name for it where the file is torch's."""
    if entry.kind != "file":
        raise not_a_file(entry)
    if path.suffix == ".safetensors":
        return {name: (tensor.shape, tensor.dtype) for name, tensor in check_safetensors(path, finite=verify).items()}
    listed = check_torch_file(path, contents=verify).tensors
    last = {name: found[-1] for name, found in listed.items()}
    return {name: (one.shape, FLOATS.get(one.storage.kind, one.storage.kind)) for name, one in last.items()}


def _refuse_whole_numbers(kinds: Mapping[str, str], name: str) -> None:
    """Raise Unsound where an adapter's numbers have no fractions: all of them lie near zero, and rounded they are zero."""
    odd = next((tensor for tensor, kind in kinds.items() if ".lora_" in tensor and not FRACTIONS.match(kind)), None)
    if odd is not None:
        raise Unsound(
            "not_fractions",
            _("{name}: {tensor} holds {kind}, in which an adapter's small numbers are all zero.").format(
                name=name, tensor=odd[:120], kind=kinds[odd]
            ),
            _("It was converted by mistake; restore the file as it was saved, or take an earlier checkpoint."),
        )


def refuse_odd_lora(shapes: Shapes, shape: AdapterShape, name: str) -> None:
    """Raise Unsound where tensors do not make up the LoRA adapter that its configuration describes."""
    if not shapes:
        raise Unsound("adapter_empty", _("{name} holds no tensor.").format(name=name), _("Take an earlier checkpoint."))
    pattern = shape.raw.get("rank_pattern")
    ranks = {shape.r} | {count(value) for value in (pattern.values() if isinstance(pattern, dict) else ())}
    stacked = bool(shape.raw.get("target_parameters"))
    if shape.raw.get("lora_bias"):  # of lora_B alone
        shapes = {tensor: size for tensor, size in shapes.items() if not tensor.endswith(".bias")}
    pairs = 0
    for tensor, size in shapes.items():
        for one, other in PAIRS:
            if other in tensor and tensor.replace(other, one) not in shapes:
                raise _half(name, tensor, one)
            if one in tensor:
                pairs += 1
                partner = shapes.get(tensor.replace(one, other))
                if partner is None:
                    raise _half(name, tensor, other)
                agree = len(size) != 2 or len(partner) != 2 or size[0] == partner[1]
                if not agree or (len(size) == 2 and not stacked and size[0] not in ranks):
                    raise Unsound(
                        "rank_mismatch",
                        _("{name}: {tensor} has the shape {size}, which is not of rank {rank} as {config} says.").format(
                            name=name, tensor=tensor[:120], size=list(size), rank=shape.r, config=CONFIG_NAME
                        ),
                        _("The two files are not of the same run; restore the one that was replaced."),
                    )
    if not pairs:
        raise Unsound("adapter_empty", _("{name} holds no LoRA tensor.").format(name=name), _("Take an earlier checkpoint."))


def _half(name: str, tensor: str, partner: str) -> Unsound:
    return Unsound(
        "tensors_missing",
        _("{name}: {tensor} has no {partner} beside it.").format(
            name=name, tensor=tensor[:120], partner=partner.lstrip(".")
        ),
        _("Tensors were lost or renamed; copy the checkpoint again or take an earlier one."),
    )


def _missing(name: str) -> Unsound:
    return Unsound(
        "adapter_missing",
        _("{name} is missing.").format(name=name),
        _("The save was cut short, or the file was not copied; take an earlier checkpoint."),
    )


INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
FINITE_UP_TO = 2 * 2**30
"""Bytes of a whole model whose values are looked at; beyond, only headers and sizes, since it is not continued here anyway."""


def check_whole_model(folder: Path, entries: Mapping[str, Entry], verify: bool) -> Weights:
    """Judge the files of a whole model (no adapter)."""
    problems = [
        Problem(
            "whole_model",
            _("This is a checkpoint of a whole model, not of a LoRA adapter."),
            _("Continue it with the program that made it, or use it as the base model of a new run."),
        )
    ]
    files: tuple[str, ...] = ("config.json",)
    sound = True
    try:
        if "config.json" not in entries:
            raise Unsound("model_config_missing", _("{name} is missing.").format(name="config.json"))
        read_json(folder / "config.json")
        index = next((name for name in INDEXES if name in entries), None)
        shards = _shards(folder / index) if index else {name: None for name in WHOLE if name in entries}
        if not shards:
            raise Unsound("weights_missing", _("There is no file of weights."))
        files = (*files, *shards)
        for shard, expected in shards.items():
            if shard not in entries:
                raise Unsound("weights_missing", _("{name} is missing.").format(name=shard[:80]))
            found = tensor_shapes(folder / shard, entries[shard], verify and entries[shard].size <= FINITE_UP_TO)
            if expected is not None and not expected <= set(found):
                raise Unsound(
                    "tensors_missing", _("{name} lacks tensors that the index says it has.").format(name=shard[:80])
                )
    except Unsound as wrong:
        problems.append(wrong.problem)
        sound = False
    return Weights(sound, False, None, tuple(problems), files)


def _shards(path: Path) -> dict[str, set[str] | None]:
    """File -> tensor names, as the index says. Raises Unsound where it points anywhere but at files beside it."""
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise Unsound("index_invalid", _("{name} has no weight_map of names.").format(name=path.name))
    shards: dict[str, set[str] | None] = {}
    for tensor, shard in named.items():
        if PurePosixPath(shard).name != shard or "\\" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise Unsound(
                "index_escapes",
                _("{name} points outside the checkpoint ({target}); it was not followed.").format(
                    name=path.name, target=shard[:80]
                ),
            )
        tensors = shards.setdefault(shard, set())
        assert tensors is not None
        tensors.add(tensor)
    return shards
