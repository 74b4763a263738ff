"""A run that has nothing left to train: see that its result lies there, and say what it is worth.

The final adapter is written after the last checkpoint. A kill in between leaves a run that is complete but has no final folder, or
still has the one from before it was extended; that is mended here from the checkpoint, byte for byte, without loading a model.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from engine.checkpoints.adapter import CONFIG_NAME, WEIGHTS
from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.commit import leftovers, made_in, sweep
from engine.checkpoints.verified import copy_plain_files, private_copy
from engine.course.advice import advise_by
from engine.durable import STAGING_PREFIX, sha256_of
from engine.events import RunFinished
from engine.folder import FINAL
from engine.lock import locked, unwritable
from engine.paths import is_file
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
    """Whether `final` holds the adapter of `checkpoint`, and of what else belongs to the result no file is missing or empty. What a
    person has changed in the tokenizer's files or the model card stays as it is."""
    names = {name for name, _size in checkpoint.files if not only_continues(name)} - {"README.md"}
    adapter = names & {*WEIGHTS, CONFIG_NAME}
    return (
        all(is_file(final / name) and (final / name).stat().st_size > 0 for name in names)
        and bool(adapter & {*WEIGHTS})
        and all(sha256_of(final / name) == sha256_of(checkpoint.path / name) for name in adapter)
    )


def only_continues(name: str) -> bool:
    """Whether the file `name` of a checkpoint belongs to continuing alone."""
    return name in NOT_FINAL or name.startswith("rng_state")


def _write(final: Path, checkpoint: Checkpoint) -> None:
    with (
        made_in(final.parent / f"{STAGING_PREFIX}final-{os.getpid()}", final) as staging,
        private_copy(checkpoint, final.parent) as source,
    ):
        copy_plain_files(source, staging, tuple(path.name for path in source.iterdir() if only_continues(path.name)))
