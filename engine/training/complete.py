"""A run that has nothing left to train: see that its result lies there, and say what it is worth.

The final adapter is written after the last checkpoint. A kill in between leaves a run that is complete but has no final folder, or
still has the one from before it was extended; that is mended here from the checkpoint, byte for byte, without loading a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.commit import leftovers, made_in, sweep
from engine.checkpoints.verified import copy_plain_files, private_copy
from engine.course.advice import advise_by
from engine.durable import STAGING_PREFIX
from engine.events import RunFinished
from engine.folder import FINAL
from engine.lock import locked, unwritable
from engine.resume.off_path import off_path
from engine.resume.plan import ResumePlan

NOT_FINAL = ("manifest.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", "training_args.bin")
"""Files of a checkpoint that belong to continuing, not to the result; random states (rng_state*) too."""


def conclude(plan: ResumePlan, held: bool = False) -> RunFinished:
    """What a complete run came to. `held`: whether the caller holds the folder already. Raises OutputError where it is busy, or its
    final adapter cannot be written."""
    checkpoint = plan.checkpoint
    assert plan.mode == "complete" and checkpoint is not None
    final = plan.output_dir / FINAL
    if not _is_of(final, checkpoint) or leftovers(plan.output_dir):
        with contextlib.nullcontext() if held else locked(plan.output_dir):
            try:
                sweep(plan.output_dir)
                if not _is_of(final, checkpoint):
                    _write(final, checkpoint)
            except OSError as error:
                raise unwritable(plan.output_dir, error) from error
    advice = advise_by(
        plan.config,
        [row.loss for row in checkpoint.history if row.loss is not None],
        [row.eval_loss for row in checkpoint.history if row.eval_loss is not None],
        off_path(checkpoint) is not None,
    )
    return RunFinished(
        checkpoint.step or 0, checkpoint.epoch or 0.0, checkpoint.loss, checkpoint.eval_loss, 0.0, str(final),
        {"state": advice.state, "message": advice.message},
    )  # fmt: skip


def _is_of(final: Path, checkpoint: Checkpoint) -> bool:
    """Whether `final` holds the weights of `checkpoint`."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        ours, theirs = final / name, checkpoint.path / name
        if theirs.is_file():
            return ours.is_file() and _sha256(ours) == _sha256(theirs)
    return False


def _write(final: Path, checkpoint: Checkpoint) -> None:
    with (
        made_in(final.parent / f"{STAGING_PREFIX}final-{os.getpid()}", final) as staging,
        private_copy(checkpoint, final.parent) as source,
    ):
        states = tuple(path.name for path in source.iterdir() if path.name.startswith("rng_state"))
        copy_plain_files(source, staging, (*NOT_FINAL, *states))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
