"""What `check` says of an output folder, as plain JSON values (contract C4).

The one place where a scan becomes the document that scripts read; the table for people shows the same document, so the two
cannot disagree. Numbers that are not finite become null, since JSON has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.choose import Choice, choose, distance
from engine.checkpoints.scan import Scan
from engine.clock import moment
from engine.config import RunConfig
from engine.course.advice import advise_by
from engine.course.jumps import jumps_in
from engine.errors import ConfigError
from engine.folder import source_of_run
from engine.resume.off_path import off_path
from engine.sources import resolve

SCHEMA = 1


def check_report(scan: Scan, choice: Choice | None = None) -> dict[str, Any]:
    """The document for `scan`. `choice`: what would be continued; by default the furthest of all."""
    choice = choice if choice is not None else choose(scan.checkpoints)
    return {
        "schema": SCHEMA,
        "output_dir": _text(str(scan.output_dir)),
        "recommended": choice.checkpoint.name if choice.checkpoint is not None else None,
        "reason": _text(choice.reason),
        "runs": [
            {"id": run, "checkpoints": [member.name for member in members]}
            for run, members in runs_of(scan.checkpoints).items()
        ],
        "checkpoints": [checkpoint_report(checkpoint) for checkpoint in scan.checkpoints],
        "ignored": [{"name": _text(one.name), "reason": _text(one.reason)} for one in scan.ignored],
        "jumps": _jumps(scan.checkpoints),
        "advice": _advice(scan.output_dir, choice.checkpoint or _furthest_sound(scan.checkpoints)),
    }


def runs_of(checkpoints: Sequence[Checkpoint]) -> dict[str, list[Checkpoint]]:
    """The checkpoints by run, each in order of step; the run that came furthest first."""
    runs: dict[str, list[Checkpoint]] = {}
    for checkpoint in sorted(checkpoints, key=distance, reverse=True):
        runs.setdefault(checkpoint.run, []).insert(0, checkpoint)
    return runs


def checkpoint_report(checkpoint: Checkpoint) -> dict[str, Any]:
    """One checkpoint."""
    return {
        "name": checkpoint.name,
        "path": _text(str(checkpoint.path)),
        "step": checkpoint.step,
        "epoch": _number(checkpoint.epoch),
        "loss": _number(checkpoint.loss),
        "eval_loss": _number(checkpoint.eval_loss),
        "max_steps": checkpoint.max_steps,
        "total_epochs": _rounded(checkpoint.planned_epochs),
        "remaining_epochs": _rounded(checkpoint.remaining_epochs),
        "grade": str(checkpoint.grade),
        "run": checkpoint.run,
        "made_by": checkpoint.made_by,
        "saved_at": saved.isoformat() if (saved := moment(checkpoint.saved_at, UTC)) is not None else None,
        "bytes": checkpoint.bytes,
        "continuable": checkpoint.continuable,
        "problems": [
            {"code": problem.code, "message": _text(problem.message), "fix": _text(problem.fix)}
            for problem in checkpoint.problems
        ],
    }


def _jumps(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """The jumps of each run, as its longest history tells them."""
    found: list[dict[str, Any]] = []
    for run, members in runs_of(checkpoints).items():
        longest = max(members, key=lambda member: len(member.history))
        for jump in jumps_in(longest.history):
            found.append({"run": run, "step": jump.step, "from": _number(jump.before), "to": _number(jump.after),
                          "ratio": _number(jump.ratio), "at_resume": jump.at_resume})  # fmt: skip
    return found


def _furthest_sound(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    return max((one for one in checkpoints if one.grade is not Grade.BROKEN), key=distance, default=None)


def _advice(output_dir: Path, checkpoint: Checkpoint | None) -> dict[str, str]:
    """What the loss means, by the bounds that the run in this folder was given."""
    try:
        own = source_of_run(output_dir)
        config = resolve([own] if own is not None else []).config
    except ConfigError:  # a damaged run.toml is told when the run is continued; the checkpoints can be listed without it
        config = RunConfig()
    history = checkpoint.history if checkpoint is not None else ()
    advice = advise_by(
        config,
        [row.loss for row in history if row.loss is not None],
        [row.eval_loss for row in history if row.eval_loss is not None],
        checkpoint is not None and off_path(checkpoint) is not None,
    )
    return {"state": advice.state, "message": advice.message}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(epochs: float | None) -> float | None:
    """What was computed of `epochs`, without the digits that only the computing made."""
    return round(known, 4) if (known := _number(epochs)) is not None else None


def _text(text: str) -> str:
    """`text` as valid Unicode: a file name that is none keeps its odd bytes as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
