"""Where rows come from: a file, a folder of files, a folder written by datasets, or a dataset of the hub.

Rows are streamed: a `Raw` can be gone through any number of times and never holds them all. No code that lies beside the data is ever
run. What stands in one file is read in files.py; what a row means is decided in formats.py.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.encoding import find_encoding
from engine.data.files import SUFFIXES, read_file, remedy_of
from engine.data.parquet import unpadded
from engine.data.texts import Numbered, suffix_of
from engine.errors import DatasetError, first_line
from engine.hub import hub
from engine.i18n import _, n_, sentences
from engine.named import parse_columns, parse_rows, with_rows
from engine.paths import is_file, is_folder, is_there, lost_link, path_of

DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
"""Files beside the data that hold no rows."""
SAVED_TO_DISK = {"state.json", "dataset_dict.json"}
"""Either says that datasets wrote the folder and reads it."""
TRAINING = ("train", "training")
SPLITS = (*TRAINING, "validation", "valid", "val", "dev", "eval", "test")


@dataclass(frozen=True)
class Reading:
    """How a dataset is to be read, where that should not be found out. As the fields of RunConfig."""

    format: str = "auto"
    columns: str | None = None
    encoding: str = "auto"
    skip_rows: str | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Reading:
        """What `config` says of it."""
        return cls(config.format, config.columns, config.encoding, config.skip_rows)


@dataclass
class Raw:
    """Rows as they stand in their source. Each iteration reads them anew, as (number from 1, row)."""

    name: str
    """How a person calls the source in messages: a file's name or a hub id."""
    begin: Callable[[], Numbered]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """The files it consists of, in order; empty where it is none of files."""
    others: tuple[Path, ...] = ()
    """Files of other splits in the same folder, which are not read."""
    splits: tuple[str, ...] = ()
    """The names of splits beside the one that is read, by which `read_raw` reads them."""
    encodings: tuple[str, ...] = ()
    """Other encodings than UTF-8 that files were read in."""
    skipped: str | None = None
    """Rows that are left out, as they were named."""
    begins: list[int] = field(default_factory=list)
    """Rows before each file, known as far as they have been read."""
    blank: tuple[int, ...] = ()
    """Rows of tables in which nothing stands, once all have been read; they are passed over."""

    def __iter__(self) -> Numbered:
        return self.begin()

    def where(self, number: int) -> str:
        """How a person finds row `number` (from 1): its file, and its row in there."""
        name, before = self.name, 0
        if len(self.files) > 1:
            place = max(0, bisect_right(self.begins, number - 1) - 1)
            name, before = self.files[place].name, self.begins[place]
        return _("{path}, row {row}").format(path=name, row=number - before)


def read_raw(dataset: str, reading: Reading | None = None, split: str | None = None) -> Raw:
    """The rows of `dataset`: a file, a folder or a hub id. `split`: one of its `splits` instead of those it is trained on. Raises
    DatasetError (exit 4), also while they are iterated."""
    reading = reading or Reading()
    if not dataset.strip() or "\0" in dataset:
        raise DatasetError(_("{path!r}: can be no file's name").format(path=dataset))
    path = path_of(dataset)
    try:
        if is_folder(path):
            return _folder(path, reading, split)
        if is_there(path):
            if not is_file(path):
                fix = _("Write its rows into a file first: a run reads them again each time it goes on.")
                raise DatasetError(_("{path}: is no regular file").format(path=path), fix=fix)
            if split is not None:
                raise _no_split(dataset, split, ())
            return _of_files(path.name, (path,), reading)
    except OSError as error:
        raise unreadable(dataset, error) from None
    return _hub(dataset, reading, split)


def is_hub_id(dataset: str) -> bool:
    """Whether `dataset` can only be meant as an id of the hub: nothing of that name is here, and it is not written as a path."""
    written = dataset.startswith((".", "/", "~", "$")) or dataset.count("/") > 1 or "\\" in dataset
    path = path_of(dataset)
    return not written and suffix_of(Path(dataset)) not in SUFFIXES and not is_there(path) and not lost_link(path)


def unreadable(dataset: str, error: OSError) -> DatasetError:
    """The error of a source that the system does not hand out."""
    return DatasetError(_("{path}: cannot be read").format(path=dataset), error.strerror or str(error))


def _of_files(name: str, files: tuple[Path, ...], reading: Reading) -> Raw:
    """The rows of `files`, one after the other."""
    encodings = {path: encoding_to_read(path, reading) for path in files}
    notes = tuple(
        _("{path} is {encoding}, not UTF-8, and is read as such (--encoding utf-8 refuses it)").format(
            path=path.name, encoding=encoding.upper()
        )
        for path, encoding in encodings.items()
        if reading.encoding == "auto" and encoding != "utf-8"
    )
    skipped = _skipped(reading)
    begins: list[int] = []

    def begin() -> Numbered:
        begins.clear()
        before, blank = 0, []
        for path in files:
            begins.append(before)
            leave_out = _LeaveOut(skipped, before)
            within: list[int] = []
            try:
                for number, row in read_file(path, encodings[path], leave_out, within.append):
                    yield number + before, row
            except OSError as error:
                raise unreadable(str(path), error) from None
            except DatasetError as error:  # its words name the row in the file
                if error.row is None:
                    raise
                raise _of_dataset(error, error.row + before, reading.skip_rows) from None
            blank += [number + before for number in within]
            before += leave_out.seen
        raw.blank = tuple(blank)

    others = tuple(sorted({encoding for encoding in encodings.values() if encoding != "utf-8"}))
    raw = Raw(name, begin, notes, files, encodings=others, skipped=reading.skip_rows)
    raw.begins = begins
    return raw


def _of_dataset(error: DatasetError, row: int, skipped: str | None) -> DatasetError:
    """The error of one file as one of the dataset, where `row` is known, and what `--skip-rows` would have to say to leave it out."""
    fix = error.fix.replace("--skip-rows", f"--skip-rows {with_rows(skipped, str(row))}")
    return DatasetError(error.title, error.detail, fix, row)


@dataclass
class _LeaveOut:
    """Which rows of one file are left out, by their numbers in the dataset; asked of each row."""

    skipped: frozenset[int]
    before: int
    """Rows of the files before."""
    seen: int = 0
    """Rows of this one, those that are left out too: at its end they are not among what was read."""

    def __call__(self, row: int) -> bool:
        self.seen = row
        return row + self.before in self.skipped


def _skipped(reading: Reading) -> frozenset[int]:
    return parse_rows(reading.skip_rows) if reading.skip_rows is not None else frozenset()


def encoding_to_read(path: Path, reading: Reading) -> str:
    """The encoding to read `path` in: what was asked for, else what it plainly is, else UTF-8, which will say where it is not."""
    if reading.encoding != "auto":
        return reading.encoding
    try:
        return find_encoding(path) or "utf-8"
    except (OSError, EOFError, zlib.error):  # the reader says it better
        return "utf-8"


def _folder(folder: Path, reading: Reading, split: str | None) -> Raw:
    names = {entry.name for entry in folder.iterdir()}
    if names & SAVED_TO_DISK:
        return _saved_to_disk(folder, reading, split)
    scripts = sorted(name for name in names if name.endswith(".py"))
    if scripts:
        raise DatasetError(
            _("{folder}: this dataset brings its own code ({name})").format(folder=folder, name=scripts[0]),
            _("Code beside data is never run."),
            _("Give a data file of it, or a version without a script."),
        )
    files = sorted(entry for entry in folder.rglob("*") if _is_data(entry.relative_to(folder)) and entry.is_file())
    split_of = {entry: _split_of(entry.relative_to(folder)) for entry in files}
    training = [entry for entry in files if split_of[entry] in TRAINING]
    chosen = training or files
    others = [entry for entry in files if split_of[entry] not in TRAINING] if training else []
    splits = tuple(dict.fromkeys(name for entry in others if (name := split_of[entry]) is not None))
    if split is not None:
        if split not in splits:
            raise _no_split(str(folder), split, splits)
        chosen = [entry for entry in files if split_of[entry] == split]
        others = [entry for entry in files if split_of[entry] != split]
    if not chosen:
        raise DatasetError(
            _("{folder}: no data file in it").format(folder=folder),
            fix=sentences(
                next(filter(None, (remedy_of(suffix_of(Path(name))) for name in sorted(names))), ""),
                _("Known are {suffixes}, and folders written by datasets' save_to_disk.").format(
                    suffixes=", ".join(SUFFIXES)
                ),
            ),
        )
    raw = _of_files(folder.name or str(folder), tuple(chosen), reading)
    notes = [
        n_("{folder}: {count} file read: {names}", "{folder}: {count} files read: {names}", len(chosen)).format(
            folder=folder.name, count=len(chosen), names=", ".join(entry.name for entry in chosen[:5])
        )
    ]
    raw.others = tuple(others)
    raw.splits = splits
    if raw.others and split is None:
        notes.append(_("not trained on: {names}").format(names=", ".join(entry.name for entry in raw.others[:5])))
    raw.notes = (*notes, *raw.notes)
    return raw


def would_be_read(folder: Path, path: Path) -> bool:
    """Whether a file that would lie at `path`, below `folder`, would be taken for rows of the dataset in `folder`. Raises DatasetError
    where that cannot be read."""
    inside = path.relative_to(folder)
    if not _is_data(inside) or any(is_file(folder / name) for name in SAVED_TO_DISK):
        return False
    try:
        names = ((entry, entry.relative_to(folder)) for entry in folder.rglob("*") if entry != path)
        split = any(_is_data(name) and is_file(entry) and _split_of(name) in TRAINING for entry, name in names)
    except OSError as error:  # a folder that went meanwhile
        raise unreadable(str(folder), error) from None
    return not split or _split_of(inside) is not None


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return suffix_of(path) in SUFFIXES and not hidden and path.name not in DESCRIPTIONS


def _split_of(path: Path) -> str | None:
    """The split that a file belongs to by its name or a folder's: train, validation, test, ... None where neither tells."""
    for part in (path.stem.lower(), *(one.lower() for one in reversed(path.parts[:-1]))):
        for split in SPLITS:
            if part == split or part.startswith((f"{split}-", f"{split}_", f"{split}.")):
                return split
    return None


def _saved_to_disk(folder: Path, reading: Reading, split: str | None) -> Raw:
    import datasets

    try:
        return _of_splits(datasets.load_from_disk(str(folder)), folder.name, reading, split)
    except DatasetError:
        raise
    except Exception as error:
        # datasets raises whatever a damaged folder leads it to.
        raise DatasetError(
            _("{folder}: cannot be loaded as a save_to_disk folder").format(folder=folder), first_line(error)
        ) from None


def _hub(repo: str, reading: Reading, split: str | None) -> Raw:
    if not is_hub_id(repo):
        raise DatasetError(
            _("{path}: there is no such file or folder").format(path=repo), lost_link(path_of(repo)), _("Check the path.")
        )
    import datasets

    silent = None
    try:
        with hub() as silent:
            return _of_splits(datasets.load_dataset(repo), repo, reading, split)
    except DatasetError:
        raise
    except Exception as error:
        # Offline, unknown, gated, with a script, damaged: one sentence for all, with the library's own words.
        raise DatasetError(
            _("{repo}: there is no such file here, and it cannot be loaded from the hub").format(repo=repo),
            silent or f"{type(error).__name__}: {first_line(error)}",
            _("Check the path or id, or the network; HF_ENDPOINT names a mirror."),
        ) from None


def _of_splits(found: Any, name: str, reading: Reading, asked: str | None) -> Raw:
    notes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    if isinstance(found, dict):
        trained = "train" if "train" in found else next(iter(found))
        splits = tuple(one for one in found if one != trained)
        if asked is not None and asked not in splits:
            raise _no_split(name, asked, splits)
        split = asked or trained
        if len(found) > 1:
            note = _("{name}: the split {split} of {splits} is used").format(name=name, split=split, splits=", ".join(found))
            notes = (note,)
        found = found[split]
    elif asked is not None:
        raise _no_split(name, asked, ())
    skipped = _skipped(reading)

    def begin() -> Numbered:
        try:
            for number, row in enumerate(found, 1):
                if number not in skipped:
                    yield number, unpadded(row)
        except Exception as error:  # as in loading: whatever a damaged file leads the library to
            raise DatasetError(_("{name}: cannot be read to its end").format(name=name), first_line(error)) from None

    return Raw(name, begin, notes, tuple(Path(one["filename"]) for one in found.cache_files),
               splits=splits, skipped=reading.skip_rows)  # fmt: skip


def _no_split(name: str, split: str, there: tuple[str, ...]) -> DatasetError:
    return DatasetError(
        _("{name}: has no split {split} beside the one it is trained on").format(name=name, split=split),
        _("There are: {splits}.").format(splits=", ".join(there) or _("none")),
    )


def renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """`row` with its columns, and those of its turns, under the names they stand for. A column that already has such a name gives
    way."""
    return _renamed({name: _renamed_turns(value, columns) for name, value in row.items()}, columns)


def _renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    left = {name: value for name, value in row.items() if name not in columns}
    return left | {columns[name]: value for name, value in row.items() if name in columns}


def _renamed_turns(value: Any, columns: dict[str, str]) -> Any:
    if not isinstance(value, list):
        return value
    return [_renamed(one, columns) if isinstance(one, dict) else one for one in value]


def columns_of(reading: Reading) -> dict[str, str]:
    """Column -> the name it stands for, as asked."""
    return parse_columns(reading.columns) if reading.columns is not None else {}
