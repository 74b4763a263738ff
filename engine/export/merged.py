"""The adapter folded into its base: one model that needs no PEFT.

PEFT merges (it knows LoRA, rsLoRA, DoRA and the patterns), in float32 so that a low precision rounds once, at the end. Then it is
checked twice, because a wrong merge looks like a model: the logits of the merged model against those of base and adapter, and tensors
read back from the written files against base + scaling x BA, computed here from the two inputs' files alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.verified import private_copy
from engine.errors import ModelError
from engine.export.card import model_card
from engine.export.loading import answer_ends, load_adapted, tokenizer_of
from engine.export.place import staged
from engine.export.samples import trained_as
from engine.export.source import ExportSource
from engine.i18n import _
from engine.models.folder import loaded_weights, weight_files
from engine.sizes import size_words

TOLERANCE = 1e-5
"""Largest logit difference in float32, relative to the largest logit where that is above 1: merging reorders sums, no more."""
SAMPLED = 8
"""Tensors that are recomputed; spread evenly over the adapter."""
ULPS = {"float32": 2**-20, "float16": 2**-10, "bfloat16": 2**-7}
"""Allowed relative error of a written tensor: its precision's last place, doubled; in float32 what a sum of products may lose."""
SHARD = "4GB"
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "tok_embeddings", "embeddings")
"""What the model families call their input and output embeddings."""


@dataclass(frozen=True)
class Checks:
    """What a merge was found to be."""

    dtype: str
    """It was written in."""
    logits_differ: float
    """Largest difference between the logits of base + adapter and of the merged model, in float32."""
    tensors_checked: int
    """Written tensors that were held against base + scaling x BA. 0: their names in the files are not those in memory, or
    the adapter is DoRA, for which the logits alone speak."""
    untied: bool
    """Whether input and output embeddings were one tensor and had to become two."""


@dataclass(frozen=True)
class Merged:
    """What was written, and what its checks found."""

    path: Path
    checks: Checks


def export_merged(source: ExportSource, into: Path) -> Merged:
    """Merge and write under `into`. Raises OutputError (also: no room), ModelError, CannotContinue."""
    with (
        staged(into, "merged", merged_bytes(source) + 2 * source.adapter.bytes) as (staging, target),
        private_copy(source.adapter, into) as copy,
    ):
        checked = write_merged(source, copy, staging)
        (staging / "README.md").write_text(model_card(source, merged=True), encoding="utf-8")
    return Merged(target, checked)


def merged_bytes(source: ExportSource) -> int:
    """Bytes that the merged model of `source` takes on the disk, with something to spare."""
    return int(1.1 * sum(path.stat().st_size for path in loaded_weights(source.base)))


def write_merged(
    source: ExportSource, copy: Path, folder: Path, look: Callable[[Any, Any], None] = lambda model, tokenizer: None
) -> Checks:
    """Merge and write model and tokenizer into `folder`, checked. `look` sees base and adapter, in float32, and the tokenizer before
    they are merged. Raises ModelError or CannotContinue."""
    dtype, differ, untied = _merge(source, copy, folder, look)
    return Checks(dtype, differ, _check_written(source, copy, folder, dtype), untied)


def _merge(source: ExportSource, copy: Path, staging: Path, look: Callable[[Any, Any], None]) -> tuple[str, float, bool]:
    """(dtype written, logits' difference, untied?)"""
    import torch

    from engine.hardware import Hardware
    from engine.models.folder import save_tokenizer

    dtype = stored_dtype(source.base)
    need_memory(source, dtype)
    untied = False

    def prepare(base: Any, wanted: Any) -> None:
        nonlocal untied
        names = {*(wanted.target_modules or ()), *(wanted.modules_to_save or ())}
        untied = _changes_embeddings(base, names) and _untie(base)

    model = load_adapted(source, copy, Hardware("cpu", "", "float32", ""), prepare)
    tokenizer = tokenizer_of(source, copy)
    look(model, tokenizer)
    ids = torch.arange(48).reshape(2, 24) * 7919 % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        merged = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=ids).logits
    differ = float((before - after).abs().max())
    if not differ <= TOLERANCE * max(1.0, float(before.abs().max())):
        raise ModelError(
            _("{path}: the merged model does not answer as base and adapter do").format(path=source.base),
            _("The logits differ by {difference:.3g}. Nothing was written.").format(difference=differ),
            _("Export the adapter instead (--to adapter)."),
        )
    # Whatever loads the folder stops there without being told.
    ends = answer_ends(merged, tokenizer, trained_as(source, tokenizer).plain)
    merged.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0] if ends else None
    merged.to(getattr(torch, dtype)).save_pretrained(staging, max_shard_size=SHARD)
    save_tokenizer(tokenizer, staging)
    return dtype, differ, untied


def need_memory(source: ExportSource, dtype: str) -> None:
    """The base in float32 must fit: a machine that swaps through a merge looks dead for an hour. Raises ModelError."""
    from engine.hardware import free_memory

    need = sum(path.stat().st_size for path in loaded_weights(source.base)) * (4 if dtype == "float32" else 8) // 4
    free, _total = free_memory("cpu")
    if free < need:
        raise ModelError(
            _("{path}: too large to be merged with the memory that is free").format(path=source.base),
            _("In float32 it takes {need}; {free} are free.").format(need=size_words(need), free=size_words(free)),
            _("Close other programs, or export the adapter (--to adapter) and merge it on a larger machine."),
        )


def stored_dtype(base: Path) -> str:
    """The precision the base is stored in; float32 where its config.json does not say."""
    from engine.models.folder import read_model_config

    config = read_model_config(base)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and (name := part.get("dtype") or part.get("torch_dtype")) in ULPS:
            return str(name)
    return "float32"


def embeddings_among(names: Iterable[str]) -> list[str]:
    """Those of the module names that are input or output embeddings, sorted."""
    return sorted(name for name in names if name.rpartition(".")[2] in EMBEDDINGS)


def _changes_embeddings(model: Any, names: Iterable[str]) -> bool:
    """Whether an adapter on the modules of these names reaches the input or output embeddings of `model`, whatever it calls them."""
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    own = [f".{name}" for name, module in model.named_modules() if any(module is one for one in embeddings)]
    return any(one.endswith(f".{name}") for one in own for name in names)


def _untie(model: Any) -> bool:
    """Give the output embedding its own tensor where it shares the input's: an adapter on one must not reach the other."""
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model._tied_weights_keys = None
    model.all_tied_weights_keys = {}
    return True


def _check_written(source: ExportSource, copy: Path, staging: Path, dtype: str) -> int:
    """How many sampled tensors of the written files were found to be base + scaling x BA. Raises ModelError where one is not."""
    import torch
    from safetensors import safe_open

    config = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))
    weights = copy / "adapter_model.safetensors"
    if config.get("use_dora") or not weights.is_file():
        return 0
    checked = 0
    with ExitStack() as open_files, torch.no_grad():
        adapter = open_files.enter_context(safe_open(weights, "pt"))
        base, written = ({name: file for path in weight_files(folder) if path.suffix == ".safetensors"
                          for file in [open_files.enter_context(safe_open(path, "pt"))] for name in file.keys()}  # noqa: SIM118
                         for folder in (source.base, staging))  # fmt: skip
        pairs = sorted(name for name in adapter.keys() if name.endswith(".lora_A.weight"))  # noqa: SIM118
        for name in _spread(pairs):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            tensor = f"{module}.weight"
            if tensor not in base or tensor not in written:
                continue
            a, b = (adapter.get_tensor(name.replace("lora_A", one)).double() for one in ("lora_A", "lora_B"))
            delta = scaling(config, module) * (b @ a)
            expected = base[tensor].get_tensor(tensor).double() + (delta.T if config.get("fan_in_fan_out") else delta)
            found = written[tensor].get_tensor(tensor).double()
            if not float((found - expected).abs().max()) <= ULPS[dtype] * max(1e-3, float(expected.abs().max())):
                raise ModelError(
                    _("{tensor}: was written wrong").format(tensor=tensor),
                    _("It is not base + scaling x BA within the precision of {dtype}.").format(dtype=dtype),
                    _("Nothing was kept. Please report this with the adapter_config.json."),
                )
            checked += 1
    return checked


def _spread(names: list[str]) -> Iterator[str]:
    count = min(SAMPLED, len(names))
    return (names[index * (len(names) - 1) // max(1, count - 1)] for index in range(count))


def scaling(config: dict[str, Any], module: str) -> float:
    """The factor before BA of `module`: alpha / r, with rsLoRA alpha / sqrt(r) (Kalajdzievski 2023), r and alpha by their patterns."""
    r, alpha = (
        next(
            (value for key, value in (config.get(pattern) or {}).items() if f".{module}".endswith(f".{key}")), config[plain]
        )
        for pattern, plain in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    return float(alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r)
