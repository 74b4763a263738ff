"""What the steps have the engine find out: each takes its time and may fail, so it belongs in a thread where a screen waits.

Large libraries are imported in the functions, so that no first frame waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.data.read import Reading
from engine.errors import ModelError
from engine.i18n import _
from engine.sources import Source, resolve
from tui.dataset_text import batch_of
from tui.plain import visible

if TYPE_CHECKING:
    from engine.data.report import DatasetReport
    from engine.data.table import Tell
    from engine.models.report import ModelReport
    from engine.resume.plan import ResumePlan
    from engine.training.expect import Expected, Fit


def last_run(folder: Path) -> tuple[str, bool] | None:
    """How the run in `folder` stands, and whether one can go on with it now; None where it has come to its end. Imports what would
    hold up the first frame, so it belongs in a thread."""
    from engine.watch import standing
    from tui.runs import standing_words

    found = standing(folder)
    if found.state in ("finished", "empty"):
        return None
    words = _("The last run, {folder}: {how}").format(folder=folder, how=" · ".join(standing_words(found)))
    return visible(words), found.state != "running"


def model_with_template(model: str, template: str) -> ModelReport:
    """The report on `model`, for which `template` writes the turns. Raises ConfigError for a template that cannot be read."""
    from engine.models.report import model_report
    from engine.models.templates import template_source

    template_source(template)
    return model_report(model)


def report_of(dataset: str, reading: Reading) -> DatasetReport:
    """The report without tokens: at once, before any large library is loaded. Raises ConfigError for flags that are wrong."""
    from engine.data.read import is_hub_id
    from engine.data.report import dataset_report

    # datasets asks transformers for a class there, which is not to be had while another thread imports it.
    if is_hub_id(dataset):
        from engine.hardware import load_libraries

        load_libraries()
    return dataset_report(dataset, reading, None, "auto", 1024)


def report_with_model(
    dataset: str, model: str, answers: Sequence[Source], tell: Tell = lambda done, total, seconds: None
) -> DatasetReport:
    """The report with the tokens of `model`, for a run with these answers. Waits for transformers, so it belongs in a thread. Raises
    ConfigError and ModelError."""
    from engine.data.places import with_places
    from engine.data.report import dataset_report
    from engine.hardware import load_libraries
    from engine.models.folder import is_hub_id, load_tokenizer
    from engine.models.report import cached_snapshot, model_folder_here

    load_libraries()
    config = resolve(answers).config
    folder = cached_snapshot(model) or model_folder_here(model)
    try:
        tokenizer = load_tokenizer(folder, config.chat_template)
    except ModelError as error:
        if is_hub_id(model):  # more of it may be fetched
            raise
        unread = dataset_report(dataset, Reading.of(config), None, config.train_on, config.max_length)
        return unread if unread.stopped is not None else unread.stopped_by(error)
    report = dataset_report(
        dataset, Reading.of(config), tokenizer, config.train_on, config.max_length, tell, batch_of(config)
    )
    return with_places(report, folder)


def fit_of(model: ModelReport, data: DatasetReport | None, answers: Sequence[Source]) -> Fit:
    """Whether `model` fits, for a run with these answers. Waits for torch, so it belongs in a thread. Raises ConfigError."""
    from engine.hardware import load_libraries
    from engine.training.expect import expect_of

    load_libraries()
    return expect_of(model, data, resolve(answers).config)


def expect_counted(plan: ResumePlan, tell: Tell = lambda done, total, seconds: None) -> Expected:
    """What `plan` will take, its rows counted first. Raises LoraTuiError."""
    from engine.training.expect import expect

    config = plan.config
    answers = [Source("run", "", config.model_dump())]
    return expect(plan, report_with_model(str(config.dataset), str(config.model), answers, tell))
