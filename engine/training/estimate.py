"""Memory and disk of a run before it starts: arithmetic on what the files' headers say.

An estimate, and named one wherever it is shown. The parts are those that a person can do something about: weights (4 bit,
precision), adapter and optimizer (rank), activations and logits (batch size, length, activation checkpointing).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from engine.config import RunConfig
from engine.course.steps import chosen_batch_size
from engine.hardware import Hardware
from engine.i18n import _
from engine.models.report import ModelReport
from engine.training.attempt import Parallel

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HIDDEN_KEPT, INTERMEDIATE_KEPT = 17, 4
"""Values a token leaves in each layer for the backward pass, in units of the hidden and the intermediate size: the inputs of seven
linear layers, two norms with their float32 copies, rotated queries and keys, the attention's output; the gate before and after its
nonlinearity, what it gates, and their product. Counted in transformers' LlamaDecoderLayer with SDPA, held against
`python -m tests.bench memory`; Korthikanti et al. 2022 (arXiv 2205.05198) count 34 bytes in half precision."""
LAYERS_AT_ONCE = 5
"""Layers whose values are there at the peak with activation checkpointing: the one that is computed again, its gradients, and what the
allocator has not yet given back. Measured there."""
LOGIT_BYTES = {"cuda": 256 << 20, "mps": 64 << 20, "cpu": 64 << 20}
"""Of float32 logits alive at a time where they are computed at labels only (loss.py), by device. Fewer rows make the matrix product
slower, on a GPU the launches too; more make nothing faster."""
OVERHEAD = 570_000_000
"""Python, torch, transformers and their buffers; measured there."""
CUDA_LIBRARIES = 460_000_000
"""What a torch for CUDA, which is what PyPI has for Linux, maps into a process that trains on the processor; measured there too."""
TIGHT = 0.85
"""Share of the free memory from which on it is tight."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run at its peak, in parts."""

    weights: int
    adapter: int
    """The adapter in float32, its gradient and the two moments of AdamW."""
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.adapter + self.activations + self.logits + self.overhead


@dataclass(frozen=True)
class Fitted:
    """The batch that a run begins with, and whether it computes activations twice, each with its reason."""

    batch_size: int
    batch_reason: str
    checkpointing: bool
    checkpointing_reason: str
    memory: Memory | None
    """None: the model tells too little."""
    parallel: Parallel = "ddp"
    parallel_reason: str = ""
    fewer_times: int = 1
    """By how much the batch is smaller than the one that trains well; so many are added up, and the rows of a step stay."""

    def kept_rows(self, config: RunConfig) -> dict[str, int]:
        """The settings that keep the rows of a step where the batch had to be smaller."""
        if self.fewer_times == 1:
            return {}
        return {"batch_size": self.batch_size, "grad_accum": config.grad_accum * self.fewer_times}


class _Try(NamedTuple):
    """One way to train that may fit."""

    rows: int
    checkpointing: bool
    parts: int
    """Of the base model."""


def fit_batch(
    model: ModelReport,
    config: RunConfig,
    hardware: Hardware,
    rows: int,
    longest: int,
    free: int,
    saved: int | None,
    world: int = 1,
) -> Fitted:
    """The largest batch of up to 8 rows that fits into `free` bytes, by the estimate for rows of `longest` tokens.

    What was set is taken as it is, and a continued run keeps the batch it has (`saved`). Smaller batches come before activation
    checkpointing down to 2 rows, since it costs more time than they do; sharing the base model out among `world` processes comes last.
    """
    size, reason = chosen_batch_size(config, rows, saved)
    sizes = [size] if config.batch_size != "auto" or saved is not None else [size, *(one for one in (4, 2, 1) if one < size)]
    ways = [config.activation_checkpointing] if config.activation_checkpointing != "auto" else [False, True]
    pairs = [(one, bool(way)) for way in ways for one in sizes if way == ways[-1] or one >= 2 or one == sizes[0]]
    tried = [_Try(*pair, parts) for parts in parts_of(config, world) for pair in pairs]
    needs = {one: estimate_memory(model, config, hardware, one.rows, longest, one.checkpointing, one.parts) for one in tried}
    limit = int(TIGHT * free)
    chosen = next((one for one in tried if (need := needs[one]) is None or need.total <= limit), tried[-1])
    why = _("as set") if config.activation_checkpointing != "auto" else ""
    first, needed = tried[0], needs[tried[0]]
    if chosen != first and needed is not None:
        told = _("{rows} rows would need about {need:.1f} GB of {free:.1f} GB free").format(
            rows=first.rows, need=needed.total / 1e9, free=free / 1e9
        )
        reason = told if chosen.rows != first.rows else reason
        why = why or (told if chosen.checkpointing else "")
    return Fitted(
        batch_size=chosen.rows,
        batch_reason=reason,
        checkpointing=chosen.checkpointing,
        checkpointing_reason=why or _("it fits without"),
        memory=needs[chosen],
        parallel=_way(config) if chosen.parts > 1 else "ddp",
        parallel_reason=_("as set") if config.parallel != "auto" else told if chosen.parts > 1 else "",
        fewer_times=max(1, first.rows // chosen.rows),
    )


def parts_of(config: RunConfig, world: int) -> tuple[int, ...]:
    """Into how many parts the base model may be cut, in the order to be tried. 4-bit weights cannot be loaded in parts."""
    if world == 1 or config.parallel == "ddp" or config.load_in_4bit:
        return (1,)
    return (world,) if config.parallel != "auto" else (1, world)


def _way(config: RunConfig) -> Parallel:
    """How the base model is cut where it is."""
    return "fsdp2" if config.parallel == "auto" else config.parallel


def estimate_memory(
    model: ModelReport,
    config: RunConfig,
    hardware: Hardware,
    batch_size: int,
    length: int,
    checkpointing: bool = False,
    parts: int = 1,
) -> Memory | None:
    """The memory of a run whose batches have `batch_size` rows of at most `length` tokens. None where the model tells too little.

    `parts`: of so many processes each holds one part of the base model, and for a moment the whole of the embedding or of two layers.
    """
    if model.parameters is None or model.layers is None or model.hidden is None or model.vocabulary is None:
        return None
    each = BYTES[hardware.precision]
    tokens = batch_size * min(length, config.max_length)
    weights = int(model.parameters * (0.56 if config.load_in_4bit else each))
    if parts > 1:
        outer = model.vocabulary * model.hidden * each
        weights = weights // parts + max(outer, 2 * max(0, weights - 2 * outer) // model.layers) + outer
    kept = HIDDEN_KEPT * model.hidden + INTERMEDIATE_KEPT * (model.intermediate or 4 * model.hidden)
    layers = model.layers * kept
    if checkpointing:
        layers = min(layers, model.layers * model.hidden + LAYERS_AT_ONCE * kept)
    at_labels = config.logits == "labels" and hardware.precision != "float16"
    rows = min(tokens, logit_rows(model.vocabulary, hardware.device)) if at_labels else tokens
    return Memory(
        weights=weights,
        adapter=model.trainable(config.lora_r) * 16,
        activations=tokens * layers * each,
        # As the model gives them, in float32 where that is something else, and their softmax, which becomes the gradient.
        logits=rows * model.vocabulary * (each + (4 if each < 4 else 0) + 4),
        overhead=OVERHEAD + (CUDA_LIBRARIES if hardware.device == "cpu" and _brings_cuda() else 0),
    )


@cache
def _brings_cuda() -> bool:
    """Whether the torch that is installed is one for CUDA; nothing is imported for it."""
    found = importlib.util.find_spec("torch")
    return found is not None and found.origin is not None and (Path(found.origin).parent / "lib/libtorch_cuda.so").exists()


def logit_rows(vocabulary: int, device: str) -> int:
    """Rows of logits that are alive at a time on `device` (cuda | mps | cpu) where they are computed at labels only."""
    return max(1, LOGIT_BYTES[device] // (4 * vocabulary))


def checkpoint_bytes(model: ModelReport, rank: int) -> int:
    """Bytes of one checkpoint: the adapter and AdamW's two moments in float32, and a tokenizer of a few megabytes."""
    return model.trainable(rank) * 12 + 12_000_000
