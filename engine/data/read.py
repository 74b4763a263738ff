"""Rows out of files, as they stand there: JSONL, JSON, CSV, TSV, parquet, Arrow folders and hub datasets.

Reading is where untrusted bytes come in, so it is strict and bounded: a line has a longest length, text is UTF-8 or refused, a
key may not stand twice, and no code that lies beside the data is ever run. Each problem names the file and the row. What a row means
is decided in formats.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import DatasetError
from engine.i18n import _

LONGEST_LINE = 64 << 20
"""Bytes of one JSONL line; a longer one is no row but a damaged file."""

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Raw:
    """Rows as they stand in their source."""

    name: str
    """How a person calls the source in messages: a file's name or a hub id."""
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def read_raw(dataset: str) -> Raw:
    """All rows of `dataset`: a file, a folder or a hub id. Raises DatasetError (exit 4)."""
    path = Path(dataset).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists():
            if not path.is_file():
                raise DatasetError(_("{path}: is no regular file").format(path=path))
            return Raw(path.name, list(_file(path)))
    except OSError as error:
        raise DatasetError(_("{path}: cannot be read").format(path=path), error.strerror or str(error)) from None
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
    files = sorted(entry for entry in folder.rglob("*") if entry.is_file() and _suffix(entry) in SUFFIXES)
    training = [entry for entry in files if entry.stem.lower().startswith("train") or "train" in entry.parent.name.lower()]
    chosen = training or files
    if not chosen:
        raise DatasetError(
            _("{folder}: no data file in it").format(folder=folder),
            fix=_("Known are {suffixes}, and folders written by datasets' save_to_disk.").format(
                suffixes=", ".join(SUFFIXES)
            ),
        )
    rows = [row for entry in chosen for row in _file(entry)]
    note = _("{folder}: {count} files read: {names}").format(
        folder=folder.name, count=len(chosen), names=", ".join(entry.name for entry in chosen[:5])
    )
    return Raw(folder.name, rows, (note,))


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def _file(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(LFS):
        raise DatasetError(
            _("{path}: is a Git LFS pointer, not the data").format(path=path), fix=_("Fetch the data with: git lfs pull")
        )
    readers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": lambda source: _table(source, ","),
        ".tsv": lambda source: _table(source, "\t"),
        ".parquet": _parquet,
    }
    reader = readers.get(_suffix(path))
    if reader is None:
        raise DatasetError(
            _("{path}: what this file holds is not known by its name").format(path=path.name),
            fix=_("Known are {suffixes} (text ones also as .gz).").format(suffixes=", ".join(SUFFIXES)),
        )
    return reader(path)


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path), 1):
            if line.strip():
                yield _object(line, path, number, last=not line.endswith(b"\n"))


def _lines(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(LONGEST_LINE + 1)
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            _bad(path, number, _("the file ends early or is damaged ({words})").format(words=error))
        if not line:
            return
        if len(line) > LONGEST_LINE:
            _bad(path, number, _("the line is longer than {limit} MiB").format(limit=LONGEST_LINE >> 20))
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _object(line: bytes, path: Path, number: int, last: bool) -> dict[str, Any]:
    found = _parsed(_text(line, path, number), path, number, cut_off=last)
    if not isinstance(found, dict):
        _bad(path, number, _("is {what}, not an object").format(what=kind(found)), _("Each line is one JSON object."))
    return found


def _text(data: bytes, path: Path, number: int | None) -> str:
    if b"\0" in data:
        _bad(path, number, _("holds a NUL character"), _("The file is damaged, or it is no text."))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _bad(
            path,
            number if number is not None else data.count(b"\n", 0, error.start) + 1,
            _("is not UTF-8 (byte 0x{byte:02x})").format(byte=data[error.start]),
            _("Save the file as UTF-8; from GB18030: iconv -f GB18030 -t UTF-8 {path} > utf8-{path}").format(path=path.name),
        )


def _parsed(text: str, path: Path, number: int | None, cut_off: bool = False) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _bad(path, number, _("the key {name!r} stands twice in one object").format(name=twice))
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        if cut_off:
            _bad(
                path, number, _("the last line is cut off"), _("Mend it, or remove it if the file was still being written.")
            )
        where = number if number is not None else error.lineno
        _bad(path, where, _("is not JSON: {words}, column {column}").format(words=error.msg, column=error.colno))
    except RecursionError:
        _bad(path, number, _("is nested too deeply"))
    except ValueError as error:  # a number of too many digits
        _bad(path, number, str(error).splitlines()[0])
    return found


def _json(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        try:
            data = file.read()
        except (EOFError, gzip.BadGzipFile) as error:
            _bad(path, None, _("the file ends early or is damaged ({words})").format(words=error))
    found = _parsed(_text(data.removeprefix(b"\xef\xbb\xbf"), path, None), path, None)
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1 and len(found) <= 2 and "messages" not in found and "conversations" not in found:
            found = lists[0]
    if not isinstance(found, list):
        _bad(path, None, _("holds {what}, not an array of rows").format(what=kind(found)),
             _("A JSON dataset is [{...}, {...}]; with one object a line, name it .jsonl."))  # fmt: skip
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            _bad(path, number, _("is {what}, not an object").format(what=kind(row)))
        yield row


def _table(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    with _open(path) as file:
        text = _text(file.read().removeprefix(b"\xef\xbb\xbf"), path, None)
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise DatasetError(_("{path}: a column name stands twice").format(path=path.name), ", ".join(header))
        for number, fields in enumerate(reader, 1):
            if not fields:
                continue
            if len(fields) != len(header):
                _bad(path, number, _("has {found} fields, the header has {wanted}").format(found=len(fields), wanted=len(header)),
                     _("Fields with the delimiter or line breaks in them need quotes."))  # fmt: skip
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        _bad(path, reader.line_num, str(error), _("Check the quotes around this line."))


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(
            _("{path}: is no sound parquet file").format(path=path.name), str(error).splitlines()[0]
        ) from None


def _saved_to_disk(folder: Path) -> Raw:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        # datasets raises whatever a damaged folder leads it to.
        raise DatasetError(
            _("{folder}: cannot be loaded as a save_to_disk folder").format(folder=folder), str(error).splitlines()[0]
        ) from None
    return _of_splits(found, folder.name)


def _hub(repo: str) -> Raw:
    looks_like_path = repo.startswith((".", "/", "~")) or repo.count("/") > 1 or _suffix(Path(repo)) in SUFFIXES
    if looks_like_path or "\\" in repo:
        raise DatasetError(_("{path}: there is no such file or folder").format(path=repo), fix=_("Check the path."))
    import datasets

    try:
        found = datasets.load_dataset(repo)
    except Exception as error:
        # Offline, unknown, gated, with a script, damaged: one sentence for all, with the library's own words.
        raise DatasetError(
            _("{repo}: there is no such file here, and it cannot be loaded from the hub").format(repo=repo),
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            _("Check the path or id, or the network; HF_ENDPOINT names a mirror."),
        ) from None
    return _of_splits(found, repo)


def _of_splits(found: Any, name: str) -> Raw:
    if not isinstance(found, dict):
        return Raw(name, found.to_list())
    split = "train" if "train" in found else next(iter(found))
    note = _("{name}: the split {split} of {splits} is used").format(name=name, split=split, splits=", ".join(found))
    return Raw(name, found[split].to_list(), (note,) if len(found) > 1 else ())


def kind(value: Any) -> str:
    """What a JSON value is, in a person's words."""
    if value is None:
        return _("null")
    if isinstance(value, bool):
        return _("true or false")
    if isinstance(value, int | float):
        return _("a number")
    if isinstance(value, str):
        return _("text")
    return _("a list") if isinstance(value, list) else _("an object")


def _bad(path: Path, row: int | None, what: str, fix: str = "") -> NoReturn:
    where = _("{path}, row {row}").format(path=path.name, row=row) if row is not None else path.name
    raise DatasetError(f"{where}: {what}", fix=fix)
