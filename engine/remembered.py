"""What the wizard remembers between two starts: the last answers, what was used lately, and how a person likes to look at it.

A convenience and never a truth: a file that is missing, damaged or of another version is taken for an empty one, and what was in
it is only ever offered. The one reader besides the wizard is `--yes --resume auto` without anything else (C1). It lies where the
platform keeps state; LORA_TUI_STATE names another folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.paths import path_of
from engine.sources import Source, problem_of

NAME = "wizard.json"
SCHEMA = 1
RECENT = 8
"""Datasets and models that are offered again."""
NOT_REMEMBERED = ("resume", "init_from", "accept")
"""Answers about one start, not about how a person trains."""


@dataclass(frozen=True)
class Remembered:
    """What was remembered."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    """Field of RunConfig -> value, as it was answered last."""
    datasets: tuple[str, ...] = ()
    """The latest first."""
    models: tuple[str, ...] = ()
    look: Mapping[str, str] = field(default_factory=dict)
    """theme, lang: how it is shown."""


def state_folder() -> Path:
    """Where it lies, and the wizard's own log."""
    import platformdirs

    named = os.environ.get("LORA_TUI_STATE")
    return (path_of(named) if named else platformdirs.user_state_path("lora-tui")).absolute()


def load_remembered() -> Remembered:
    """What was remembered; nothing where that cannot be read."""
    try:
        found = json.loads((state_folder() / NAME).read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            return Remembered()
        return Remembered(
            {name: value for name, value in found["answers"].items() if name in RunConfig.model_fields},
            tuple(str(one) for one in found["datasets"])[:RECENT],
            tuple(str(one) for one in found["models"])[:RECENT],
            {str(name): str(value) for name, value in found["look"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Remembered()


def save_remembered(remembered: Remembered) -> None:
    """Keep it. A folder that cannot be written costs the memory of this start and nothing else."""
    folder = state_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".{NAME}-{os.getpid()}"
        staging.write_text(json.dumps({"schema": SCHEMA, **asdict(remembered)}, ensure_ascii=False), encoding="utf-8")
        staging.replace(folder / NAME)


def after_run(remembered: Remembered, answers: Mapping[str, Any]) -> Remembered:
    """`remembered`, once a run was started with `answers`."""
    kept = {name: value for name, value in answers.items() if name not in NOT_REMEMBERED and value is not None}
    return replace(
        remembered,
        answers=kept,
        datasets=_first(answers.get("dataset"), remembered.datasets),
        models=_first(answers.get("model"), remembered.models),
    )


def usable(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the remembered `answers` that a run takes: another version may have written others, or a person."""
    return {name: value for name, value in answers.items() if problem_of(name, value) is None}


def source_remembered() -> Source | None:
    """The answers as a source of a headless run; None where nothing was remembered."""
    answers = usable(load_remembered().answers)
    return Source("remembered", "", answers) if answers else None


def _first(used: Any, recent: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(used, str):
        return recent
    return (used, *(one for one in recent if one != used))[:RECENT]
