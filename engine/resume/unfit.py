"""Folders that are something else, where no run may go: a run's files would spoil what they are put into, and it them.

Told before anything is written, and in all modes: whoever names a checkpoint, a model or a dataset as `--output` means something else.
"""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints.adapter import CONFIG_NAME, INDEXES, WEIGHTS, WHOLE
from engine.checkpoints.manifest import MANIFEST_NAME
from engine.checkpoints.scan import EXACT
from engine.checkpoints.state import STATE_NAME
from engine.config import RunConfig
from engine.data.read import would_be_read
from engine.durable import STAGING_PREFIX
from engine.errors import ConfigError
from engine.folder import RUN_TOML, TRASH, need_folder
from engine.i18n import _
from engine.journal import JOURNAL_NAME
from engine.paths import as_argument, is_file, is_folder

ADAPTER = (CONFIG_NAME, *WEIGHTS)
CHECKPOINT = (STATE_NAME, MANIFEST_NAME, *ADAPTER, *WHOLE, *INDEXES)
"""Files by which a folder with a checkpoint's name is one."""


def need_own_folder(output_dir: Path, config: RunConfig | None) -> None:
    """Raise ConfigError (2) where `output_dir` is a checkpoint or in one, in what runs clear, an adapter's folder, a model's, or where
    rows are read from; OutputError (5) where it can be no folder. `config`: of the run, as far as it is known; its paths may be
    relative."""
    need_folder(output_dir)
    here = output_dir.resolve()
    if (checkpoint := checkpoint_around(here)) is not None:
        raise _checkpoint(output_dir, checkpoint, inside=checkpoint != here)
    for folder in (here, *here.parents):
        if folder.name.startswith((STAGING_PREFIX, TRASH)) and _is_of_a_run(folder.parent):
            raise _cleared(output_dir, folder)
    model = Path(config.model) if config is not None and config.model is not None else None
    if model is not None and is_folder(model) and model.resolve() == here:
        raise _model(output_dir)
    if is_folder(here) and not _is_of_a_run(here):
        if _holds(here, ADAPTER):
            raise _adapter(output_dir)
        if _holds(here, ("config.json",)) and _holds(here, (*WHOLE, *INDEXES)):
            raise _model(output_dir)
    for dataset in (config.dataset, config.eval_dataset) if config is not None else ():
        if dataset is not None and is_folder(Path(dataset)):
            source = Path(dataset).resolve()
            if source == here or (source in here.parents and would_be_read(source, here / JOURNAL_NAME)):
                raise _dataset(output_dir, dataset)


def checkpoint_around(folder: Path) -> Path | None:
    """The checkpoint that `folder` is, or lies in; None where it is none. Whatever is put there makes it another than was saved."""
    here = folder.resolve()
    return next((one for one in (here, *here.parents) if EXACT.fullmatch(one.name) and _holds(one, CHECKPOINT)), None)


def _holds(folder: Path, names: tuple[str, ...]) -> bool:
    return any(is_file(folder / name) for name in names)


def _is_of_a_run(folder: Path) -> bool:
    return _holds(folder, (RUN_TOML,)) or _holds_checkpoints(folder)


def _holds_checkpoints(folder: Path) -> bool:
    """As the folder of another tool's run does, which keeps its final adapter or model beside them."""
    try:
        return any(EXACT.fullmatch(entry.name) for entry in folder.iterdir())
    except OSError:  # told by whoever goes on there
        return True


def _checkpoint(output_dir: Path, checkpoint: Path, inside: bool) -> ConfigError:
    words = (
        _("{folder}: lies in a checkpoint, {checkpoint}")
        if inside
        else _("{folder}: is a checkpoint, not the folder of a run")
    )
    return ConfigError(
        words.format(folder=output_dir, checkpoint=checkpoint),
        _("With a run in it it would no longer be what was saved, and the run would go when it is removed."),
        _(
            "To go on from it: --resume {checkpoint}. To go on with its run: --output {parent}. A new run needs a folder of its own."
        ).format(checkpoint=as_argument(checkpoint), parent=as_argument(checkpoint.parent)),
    )


def _cleared(output_dir: Path, folder: Path) -> ConfigError:
    return ConfigError(
        _("{folder}: lies in {cleared}, whose content runs remove").format(folder=output_dir, cleared=folder),
        fix=_("Name an --output outside of it. A checkpoint that was put there by mistake can be moved back beside it."),
    )


def _adapter(output_dir: Path) -> ConfigError:
    fix = _("For a new run from its weights: --init-from {folder}, with another --output.")
    if is_file(output_dir.resolve().parent / RUN_TOML):
        fix += " " + _("To go on with its run: --output {parent}.")
    return ConfigError(
        _("{folder}: holds an adapter, and is not the folder of a run").format(folder=output_dir),
        _("The run's own files would lie among the adapter's."),
        fix.format(folder=as_argument(output_dir), parent=as_argument(output_dir.resolve().parent)),
    )


def _model(output_dir: Path) -> ConfigError:
    return ConfigError(
        _("{folder}: is a model's folder, not the folder of a run").format(folder=output_dir),
        _("The run's own files would lie among the model's."),
        _("Name another folder with --output; the model itself is named with --model."),
    )


def _dataset(output_dir: Path, dataset: str) -> ConfigError:
    return ConfigError(
        _("{folder}: the run's own files would be read as rows of the dataset {dataset}").format(
            folder=output_dir, dataset=dataset
        ),
        _("Every data file below a dataset's folder is read, and a run writes JSON; it could not be gone on with."),
        _("Name an --output outside of that folder, or the data file itself as the dataset."),
    )
