"""`lora-tui data PATH`: what a dataset is, its problems, and what will be trained on; of a model, what it is and whether it fits.

The engine makes the report (engine/data/report.py); here it is printed, as JSON for scripts or for people. With --json a dataset
that stops the start is still described, its fault among the problems, and so it is beside a model that cannot be used; for people
the fault is the error that every command shows.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from engine.config import RunConfig
from engine.data.places import with_places
from engine.data.read import Reading
from engine.data.report import DatasetReport, dataset_report
from engine.errors import DatasetError, ModelError
from engine.i18n import _
from engine.models.report import ModelReport, model_report
from engine.training.expect import expect_of
from tui import breaking
from tui.dataset_text import batch_of, preview_texts, problem_lines, rows_words, summary_lines
from tui.model_text import fit_lines, model_lines
from tui.plain import visible
from tui.show import Show
from tui.streams import quiet_libraries
from tui.words import duration

USABLE, UNUSABLE = 0, 4
"""Exit codes (contract C1)."""


def run_data(config: RunConfig, as_json: bool, measure: bool) -> int:
    """Print what the dataset of `config` is; the exit code. Raises, for people, DatasetError or ModelError for what stops a
    run on it; ConfigError for a template that cannot be read."""
    assert config.dataset is not None
    show = Show(sys.stderr)
    tokenizer, no_model = None, None
    try:
        tokenizer = _tokenizer(config.model, config.chat_template) if config.model is not None else None
    except ModelError as error:
        if not as_json:
            raise
        no_model = error

    def tell(done: int, total: int | None, seconds: float) -> None:
        show.progress(rows_words(done, total, seconds), done / total if total else None)

    with show:
        report = dataset_report(
            config.dataset, Reading.of(config), tokenizer, config.train_on, config.max_length, tell, batch_of(config)
        )
    if no_model is not None:
        report = report.stopped_by(no_model)
    model = fit = None
    if tokenizer is not None:  # before the model is loaded to be timed, for then there is less memory free
        model = model_report(str(config.model))
        report = with_places(report, model.folder) if model.folder is not None else report
        fit = expect_of(model, report, config) if model.folder is not None and model.stopped is None else None
    trial = None
    if measure and report.table is not None and report.stopped is None:
        from engine.training.trial import measure_epoch

        quiet_libraries()
        with show:
            show.line(_("Timing a few steps of the model"), "dim")
        trial = measure_epoch(config, report.table)
    if as_json:
        document = report.to_json() | {
            "trial": asdict(trial) if trial is not None else None,
            "model": model.to_json(config.lora_r) if model is not None else None,
            "fit": asdict(fit) if fit is not None else None,
        }
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        return USABLE if report.stopped is None else UNUSABLE
    _print(
        report,
        [*(_told(model, config.chat_template) if model is not None else ()), *(fit_lines(fit) if fit is not None else ())],
    )
    if trial is not None:
        words = _(
            "measured: an epoch takes about {time} in batches of {rows} rows · {rate:.0f} tokens/s on {device}"
        ).format(
            time=duration(trial.seconds_per_epoch), rows=trial.batch_size, rate=trial.tokens_per_second, device=trial.device
        )
        sys.stdout.write("\n" + words + "\n")
    if report.stopped is not None:  # also of a setting that fits no such rows: the exit code is that of the document
        raise DatasetError(report.stopped.title, report.stopped.detail, report.stopped.fix)
    return USABLE


def _tokenizer(model: str, chat_template: str) -> Any:
    from engine.hardware import prepare_process
    from engine.models.folder import load_tokenizer, model_folder

    prepare_process()  # before transformers brings torch
    return load_tokenizer(model_folder(model), chat_template)


def _told(model: ModelReport, chat_template: str) -> list[tuple[str, str]]:
    """What the model is, and what a run with it would end with."""
    stopped = model.stopped
    wrong = [stopped.title, stopped.detail, stopped.fix] if stopped is not None else []
    return [*model_lines(model, chat_template), *((words, "bold red") for words in wrong if words)]


def _print(report: DatasetReport, model: list[tuple[str, str]]) -> None:
    from rich.text import Text

    console = breaking.console()
    console.print(Text(visible(report.path), style="bold"))
    hint = "" if model else _("Lengths in tokens and what is trained on need a model: --model M")
    for line, style in summary_lines(report, hint):
        console.print(Text(line, style=style))
    if model:
        console.print()
        console.print(Text(_("Model"), style="bold"))
    for line, style in model:
        console.print(Text(visible(line), style=style))
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
