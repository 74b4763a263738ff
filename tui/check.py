"""`lora-tui check OUT`: what is in an output folder, what would be continued, and what is wrong with the rest.

The engine makes the document (engine/resume/report.py); here it is printed, as JSON for scripts or as a table for people.
Loads neither torch nor the wizard, so that it answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.checkpoints.adapter import CONFIG_NAME
from engine.checkpoints.choose import Choice
from engine.checkpoints.scan import scan_many
from engine.checkpoints.state import STATE_NAME
from engine.i18n import _, sentences
from engine.paths import is_file
from engine.resume.recommend import recommend
from engine.resume.report import check_report
from engine.sizes import loss_words, size_words
from tui import breaking
from tui.plain import visible

CONTINUABLE, NOTHING = 0, 3
"""Exit codes (contract C4)."""
MARK = ">"
"""Stands before the recommended checkpoint, so that it is marked without colour too."""


def run_check(out: str, as_json: bool, full: bool = False) -> int:
    """Print what is in the folder `out`; the exit code. `full`: look at every byte again, also of what was judged before and not
    touched since. Raises ConfigError where there is no such folder."""
    found = scan_many(Path(out), full)
    choice = recommend(found)
    if not found.checkpoints and any(is_file(Path(out) / name) for name in (STATE_NAME, CONFIG_NAME)):
        words = _("This folder is a checkpoint itself; check the one it is in: {parent}")
        choice = replace(choice, reason=words.format(parent=Path(out).resolve().parent))
    report = check_report(found, choice)
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2, allow_nan=False) + "\n")
    else:
        _print(report, choice)
    return CONTINUABLE if choice.checkpoint is not None else NOTHING


def _print(report: dict[str, Any], choice: Choice) -> None:
    from rich.text import Text

    console = breaking.console()
    if report["checkpoints"]:
        console.print(_table(report))
    for line, style in _lines(report, choice):
        console.print(Text(visible(line, keep_lines=True), style=style), soft_wrap=False)


def _table(report: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column(_("name"), overflow="fold")
    for title in (_("epoch"), _("step"), _("loss"), _("eval")):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(_("grade"), no_wrap=True)
    table.add_column(_("run"), overflow="ellipsis", no_wrap=True, max_width=None if _is_wide() else 9)
    table.add_column(_("size"), justify="right", no_wrap=True)
    table.add_column(_("problems"), justify="right", no_wrap=True)
    for one in report["checkpoints"]:
        recommended = one["name"] == report["recommended"]
        style = "bold green" if recommended else "" if one["continuable"] else "dim"
        cells = (
            MARK if recommended else "",
            one["name"],
            _number(one["epoch"], ".2f"),
            _number(one["step"], "d"),
            loss_words(one["loss"]),
            loss_words(one["eval_loss"]),
            one["grade"],
            one["run"],
            size_words(one["bytes"]),
            str(len(one["problems"]) or "-"),
        )
        table.add_row(*(Text(visible(cell)) for cell in cells), style=style)
    return table


def _is_wide() -> bool:
    import shutil

    return shutil.get_terminal_size().columns >= 100


def _lines(report: dict[str, Any], choice: Choice) -> Iterator[tuple[str, str]]:
    """The text below the table, each line with its style."""
    if report["checkpoints"]:
        yield "", ""
    yield report["reason"], "bold"
    for names, reason in _together((passed.checkpoint.name, passed.reason) for passed in choice.passed_over):
        yield _("Passed over {name}: {reason}").format(name=names, reason=reason), ""
    told = [
        (one["name"], f"[{problem['code']}] {sentences(problem['message'], problem['fix'])}")
        for one in report["checkpoints"]
        for problem in one["problems"]
    ]
    if told:
        yield "", ""
        yield _("Problems"), "bold"
    for names, problem in _together(told):
        yield f"{names} {problem}", ""
    if report["ignored"]:
        yield "", ""
        yield _("Ignored"), "bold"
    for one in report["ignored"]:
        # A name may hold line feeds; only the lines made here may begin a new one.
        yield f"{visible(one['name'])}: {one['reason']}", ""
    if report["jumps"]:
        yield "", ""
        yield _("Jumps of the loss"), "bold"
    for jump in report["jumps"]:
        yield _jump(jump), "yellow"
    yield "", ""
    yield report["advice"]["message"], ""


def _together(told: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What is told of several checkpoints once, with all their names."""
    names: dict[str, list[str]] = {}
    for name, text in told:
        names.setdefault(visible(text), []).append(name)
    return ((", ".join(members), text) for text, members in names.items())


def _jump(jump: dict[str, Any]) -> str:
    where = _("at a continuation") if jump["at_resume"] else _("while training")
    return _("{run}, step {step}: from {before} to {after} {where}").format(
        run=jump["run"],
        step=jump["step"],
        before=loss_words(jump["from"]),
        after=loss_words(jump["to"]) if jump["to"] is not None else _("not a number"),
        where=where,
    )


def _number(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-"
