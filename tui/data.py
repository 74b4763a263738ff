"""`lora-tui data PATH`: what a dataset is, its problems, and what will be trained on.

The engine makes the report (engine/data/report.py); here it is printed, as JSON for scripts or for people. With --json a dataset
that stops the start is still described, its fault among the problems; for people the fault is the error that every command shows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from engine.config import RunConfig
from engine.data.report import DatasetReport, dataset_report
from engine.i18n import _, n_
from tui.plain import visible

USABLE, UNUSABLE = 0, 4
"""Exit codes (contract C1)."""
LISTED = 20
"""Problems of one report that are printed; --json has them all."""
LONGEST_PIECE = 600
"""Characters of one piece of a previewed row; of a longer one the middle is left out."""
BAR = 32
"""Columns of the longest bar of lengths."""
OPEN, CLOSE = "[[", "]]"
"""Around what is trained on where nothing can be underlined."""


def run_data(path: str, model: str | None, as_json: bool, format: str) -> int:
    """Print what the dataset `path` is; the exit code. Raises DatasetError or ModelError for people, and ModelError for all where
    the model itself cannot be found."""
    tokenizer = _tokenizer(model) if model is not None else None
    train_on, max_length = (RunConfig.model_fields[name].default for name in ("train_on", "max_length"))
    report = dataset_report(path, format, tokenizer, train_on, max_length)
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
    for line, style in _lines(report, model):
        console.print(Text(visible(line, keep_lines=True), style=style))
    plain = not console.is_terminal or console.is_dumb_terminal or bool(os.environ.get("NO_COLOR"))
    if report.preview:
        console.print()
        console.print(Text(_legend(plain), style="bold"))
    for row in report.preview:
        shown = Text(_("row {row}: ").format(row=row.row), style="dim")
        for words, trained in row.pieces:
            text = visible(_shortened(words), keep_lines=True)
            if trained:
                shown.append(OPEN + text + CLOSE if plain else text, style="bold underline green not dim")
            else:
                shown.append(text)
        console.print(shown)


def _legend(plain: bool) -> str:
    if plain:
        return _("The first rows as the model sees them; {begin}this{end} is trained on:").format(begin=OPEN, end=CLOSE)
    return _("The first rows as the model sees them; what is underlined is trained on:")


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_PIECE:
        return text
    half = LONGEST_PIECE // 2
    return text[:half] + _(" ...{count} characters... ").format(count=len(text) - 2 * half) + text[-half:]


def _lines(report: DatasetReport, model: str | None) -> Iterator[tuple[str, str]]:
    """The text above the preview, each line with its style."""
    yield visible(report.path), "bold"
    if report.format is not None and report.rows is not None:
        rows = n_("{count} row", "{count} rows", report.rows).format(count=report.rows)
        yield f"{rows} · {report.format} · {visible(report.reason)}", ""
    for note in report.notes:
        yield visible(note), "dim"
    if report.tokens is not None:
        yield from _length_lines(report)
    elif model is None and report.stopped is None:
        yield _("Lengths in tokens and what is trained on need a model: --model M"), "dim"
    # What stops the start is shown as the error itself, once.
    told = [problem for problem in report.problems if problem.severity != "stops"]
    if told:
        yield "", ""
        yield _("Problems"), "bold"
    for problem in told[:LISTED]:
        style = "yellow" if problem.severity == "costs" else ""
        yield f"{problem.severity:5} {visible(problem.message)}. {visible(problem.fix)}".rstrip(), style
    if (more := len(told) - LISTED) > 0:
        yield (
            n_("and {count} more (--json lists them)", "and {count} more (--json lists them)", more).format(count=more),
            "dim",
        )


def _length_lines(report: DatasetReport) -> Iterator[tuple[str, str]]:
    tokens, trained = report.tokens, report.trained_tokens
    assert tokens is not None
    yield (
        _(
            "{total} tokens, {trained} of them trained on · a row has {low} to {high}, median {median:g}, 95 % up to {p95:g}"
        ).format(total=tokens.total, trained=trained, low=tokens.min, high=tokens.max, median=tokens.median, p95=tokens.p95),
        "",
    )
    most = max(rows for _low, _high, rows in tokens.histogram)
    wide = len(str(tokens.histogram[-1][1]))
    for low, high, rows in tokens.histogram:
        cut = _("  cut to {limit}").format(limit=report.max_length) if low > report.max_length else ""
        bar = "#" * (-(-rows * BAR // most))
        yield f"  {low:>{wide}} - {high:>{wide}}  {bar:{BAR}} {rows}{cut}", "dim" if not rows else ""
