"""Rows out of one file, as they stand there: JSONL, JSON, CSV, TSV (each also as .gz) and parquet.

Here untrusted bytes come in, so it is strict and bounded: a line has a longest length, text is UTF-8 or refused, a key may not
stand twice. Rows count from 1 and blank lines are none; where a row is not the line of its number, both are said.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import DatasetError
from engine.i18n import _

LONGEST_LINE = 64 << 20
"""Bytes of one JSONL line; a longer one is no row but a damaged file."""

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LFS = b"version https://git-lfs.github.com/spec/"
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file, by its suffix. Raises DatasetError naming the file and the row, OSError where it cannot be read."""
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
    reader = readers.get(suffix_of(path))
    if reader is None:
        raise DatasetError(
            _("{path}: what this file holds is not known by its name").format(path=path.name),
            fix=_("Known are {suffixes} (text ones also as .gz).").format(suffixes=", ".join(SUFFIXES)),
        )
    return reader(path)


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in small letters: `.jsonl` of `Rows.JSONL.gz`; empty where there is none."""
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


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


def first_line(error: BaseException) -> str:
    """The first line that says something of a library's error, or its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    row = 0
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path), 1):
            if line.strip():
                row += 1
                yield _object(line, path, (row, number), cut_off=not line.endswith(b"\n"))


def _lines(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        line = _unpacked(lambda: file.readline(LONGEST_LINE + 1), path, number)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            _bad(path, (number, number), _("the line is longer than {limit} MiB").format(limit=LONGEST_LINE >> 20))
        yield line.removeprefix(BOM) if number == 1 else line


def _unpacked(read: Callable[[], bytes], path: Path, line: int | None = None) -> bytes:
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _bad(path, (None, line), _("the file ends early or is damaged ({words})").format(words=error))


def _whole_text(path: Path) -> str:
    with _open(path) as file:
        data = _unpacked(file.read, path)
    return _text(data.removeprefix(BOM), path, (None, None))


Place = tuple[int | None, int | None]
"""(row, line), each from 1 or None where it is not known."""


def _object(line: bytes, path: Path, place: Place, cut_off: bool) -> dict[str, Any]:
    found = _parsed(_text(line, path, place, cut_off), path, place, cut_off)
    if not isinstance(found, dict):
        _bad(path, place, _("is {what}, not an object").format(what=kind(found)), _("Each line is one JSON object."))
    return found


def _text(data: bytes, path: Path, place: Place, cut_off: bool = False) -> str:
    def at(byte: int) -> Place:
        return place if place != (None, None) else (None, data.count(b"\n", 0, byte) + 1)

    if data.startswith(UTF_16) and place[1] in (None, 1):
        _bad(path, (None, None), _("is UTF-16, not UTF-8"), _save_as_utf8(path, "UTF-16"))
    if b"\0" in data:
        _bad(path, at(data.index(0)), _("holds a NUL character"), _("The file is damaged, or it is no text."))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut_off and error.end == len(data) and error.reason == "unexpected end of data":
            _torn(path, place)
        what = _("is not UTF-8 (byte 0x{byte:02x})").format(byte=data[error.start])
        _bad(path, at(error.start), what, _save_as_utf8(path, "GB18030"))


def _save_as_utf8(path: Path, encoding: str) -> str:
    return _("Save the file as UTF-8; from {encoding}: iconv -f {encoding} -t UTF-8 {path} > utf8-{path}").format(
        encoding=encoding, path=path.name
    )


def _parsed(text: str, path: Path, place: Place, cut_off: bool = False) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _bad(path, place, _("the key {name!r} stands twice in one object").format(name=twice))
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        begun = text.strip()
        if cut_off and begun.startswith("{") and not begun.endswith("}"):
            _torn(path, place)
        where = place if place != (None, None) else (None, error.lineno)
        _bad(path, where, _("is not JSON: {words}, column {column}").format(words=error.msg, column=error.colno))
    except RecursionError:
        _bad(path, place, _("is nested too deeply"))
    except ValueError as error:  # a number of too many digits
        _bad(path, place, first_line(error))


def _torn(path: Path, place: Place) -> NoReturn:
    _bad(path, place, _("the last line is cut off"), _("Mend it, or remove it if the file was still being written."))


def _json(path: Path) -> Iterator[dict[str, Any]]:
    text = _whole_text(path)
    head, _newline, rest = text.lstrip().partition("\n")
    if head.startswith("{") and head.rstrip().endswith("}") and rest.strip():
        # One object a line under the name .json: common, and unmistakable.
        yield from _jsonl(path)
        return
    found = _parsed(text, path, (None, None))
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1 and len(found) <= 2 and "messages" not in found and "conversations" not in found:
            found = lists[0]
    if not isinstance(found, list):
        _bad(path, (None, None), _("holds {what}, not an array of rows").format(what=kind(found)),
             _("A JSON dataset is [{...}, {...}]; with one object a line, name it .jsonl."))  # fmt: skip
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            _bad(path, (number, None), _("is {what}, not an object").format(what=kind(row)))
        yield row


def _table(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    text = _whole_text(path)
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise DatasetError(_("{path}: a column name stands twice").format(path=path.name), ", ".join(header))
        for number, fields in enumerate((fields for fields in reader if fields), 1):
            if len(fields) != len(header):
                what = _("has {found} fields, the header has {wanted}").format(found=len(fields), wanted=len(header))
                _bad(
                    path, (number, reader.line_num), what, _("Fields with the delimiter or line breaks in them need quotes.")
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        _bad(path, (None, reader.line_num), str(error), _("Check the quotes around this line."))


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DatasetError(_("{path}: is no sound parquet file").format(path=path.name), first_line(error)) from None


def _bad(path: Path, place: Place, what: str, fix: str = "") -> NoReturn:
    row, line = place
    if row is not None and line is not None and row != line:
        where = _("{path}, row {row} (line {line})").format(path=path.name, row=row, line=line)
    elif row is not None:
        where = _("{path}, row {row}").format(path=path.name, row=row)
    elif line is not None:
        where = _("{path}, line {line}").format(path=path.name, line=line)
    else:
        where = path.name
    raise DatasetError(f"{where}: {what}", fix=fix)
