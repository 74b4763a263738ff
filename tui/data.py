"""`lora-tui data PATH`: what a dataset is, its problems, and what will be trained on.

The engine makes the report (engine/data/report.py); here it is printed, as JSON for scripts or for people. With --json a dataset
that stops the start is still described, its fault among the problems; for people the fault is the error that every command shows.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from engine.config import RunConfig
from engine.data.read import Reading
from engine.data.report import DatasetReport, dataset_report
from engine.i18n import _
from tui.dataset_text import preview_texts, problem_lines, summary_lines
from tui.plain import visible

USABLE, UNUSABLE = 0, 4
"""Exit codes (contract C1)."""


def run_data(path: str, model: str | None, as_json: bool, reading: Reading) -> int:
    """Print what the dataset `path` is; the exit code. Raises DatasetError or ModelError for people, and ModelError for all where
    the model itself cannot be found."""
    tokenizer = _tokenizer(model) if model is not None else None
    train_on, max_length = (RunConfig.model_fields[name].default for name in ("train_on", "max_length"))
    report = dataset_report(path, reading, tokenizer, train_on, max_length)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        return USABLE if report.stopped is None else UNUSABLE
    _print(report, model)
    if report.stopped is not None:
        raise report.stopped
    return USABLE


def _tokenizer(model: str) -> Any:
    from engine.training.model import load_tokenizer, model_folder

    return load_tokenizer(model_folder(model))


def _print(report: DatasetReport, model: str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(Text(visible(report.path), style="bold"))
    hint = _("Lengths in tokens and what is trained on need a model: --model M") if model is None else ""
    for line, style in summary_lines(report, hint):
        console.print(Text(line, style=style))
    problems = list(problem_lines(report))
    if problems:
        console.print()
        console.print(Text(_("Problems"), style="bold"))
    for line, style in problems:
        console.print(Text(line, style=style))
    plain = not console.is_terminal or console.is_dumb_terminal or bool(os.environ.get("NO_COLOR"))
    if report.preview:
        console.print()
    for text in preview_texts(report, plain):
        console.print(text)
