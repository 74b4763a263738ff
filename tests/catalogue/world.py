"""What the cases are made of: one stopped run, and what a case is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import build_tiny_model, chats, teach, write_jsonl
from tests.engine.runs import train

FLAGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "save_steps": 3,
    "keep": 9,
    "lora_dropout": 0.1,
}
NEWEST = "checkpoint-10"


@dataclass(frozen=True)
class World:
    """What the cases are made of."""

    model: Path
    other_model: Path
    data: Path
    run: Path
    """A run stopped at step 10 of 21, with checkpoints 3, 6, 9 and 10."""
    longer: Path
    """Another run, with another seed, that came further."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong, or a control."""

    name: str
    row: str
    """Number in the catalogue of public reports (issue threads); - for a control."""
    change: Callable[[World, Path], dict[str, Any] | None]
    """Changes the copy of the run; returns more flags for the start."""
    when: str
    """plan | receipt | save | step | -, the latest at which we must have told it; - where nothing is wrong."""
    goes_on: bool = False
    """Whether the run then goes on (from an earlier checkpoint, or with what was asked)."""
    fault: Callable[[World, Path], AbstractContextManager[Any]] = lambda world, run: contextlib.nullcontext()
    """What goes wrong while either side continues: in a library, or on the machine."""
    after: Callable[[Path], str] | None = None
    """Looks at the folder after the run has gone on, on both sides; what it says is part of the row."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Stock's words for what the case is about (SFTConfig)."""
    stock_rows: Callable[[Any], Any] | None = None
    """The same change on stock's side, of the tokenised rows, where ours ends before there are any."""


def build_world(folder: Path) -> World:
    model = teach(build_tiny_model(folder / "model"))
    other = teach(build_tiny_model(folder / "other-model", seed=1), steps=5)
    data = write_jsonl(folder / "chats.jsonl", chats(26))
    train(stop_at=10, dataset=data, model=model, output=folder / "run", **FLAGS)
    train(stop_at=14, dataset=data, model=model, output=folder / "longer", **{**FLAGS, "seed": 7})
    return World(model, other, data, folder / "run", folder / "longer")


def copy_of(world: World, name: str, side: str) -> Path:
    """A copy of the stopped run to make the case of this name in."""
    place = world.run.parent / f"{side} {name}".replace("/", " ")
    return Path(shutil.copytree(world.run, place / "run"))
