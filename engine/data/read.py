"""Where rows come from: a file, a folder of files, a folder written by datasets, or a dataset of the hub.

No code that lies beside the data is ever run. What stands in one file is read in files.py; what a row means is decided in formats.py.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.files import SUFFIXES, first_line, kind, read_file, suffix_of
from engine.errors import DatasetError
from engine.i18n import _

__all__ = ["Raw", "kind", "read_raw"]

DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
"""Files beside the data that hold no rows."""


@dataclass(frozen=True)
class Raw:
    """Rows as they stand in their source."""

    name: str
    """How a person calls the source in messages: a file's name or a hub id."""
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    """(file name, place of its first row from 0) of each file of a folder; empty for one source."""

    def where(self, number: int) -> str:
        """How a person finds row `number` (from 1): its file, and its row in there."""
        name, begin = self.name, 0
        if self.files:
            name, begin = self.files[bisect_right([first for _name, first in self.files], number - 1) - 1]
        return _("{path}, row {row}").format(path=name, row=number - begin)


def read_raw(dataset: str) -> Raw:
    """All rows of `dataset`: a file, a folder or a hub id. Raises DatasetError (exit 4)."""
    if not dataset.strip() or "\0" in dataset:
        raise DatasetError(_("{path!r}: can be no file's name").format(path=dataset))
    try:
        path = Path(dataset).expanduser()
        if path.is_dir():
            return _folder(path)
        if path.exists():
            if not path.is_file():
                raise DatasetError(_("{path}: is no regular file").format(path=path))
            return Raw(path.name, list(read_file(path)))
    except OSError as error:
        raise DatasetError(_("{path}: cannot be read").format(path=dataset), error.strerror or str(error)) from None
    except RuntimeError:  # ~name of a user who is not there
        raise DatasetError(_("{path}: there is no such file or folder").format(path=dataset)) from None
    return _hub(dataset)


def _folder(folder: Path) -> Raw:
    names = {entry.name for entry in folder.iterdir()}
    if names & {"state.json", "dataset_dict.json"}:
        return _saved_to_disk(folder)
    scripts = sorted(name for name in names if name.endswith(".py"))
    if scripts:
        raise DatasetError(
            _("{folder}: this dataset brings its own code ({name})").format(folder=folder, name=scripts[0]),
            _("Code beside data is never run."),
            _("Give a data file of it, or a version without a script."),
        )
    files = sorted(entry for entry in folder.rglob("*") if _is_data(entry.relative_to(folder)) and entry.is_file())
    training = [entry for entry in files if _is_training(entry.relative_to(folder))]
    chosen = training or files
    if not chosen:
        raise DatasetError(
            _("{folder}: no data file in it").format(folder=folder),
            fix=_("Known are {suffixes}, and folders written by datasets' save_to_disk.").format(
                suffixes=", ".join(SUFFIXES)
            ),
        )
    rows: list[dict[str, Any]] = []
    begins = []
    for entry in chosen:
        begins.append((entry.name, len(rows)))
        rows += read_file(entry)
    note = _("{folder}: {count} files read: {names}").format(
        folder=folder.name, count=len(chosen), names=", ".join(entry.name for entry in chosen[:5])
    )
    return Raw(folder.name or str(folder), rows, (note,), tuple(begins))


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return suffix_of(path) in SUFFIXES and not hidden and path.name not in DESCRIPTIONS


def _is_training(path: Path) -> bool:
    return path.stem.lower().startswith("train") or any("train" in part.lower() for part in path.parts[:-1])


def _saved_to_disk(folder: Path) -> Raw:
    import datasets

    try:
        return _of_splits(datasets.load_from_disk(str(folder)), folder.name)
    except Exception as error:
        # datasets raises whatever a damaged folder leads it to.
        raise DatasetError(
            _("{folder}: cannot be loaded as a save_to_disk folder").format(folder=folder), first_line(error)
        ) from None


def _hub(repo: str) -> Raw:
    looks_like_path = repo.startswith((".", "/", "~")) or repo.count("/") > 1 or suffix_of(Path(repo)) in SUFFIXES
    if looks_like_path or "\\" in repo:
        raise DatasetError(_("{path}: there is no such file or folder").format(path=repo), fix=_("Check the path."))
    import datasets

    try:
        return _of_splits(datasets.load_dataset(repo), repo)
    except Exception as error:
        # Offline, unknown, gated, with a script, damaged: one sentence for all, with the library's own words.
        raise DatasetError(
            _("{repo}: there is no such file here, and it cannot be loaded from the hub").format(repo=repo),
            f"{type(error).__name__}: {first_line(error)}",
            _("Check the path or id, or the network; HF_ENDPOINT names a mirror."),
        ) from None


def _of_splits(found: Any, name: str) -> Raw:
    if not isinstance(found, dict):
        return Raw(name, found.to_list())
    split = "train" if "train" in found else next(iter(found))
    note = _("{name}: the split {split} of {splits} is used").format(name=name, split=split, splits=", ".join(found))
    return Raw(name, found[split].to_list(), (note,) if len(found) > 1 else ())
