"""What is known of one checkpoint folder. Plain data: the same object reaches the browser, `check`, the plan and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from engine.checkpoints.manifest import Manifest

ROUNDED = 0.02
"""How far an epoch may be off, as a share: old versions of Trainer round it."""


class Grade(StrEnum):
    """How far a checkpoint can be trusted (C4)."""

    PROVEN = "proven"
    COMPLETE = "complete"
    WEIGHTS_ONLY = "weights-only"
    BROKEN = "broken"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `code` is stable, for scripts; `message` and `fix` are for people."""

    code: str
    message: str
    fix: str = ""


class LogRow(NamedTuple):
    """One row of a Trainer's log_history. Numbers that were missing or not finite are None."""

    step: int
    epoch: float | None
    loss: float | None
    eval_loss: float | None
    learning_rate: float | None


@dataclass(frozen=True)
class AdapterShape:
    """What adapter_config.json says of the adapter: enough to tell whether it can belong to a run."""

    peft_type: str
    r: int | None
    lora_alpha: float | None
    target_modules: tuple[str, ...]
    """Sorted; a pattern or all-linear stands as the only entry."""
    base_model: str | None
    raw: dict[str, Any]
    """The whole adapter_config.json, as parsed."""


@dataclass(frozen=True)
class Checkpoint:
    """One folder named checkpoint-<number>, as found."""

    name: str
    path: Path
    grade: Grade
    run: str
    """Id of the run it belongs to: the manifest's run id, else one given by lineage."""
    made_by: str
    """lora-tui, Trainer, ... ; unknown where nothing tells."""
    step: int | None
    """Optimizer steps done, from the state inside, never from the name. None: no readable state."""
    epoch: float | None
    loss: float | None
    """The last training loss logged at or before `step`."""
    eval_loss: float | None
    max_steps: int | None
    total_epochs: float | None
    saved_at: float | None
    """Unix seconds; shown, never used to rank."""
    bytes: int
    """Sum of the sizes of the files in it."""
    files: tuple[tuple[str, int], ...]
    """(name, bytes) of the plain files in it, by name."""
    continuable: bool
    """Whether everything an exact continuation needs is here and sound."""
    problems: tuple[Problem, ...]
    history: tuple[LogRow, ...]
    adapter: AdapterShape | None
    manifest: Manifest | None
    batch_size: int | None = None
    """Rows at a time on a device, where Trainer wrote it down."""

    @property
    def was_limited(self) -> bool:
        """Whether another tool's run was to end before its last epoch did: at a number of steps, or a part of an epoch. Trainer writes
        the epochs rounded up to whole ones, and the steps as they are; of a stream, which has no epochs, the steps alone."""
        if self.manifest is not None or not self.step or not self.epoch or self.max_steps is None:
            return False
        return self.total_epochs is None or self.max_steps < (1 - ROUNDED) * self.total_epochs * self.step / self.epoch

    @property
    def planned_epochs(self) -> float | None:
        """Epochs of the whole run as it was planned when this was saved; None where that is unknown."""
        if self.was_limited and self.step and self.epoch and self.max_steps:
            return self.max_steps * self.epoch / self.step
        return self.total_epochs

    @property
    def remaining_epochs(self) -> float | None:
        """Epochs left of it; None where that is unknown. Of another tool's run nothing is left once its steps are done, whatever its
        epoch says to the last digit."""
        if self.epoch is None or self.planned_epochs is None:
            return None
        if self.manifest is None and self.max_steps is not None and (self.step or 0) >= self.max_steps:
            return 0.0
        return max(0.0, self.planned_epochs - self.epoch)
