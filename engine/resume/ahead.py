"""What a planned run would meet before its first step, as far as it can be seen without torch, without network and without touching
its folder: for whoever asks before it is begun.
"""

from __future__ import annotations

from engine.checkpoints.commit import need_room_to_begin
from engine.data.dataset import eval_rows, held_back_notes, read_dataset, skipped_notes
from engine.data.formats import CONVERSATIONS, Rows, read_rows
from engine.data.read import Reading, is_hub_id
from engine.data.table import row_digests
from engine.data.turns import without_template
from engine.extras import need_extras
from engine.folder import look_at
from engine.i18n import _, n_
from engine.lock import busy, is_held
from engine.models.folder import need_tokenizer_files
from engine.models.report import ModelReport, model_report, to_be_fetched
from engine.models.templates import MODELS_OWN, need_jinja
from engine.paths import is_folder
from engine.resume.plan import ResumePlan


def look_ahead(plan: ResumePlan) -> tuple[str, ...]:
    """What there is to know of the run's folder, model and rows. All rows are read, as the run will.

    Raises what the run would end with: ConfigError (2) for settings that cannot be had here, OutputError (5) for a folder that is
    busy, full or cannot be written to, ModelError or DatasetError (4).
    """
    config = plan.config
    need_extras(config)
    assert config.model is not None and config.dataset is not None
    place = look_at(plan.output_dir)
    if place.problem is not None:
        raise place.problem
    need_free_folder(plan)
    if plan.mode == "continue" and plan.checkpoint is not None and is_folder(plan.output_dir):
        need_room_to_begin(plan.output_dir, plan.checkpoint.bytes)
    model = model_report(config.model)
    if model.stopped is not None and not to_be_fetched(model):
        raise model.stopped
    if model.folder is not None and not is_hub_id(config.model):  # of the hub's, more may be fetched
        need_tokenizer_files(model.folder)
    notes, fetched = _rows(plan, model)
    fetched = [config.model, *fetched] if to_be_fetched(model) else fetched
    return (*notes, *(_("{name}: is fetched from the hub when the run begins").format(name=name) for name in fetched))


def need_free_folder(plan: ResumePlan) -> None:
    """Raise OutputError where another run is at work in the plan's folder: a start would only find the same, and be another plan once
    that run has ended. Of several machines the others find the first one's run there, which is their own."""
    if plan.mode != "complete" and plan.config.node_rank == 0 and is_held(plan.output_dir):
        raise busy(plan.output_dir)


def _rows(plan: ResumePlan, model: ModelReport) -> tuple[list[str], list[str]]:
    """(what there is to know of the rows, datasets that are to be fetched). Raises DatasetError, ModelError for rows that it has no
    template for."""
    config, notes, fetched = plan.config, [], []
    splits: tuple[str, ...] = ()
    assert config.dataset is not None
    if is_hub_id(config.dataset):
        fetched.append(config.dataset)
    else:
        rows = read_rows(config.dataset, Reading.of(config))
        written = to_be_fetched(model) or model.chat_template or config.chat_template != MODELS_OWN
        if rows.format in CONVERSATIONS:
            if not written:
                raise without_template()
            need_jinja(config.chat_template)
        dataset = plan.dataset or read_dataset(config, rows)
        splits = rows.raw.splits
        notes += [_counted(rows, len(dataset.numbers)), *rows.notes]
        notes += [*skipped_notes(config.skip_rows, int(dataset.numbers[-1])), *held_back_notes(config, dataset)]
    asked = config.eval_dataset
    if asked is not None and (asked in splits or not is_hub_id(asked)):
        measured = eval_rows(config)
        notes += [_counted(measured, len(row_digests(measured, Reading.of(config))[0])), *measured.notes]
    elif asked is not None and not (fetched and asked.isidentifier()):  # else perhaps a split of what is fetched
        fetched.append(asked)
    return notes, fetched


def _counted(rows: Rows, count: int) -> str:
    words = n_("{name}: {count} row · {format}: {why}", "{name}: {count} rows · {format}: {why}", count)
    return words.format(name=rows.name, count=count, format=rows.format, why=rows.reason)
