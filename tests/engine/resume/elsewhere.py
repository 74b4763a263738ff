"""Runs that another tool made, and going on with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engine.runs import train


def go_on(run: Path, trainers: Path, model: Path, **flags: Any) -> list[Any]:
    """The events of a run of ours that goes on with the one in `run`, which another tool made."""
    _outcome, events = train(
        output=run, dataset=trainers / "data.jsonl", model=model, train_on="all", batch_size=4, learning_rate=5e-3, **flags
    )
    return events


def states_of(run: Path) -> list[Path]:
    """The trainer_state.json of each checkpoint in `run`."""
    return sorted(run.glob("checkpoint-*/trainer_state.json"))
