"""What is decided of one attempt before its model is loaded, and how one ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # whoever only asks how a run ended needs none of it
    from engine.config import RunConfig
    from engine.course.steps import Length, Position
    from engine.hardware import Hardware
    from engine.resume.plan import ResumePlan
    from engine.training.material import Material

Parallel = Literal["ddp", "fsdp2", "deepspeed"]
"""What each of several processes holds of the base model: the whole (ddp), or a part of it (parts.py)."""

ShouldStop = Callable[[], str | None]
"""Asked between steps; the reason to stop, or None to go on."""


class CountedOtherTokens(Exception):
    """The run that is gone on with was trained on other tokens than `--train-on auto` would take: go on with `train_on`."""

    def __init__(self, train_on: str, why: str) -> None:
        self.train_on, self.why = train_on, why
        super().__init__(why)


@dataclass(frozen=True)
class Attempt:
    """The rows to train on, where to begin, and each choice that the machine had a part in."""

    plan: ResumePlan
    """Its configuration has these choices in it."""
    material: Material
    hardware: Hardware
    start: Position
    length: Length
    batch_size: int
    at_labels: bool
    """Logits at labels only (loss.py)."""
    fused: bool
    """Layer and adapter in one pass (lora_kernel.py)."""
    parallel: Parallel
    choices: Mapping[str, str]
    """All of them as a person reads them: name -> "choice · reason"."""

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    @property
    def sharded(self) -> bool:
        """Whether each process holds only its part of the base model."""
        return self.parallel != "ddp"

    @property
    def continued(self) -> bool:
        """Whether everything of a checkpoint is restored, not its weights only."""
        return self.plan.mode == "continue"

    @property
    def precision(self) -> str:
        """The name of the number format for tolerances."""
        return "4bit" if self.config.load_in_4bit else self.hardware.precision


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did not fail."""

    state: Literal["finished", "stopped", "jumped"]
    """jumped: the loss left its path, and --on-jump says that this attempt ends with it."""
    step: int
    loss: float | None
    good: str | None = None
    """jumped: the checkpoint in the run's folder to go back to; None where there is none."""
    set_aside: tuple[str, ...] = ()
    """jumped: checkpoints from after it, now in the folder's .trash."""
    epoch: float = 0.0
