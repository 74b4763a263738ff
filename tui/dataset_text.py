"""A DatasetReport as text for people: one rendering for `lora-tui data` and for the wizard.

What is trained on is marked by style and, where there are no colours, by brackets: colour is never the only signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from engine.data.problems import also
from engine.i18n import _, n_, with_fix
from tui.plain import visible
from tui.words import duration

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.data.report import DatasetReport

LONGEST_PIECE = 600
"""Characters of one piece of a previewed row; of a longer one the middle is left out."""
BAR = 32
"""Columns of the longest bar of lengths."""
OPEN, CLOSE = "[[", "]]"
"""Around what is trained on where nothing can be underlined."""


def batch_of(config: RunConfig) -> tuple[int, int]:
    """The batch that a report tells steps for: (rows, batches of a step)."""
    from engine.data.report import BATCH

    return (BATCH if config.batch_size == "auto" else config.batch_size), config.grad_accum


def summary_lines(report: DatasetReport, without_tokens: str) -> Iterator[tuple[str, str]]:
    """Format, rows, notes and lengths: (text, style) lines. `without_tokens`: what is said where lengths are not known."""
    if report.format is not None and report.rows is not None:
        rows = n_("{count} row", "{count} rows", report.rows).format(count=report.rows)
        yield f"{rows} · {report.format} · {visible(report.reason)}", ""
    for note in report.notes:
        yield visible(note), "dim"
    if report.tokens is not None:
        yield from _length_lines(report)
    elif without_tokens and report.stopped is None:
        yield without_tokens, "dim"


def problem_lines(report: DatasetReport, stops_too: bool = False) -> Iterator[tuple[str, str]]:
    """The problems, a line each kind: the first in full, the rows of the others, the remedy. What stops the start is left out unless
    asked for: it is shown as the error itself."""
    for code, count in report.counts.items():
        found = [problem for problem in report.problems if problem.code == code]
        if not found or (found[0].severity == "stops" and not stops_too):
            continue
        first = found[0]
        style = {"stops": "bold red", "costs": "yellow"}.get(first.severity, "")
        severity = {"stops": _("stops"), "costs": _("costs"), "info": _("info")}[first.severity]
        what = visible(first.message + also(found[1:], count - 1))
        yield f"{severity:5} " + with_fix(what, visible(first.fix)), style


def rows_words(done: int, total: int | None, seconds: float) -> str:
    """How far the tokenising has come, how fast, and when it ends."""
    rate = done / max(seconds, 1e-9)
    if not total:
        return _("{done} rows tokenised · {rate:.0f} rows/s").format(done=done, rate=rate)
    return _("{done} of {total} rows tokenised · {rate:.0f} rows/s · {left} left").format(
        done=done, total=total, rate=rate, left=duration(max(0, total - done) / max(rate, 1e-9))
    )


def preview_texts(report: DatasetReport, plain: bool) -> Iterator[Text]:
    """The first rows, what is trained on apart from what is not. `plain`: with brackets, for where there is no style."""
    if not report.preview:
        return
    yield Text(_legend(report, plain), style="bold")
    for row in report.preview:
        shown = Text(_("row {row}: ").format(row=row.row), style="dim")
        for words, trained in row.pieces:
            text = visible(_shortened(words), keep_lines=True)
            if trained:
                shown.append(OPEN + text + CLOSE if plain else text, style="bold underline green not dim")
            else:
                shown.append(text)
        yield shown


def _legend(report: DatasetReport, plain: bool) -> str:
    if report.tokens is None:
        if plain:
            return _("The first rows; {begin}this{end} will be trained on:").format(begin=OPEN, end=CLOSE)
        return _("The first rows; what is underlined will be trained on:")
    if plain:
        return _("The first rows as the model sees them; {begin}this{end} is trained on:").format(begin=OPEN, end=CLOSE)
    return _("The first rows as the model sees them; what is underlined is trained on:")


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_PIECE:
        return text
    half = LONGEST_PIECE // 2
    return text[:half] + _(" ...{count} characters... ").format(count=len(text) - 2 * half) + text[-half:]


def _length_lines(report: DatasetReport) -> Iterator[tuple[str, str]]:
    tokens, trained = report.tokens, report.trained_tokens
    assert tokens is not None
    yield (
        _(
            "{total} tokens, {trained} of them trained on · a row has {low} to {high}, median {median:g}, p95 {p95:.0f}"
        ).format(total=tokens.total, trained=trained, low=tokens.min, high=tokens.max, median=tokens.median, p95=tokens.p95),
        "",
    )
    if report.epoch is not None:
        yield (
            n_("an epoch: {steps} step of {rows} rows, {tokens} tokens, {share:.0%} of them trained on · padding {grouped:.2f} "
               "times the tokens, {random:.2f} without grouping by length",
               "an epoch: {steps} steps of {rows} rows, {tokens} tokens, {share:.0%} of them trained on · padding {grouped:.2f} "
               "times the tokens, {random:.2f} without grouping by length", report.epoch.steps).format(
                steps=report.epoch.steps, rows=report.epoch.rows_a_step, tokens=report.epoch.tokens,
                share=(trained or 0) / max(1, report.epoch.tokens), grouped=report.epoch.padding_grouped,
                random=report.epoch.padding_random,
            ),
            "",
        )  # fmt: skip
    most = max(rows for _low, _high, rows in tokens.histogram)
    wide = len(str(tokens.histogram[-1][1]))
    skipped = False
    for low, high, rows in tokens.histogram:
        if not rows:  # one huge row would leave a dozen empty lines below the others
            if not skipped:
                yield f"  {'...':>{wide}}", "dim"
            skipped = True
            continue
        skipped = False
        cut = _("  cut to {limit}").format(limit=report.max_length) if low > report.max_length else ""
        bar = "#" * (-(-rows * BAR // most))
        yield f"  {low:>{wide}} - {high:>{wide}}  {bar:{BAR}} {rows}{cut}", ""
