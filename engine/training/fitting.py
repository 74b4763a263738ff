"""When the device's memory does not hold a batch: fewer rows at a time, the same rows a step.

`--batch-size auto` begins with what trains well and halves it where the device says no. Gradients of more, smaller batches are
added up instead, so the rows of a step, and with them the learning rate's meaning, stay. What was found is written into run.toml
like an answer and so is kept when the run goes on (transformers 25956: a size found anew each time ended runs at once).
"""

from __future__ import annotations

import dataclasses
import gc

from engine.config import RunConfig
from engine.errors import LoraTuiError
from engine.hardware import Hardware, free_memory
from engine.i18n import _
from engine.models.report import model_report
from engine.resume.plan import ResumePlan, resumed
from engine.training.estimate import estimate_memory

WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""CUDA's, MPS's and the CPU allocator's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory was used up."""
    if isinstance(error, LoraTuiError):
        return False
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(
        word in str(error).lower() for word in WORDS)  # fmt: skip


def smaller(batch_size: int, grad_accum: int) -> tuple[int, int] | None:
    """The next smaller (rows at a time, batches a step) whose product is the same; None where one row is too much already."""
    for rows in range(batch_size // 2, 0, -1):
        if batch_size % rows == 0:
            return rows, grad_accum * (batch_size // rows)
    return None


def replanned(plan: ResumePlan, batch_size: int, grad_accum: int) -> ResumePlan:
    """`plan` with this geometry, from the furthest that the run has saved by now. Raises CannotContinue."""
    config = plan.config.model_copy(update={"batch_size": batch_size, "grad_accum": grad_accum})
    return resumed(dataclasses.replace(plan, config=config))


def let_go() -> None:
    """Give memory back that nothing holds any more: a failed attempt leaves cycles, and a GPU's allocator keeps its blocks."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def used_up(config: RunConfig, hardware: Hardware | None, batch_size: int, longest: int, words: str) -> LoraTuiError:
    """The error for memory that does not suffice: what was estimated, in the parts that a person can make smaller."""
    lower = (
        _(
            "Lower --batch-size (with a higher --grad-accum the steps stay the same) or --max-length, or try "
            "--activation-checkpointing or --load-in-4bit; then continue with --resume auto."
        )
        if batch_size > 1
        else _(
            "One row at a time is too much already: lower --max-length or --lora-r, or try --activation-checkpointing or "
            "--load-in-4bit; then continue with --resume auto."
        )
    )
    detail = words
    report = model_report(str(config.model))
    memory = None
    if hardware is not None and report.stopped is None:
        memory = estimate_memory(report, config, hardware, batch_size, longest)
    if memory is not None and hardware is not None:
        free, total = free_memory(hardware.device)
        detail = _(
            "Estimated at the peak: {all:.1f} GB for {rows} x {tokens} tokens (weights {weights:.1f}, activations {activations:.1f}, "
            "logits {logits:.1f}, adapter {adapter:.1f}); the device has {total:.1f} GB, {free:.1f} free.\n{words}"
        ).format(
            all=memory.total / 1e9,
            rows=batch_size,
            tokens=longest,
            weights=memory.weights / 1e9,
            activations=memory.activations / 1e9,
            logits=memory.logits / 1e9,
            adapter=memory.adapter / 1e9,
            total=total / 1e9,
            free=free / 1e9,
            words=words,
        )
    return LoraTuiError(_("the memory of the device is used up"), detail, lower)
