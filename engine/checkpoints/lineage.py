"""Which checkpoints of a folder belong to one run.

Runs share a folder more often than one would think (12 of 35 real ones looked at), and the highest number may well be an older
run's. Where run ids are recorded they decide. Without them the history does: each checkpoint carries the losses logged up to
it, so of two checkpoints of one run the shorter history is the beginning of the longer. A stem that several histories share
belongs to the longest. A checkpoint saved before anything was logged tells nothing by its losses; it goes to the run that was
planned alike (same length, same steps to an epoch), or stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import EQUALLY_FAR, distance

SAME_LOSS = 1e-3 + 1e-9
"""As of losses that were written with three digits, one of which differs."""
SAME_RATIO = 0.02
"""Steps to an epoch may differ by this share and still be the same plan (epochs are rounded in old logs)."""

Losses = tuple[tuple[int, float], ...]
_Plan = tuple[int, float]


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


@dataclass
class _Run:
    """The checkpoints of one run that were found so far."""

    members: list[Checkpoint]
    losses: Losses
    """The longest of theirs."""
    plans: set[_Plan]

    def add(self, checkpoint: Checkpoint, own: Losses) -> None:
        self.members.append(checkpoint)
        self.losses = max(self.losses, own, key=len)
        if (plan := _plan(checkpoint)) is not None:
            self.plans.add(plan)


def group(found: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """`found` sorted into runs, the run that came furthest first, each in order of step."""
    by_id: dict[str, _Run] = {}
    runs: list[_Run] = []
    without = [checkpoint for checkpoint in found if checkpoint.manifest is None]
    for checkpoint in found:
        if checkpoint.manifest is None:
            continue
        run = by_id.get(checkpoint.manifest.run_id)
        if run is None:
            run = by_id[checkpoint.manifest.run_id] = _Run([], (), set())
            runs.append(run)
        run.add(checkpoint, losses(checkpoint) if without else ())  # they tell where the others belong
    for checkpoint in sorted(without, key=lambda one: (_logged(one), _far(one)), reverse=True):
        own = losses(checkpoint)
        home = max((run for run in runs if _belongs(checkpoint, own, run)), key=lambda run: len(run.losses), default=None)
        if home is None:
            home = _Run([], (), set())
            runs.append(home)
        home.add(checkpoint, own)
    for run in runs:
        run.members.sort(key=lambda one: (one.step or 0, one.name))
    return sorted((run.members for run in runs), key=lambda members: max(_far(member) for member in members), reverse=True)


def losses(checkpoint: Checkpoint) -> Losses:
    """The training losses it carries, with their steps."""
    return tuple((row.step, row.loss) for row in checkpoint.history if row.loss is not None)


def _logged(checkpoint: Checkpoint) -> int:
    """How many training losses it carries."""
    return sum(row.loss is not None for row in checkpoint.history)


def is_beginning(shorter: Losses, longer: Losses) -> bool:
    """Whether `longer` begins with `shorter`: the same steps, losses equal within 1e-3."""
    if len(shorter) > len(longer) or (shorter and not _same(shorter[0], longer[0])):
        return False
    # Mostly they are the very same numbers, which is compared at once.
    return longer[: len(shorter)] == shorter or all(map(_same, shorter, longer))


def _same(one: tuple[int, float], other: tuple[int, float]) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= SAME_LOSS


def _belongs(checkpoint: Checkpoint, own: Losses, run: _Run) -> bool:
    if own:  # another tool may have gone on with the run, or its last manifest is lost: then the longer one is without
        return is_beginning(own, run.losses) or (bool(run.losses) and is_beginning(run.losses, own))
    plan = _plan(checkpoint)
    return plan is not None and any(_planned_alike(plan, other) for other in run.plans)


def _plan(checkpoint: Checkpoint) -> _Plan | None:
    """How many steps its run was to have, and how many make an epoch."""
    if checkpoint.max_steps is None or checkpoint.step is None or not checkpoint.epoch:
        return None
    return checkpoint.max_steps, checkpoint.step / checkpoint.epoch


def _planned_alike(one: _Plan, other: _Plan) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= SAME_RATIO * one[1]


def _far(checkpoint: Checkpoint) -> tuple[float | int | bool | str, ...]:
    """How far along it is; of two that are equally far neither comes first."""
    return distance(checkpoint)[:EQUALLY_FAR]
