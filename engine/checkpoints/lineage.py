"""Which checkpoints of a folder belong to one run.

Runs share a folder more often than one would think (12 of 35 real ones looked at), and the highest number may well be an older
run's. Where run ids are recorded they decide. Without them the history does: each checkpoint carries the losses logged up to
it, so of two checkpoints of one run the shorter history is the beginning of the longer. A stem that several histories share
belongs to the longest. A checkpoint saved before anything was logged tells nothing by its losses; it goes to the run that was
planned alike (same length, same steps to an epoch), or stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.checkpoints.checkpoint import Checkpoint

SAME_LOSS = 1e-3
SAME_RATIO = 0.02
"""Steps to an epoch may differ by this share and still be the same plan (epochs are rounded in old logs)."""

Losses = tuple[tuple[int, float | None], ...]


def assign_runs(found: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """`found` in the same order, each with the id of its run: the recorded one, else run-1, run-2, ... from the furthest on."""
    groups = group(found)
    taken = {checkpoint.manifest.run_id for checkpoint in found if checkpoint.manifest is not None}
    names = (name for number in range(1, len(found) + len(taken) + 2) if (name := f"run-{number}") not in taken)
    ids: dict[str, str] = {}
    for members in groups:
        recorded = next((member.manifest.run_id for member in members if member.manifest is not None), None)
        run = recorded if recorded is not None else next(names)
        ids.update({member.name: run for member in members})
    return tuple(replace(checkpoint, run=ids[checkpoint.name]) for checkpoint in found)


def group(found: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """`found` sorted into runs, the run that came furthest first, each in order of step."""
    by_id: dict[str, list[Checkpoint]] = {}
    groups: list[list[Checkpoint]] = []
    without: list[Checkpoint] = []
    for checkpoint in found:
        if checkpoint.manifest is None:
            without.append(checkpoint)
        elif checkpoint.manifest.run_id in by_id:
            by_id[checkpoint.manifest.run_id].append(checkpoint)
        else:
            by_id[checkpoint.manifest.run_id] = [checkpoint]
            groups.append(by_id[checkpoint.manifest.run_id])
    for checkpoint in sorted(without, key=lambda one: (len(losses(one)), _distance(one)), reverse=True):
        home = max((members for members in groups if _belongs(checkpoint, members)), key=_length, default=None)
        if home is None:
            groups.append([checkpoint])
        else:
            home.append(checkpoint)
    for members in groups:
        members.sort(key=lambda one: (one.step or 0, one.name))
    return sorted(groups, key=lambda members: max(_distance(member) for member in members), reverse=True)


def losses(checkpoint: Checkpoint) -> Losses:
    """The training losses it carries, with their steps."""
    return tuple((row.step, row.loss) for row in checkpoint.history if row.loss is not None)


def is_beginning(shorter: Losses, longer: Losses) -> bool:
    """Whether `longer` begins with `shorter`: the same steps, losses equal within 1e-3."""
    return len(shorter) <= len(longer) and all(
        step == other_step and loss is not None and other is not None and abs(loss - other) <= SAME_LOSS
        for (step, loss), (other_step, other) in zip(shorter, longer, strict=False)
    )


def _belongs(checkpoint: Checkpoint, members: Sequence[Checkpoint]) -> bool:
    own = losses(checkpoint)
    if own:
        return is_beginning(own, max((losses(member) for member in members), key=len))
    return checkpoint.step is not None and any(_planned_alike(checkpoint, member) for member in members)


def _planned_alike(one: Checkpoint, other: Checkpoint) -> bool:
    if one.max_steps is None or one.max_steps != other.max_steps or not one.epoch or not other.epoch:
        return False
    ratio = (one.step or 0) / one.epoch
    return abs(ratio - (other.step or 0) / other.epoch) <= SAME_RATIO * ratio


def _length(members: Sequence[Checkpoint]) -> int:
    return max(len(losses(member)) for member in members)


def _distance(checkpoint: Checkpoint) -> tuple[float, int]:
    return (
        checkpoint.epoch if checkpoint.epoch is not None else -1.0,
        checkpoint.step if checkpoint.step is not None else -1,
    )
