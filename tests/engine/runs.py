"""Runs in this process, for tests that look at what a run did: same engine, no command line, no import cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.answers import gather
from engine.events import Event, RunStarted
from engine.journal import fold, read_journal
from engine.resume.plan import ResumePlan, plan_run
from engine.training.attempt import Outcome
from engine.training.trainer import Trainer


def plan(**flags: Any) -> ResumePlan:
    """What `lora-tui --yes` would do with these flags."""
    answers = gather({key: value if isinstance(value, tuple) else str(value) for key, value in flags.items()}, environ={})
    return plan_run(answers.resolved, answers.found)


def train(
    stop_at: int | None = None, watch: Callable[[Event], None] | None = None, **flags: Any
) -> tuple[Outcome, list[Event]]:
    """Plan and run. `stop_at`: stop and save when that step has been done."""
    events: list[Event] = []
    asked = 0

    def emit(event: Event, record: Any) -> None:
        events.append(event)
        if watch is not None:
            watch(event)

    def should_stop() -> str | None:
        # asked before the model is loaded and before the first step, then at the end of each step
        nonlocal asked
        asked += 1
        begun = next(event.step for event in events if isinstance(event, RunStarted))
        return "test" if stop_at is not None and asked > 2 and begun + asked - 2 >= stop_at else None

    outcome = Trainer(plan(**flags)).run(emit, should_stop)
    return outcome, events


def losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of the run in `folder`, attempts folded."""
    return [(row["step"], row["loss"]) for row in fold(read_journal(folder))]


def adapter_bytes(folder: Path) -> bytes:
    """The final adapter, for bit-for-bit comparison."""
    return (folder / "final" / "adapter_model.safetensors").read_bytes()


def receipt(events: list[Event]) -> dict[str, str]:
    """item -> verdict of the one receipt among `events`."""
    (found,) = [event for event in events if event.type == "resume_checked"]
    return {item["item"]: item["verdict"] for item in found.items}  # type: ignore[attr-defined]
