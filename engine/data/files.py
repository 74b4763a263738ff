"""Rows out of one file, as they stand there: JSONL, JSON, CSV, TSV (each also as .gz) and parquet.

Here untrusted bytes come in, so it is strict and bounded: a line has a longest length, text is of the encoding that was said or
refused, a key may not stand twice. Rows count from 1 and blank lines are none; where a row is not the line of its number, both
are said.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import DatasetError, first_line
from engine.i18n import _, sentences

LONGEST_LINE = 64 << 20
"""Bytes of one JSONL line; a longer one is no row but a damaged file."""

LARGEST_TEXT = 1 << 30
"""Bytes of a JSON array or a table, which are read as a whole."""
MOST_PACKED = 200
"""Text shrinks to a tenth, seldom to a fiftieth; a parquet file that unpacks to this many times its size, and to more than a
gigabyte, is made to fill a memory."""

LONGEST_HEADER = 1 << 16
DELIMITERS = ",;\t|"
"""What stands between the fields of a .csv: the first of these that makes more than one column of its header. Where the comma is the
decimal sign, spreadsheets write semicolons."""
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
CHATS = ("messages", "conversations", "conversation", "dialogue", "chat")
"""Columns that hold the turns of one row, and no rows."""
LFS = b"version https://git-lfs.github.com/spec/"
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


MOST_OFFERED = 8
"""Files of a folder that are offered; who has more knows how to name one."""
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""(row number from 1, row) pairs; numbers of rows that were left out are missing."""


def data_files(folder: Path) -> tuple[tuple[str, int], ...]:
    """(name, bytes) of the files in `folder` that may be datasets by their suffix, the newest first. Nothing is read, and a folder
    that cannot be listed has none."""
    found: list[tuple[float, str, int]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name.removesuffix(".gz")).suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                with contextlib.suppress(OSError):
                    if entry.is_file():
                        itself = entry.stat()
                        found.append((-itself.st_mtime, entry.name, itself.st_size))
    return tuple((name, size) for _age, name, size in sorted(found)[:MOST_OFFERED])


def read_file(path: Path, encoding: str = "utf-8", skip: Callable[[int], bool] = lambda row: False) -> Numbered:
    """The rows of one file, by its suffix. `skip` says which are left out unread, so that a damaged one can be among them.

    Raises DatasetError naming the file and the row, OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(LFS):
        raise DatasetError(
            _("{path}: is a Git LFS pointer, not the data").format(path=path), fix=_("Fetch the data with: git lfs pull")
        )
    suffix = suffix_of(path)
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(path, encoding, skip)
    if suffix == ".json":
        return _json(path, encoding, skip)
    if suffix in (".csv", ".tsv"):
        return _table(path, encoding, skip, suffix)
    if suffix == ".parquet":
        return _parquet(path, skip)
    known = _("Known are {suffixes} (text ones also as .gz).").format(suffixes=", ".join(SUFFIXES))
    remedy = _REMEDIES[suffix]() if suffix in _REMEDIES else ""
    raise DatasetError(
        _("{path}: what this file holds is not known by its name").format(path=path.name), fix=sentences(remedy, known)
    )


def _as_table() -> str:
    return _("Save the sheet as CSV (UTF-8) in the program that made it.")


def _as_texts() -> str:
    return _('Make it JSON lines, {"text": "..."} for each text, or {"messages": [...]} for conversations.')


_REMEDIES = {**dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), _as_table), **dict.fromkeys((".txt", ".md"), _as_texts)}
"""Suffix of what people have instead -> what to do with it, in the language of who asks."""


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


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """The bytes of a file of rows, unpacked where its name says that it is packed. Raises OSError."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _jsonl(path: Path, encoding: str, skip: Callable[[int], bool]) -> Numbered:
    row = 0
    with opened(path) as file:
        for number, line in enumerate(_lines(file, path), 1):
            if line.strip():
                row += 1
                if not skip(row):
                    yield row, _object(line, path, (row, number), encoding, cut_off=not line.endswith(b"\n"))


def _lines(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        line = _unpacked(lambda: file.readline(LONGEST_LINE + 1), path, number)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            _bad(
                path,
                (number, number),
                _("the line is longer than {limit} MiB").format(limit=LONGEST_LINE >> 20),
                _mend_words(),
            )
        yield line.removeprefix(BOM) if number == 1 else line


def _unpacked(read: Callable[[], bytes], path: Path, line: int | None = None) -> bytes:
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _bad(path, (None, line), _("the file ends early or is damaged ({words})").format(words=error))


def _whole_text(path: Path, encoding: str) -> str:
    with opened(path) as file:
        data = _unpacked(lambda: file.read(LARGEST_TEXT + 1), path)
    if len(data) > LARGEST_TEXT:
        raise DatasetError(
            _("{path}: has more than {limit} MiB of text").format(path=path.name, limit=LARGEST_TEXT >> 20),
            _("This format is read as a whole."),
            _("Give it as .jsonl (one object a line) or .parquet, which are read row by row."),
        )
    return _text(data.removeprefix(BOM), path, (None, None), encoding)


Place = tuple[int | None, int | None]
"""(row, line), each from 1 or None where it is not known."""


def _object(line: bytes, path: Path, place: Place, encoding: str, cut_off: bool) -> dict[str, Any]:
    found = _parsed(_text(line, path, place, encoding, cut_off), path, place, cut_off)
    if not isinstance(found, dict):
        _bad(path, place, _("is {what}, not an object").format(what=kind(found)), _("Each line is one JSON object."))
    return found


def _text(data: bytes, path: Path, place: Place, encoding: str, cut_off: bool = False) -> str:
    def at(byte: int) -> Place:
        return place if place != (None, None) else (None, data.count(b"\n", 0, byte) + 1)

    if data.startswith(UTF_16) and place[1] in (None, 1):
        _bad(path, (None, None), _("is UTF-16, not UTF-8"), _save_as_utf8(path, "utf-16"))
    if b"\0" in data:
        _bad(path, at(data.index(0)), _("holds a NUL character"), _("The file is damaged, or it is no text."))
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if (
            cut_off
            and error.end == len(data)
            and error.reason in ("unexpected end of data", "incomplete multibyte sequence")
        ):
            _torn(path, place)
        what = _("is not {encoding} (byte 0x{byte:02x})").format(encoding=encoding.upper(), byte=data[error.start])
        _bad(path, at(error.start), what, _save_as_utf8(path, "gb18030"))


def _save_as_utf8(path: Path, encoding: str) -> str:
    if encoding == "utf-16":
        return _("Save the file as UTF-8: iconv -f UTF-16 -t UTF-8 {path} > utf8-{path}").format(path=path.name)
    return _("Say what it is with --encoding (gb18030 for most Chinese files), or save it as UTF-8 with iconv; a damaged row "
             "can be left out with --skip-rows.")  # fmt: skip


def _parsed(text: str, path: Path, place: Place, cut_off: bool = False) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            ((twice, _times),) = Counter(name for name, _value in pairs).most_common(1)
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
    except ValueError:  # all that is left: Python takes no whole number of more digits than it has a limit for
        most = sys.get_int_max_str_digits()
        long = re.search(rf"\d{{{most + 1},}}", text)
        where = place if place != (None, None) or long is None else (None, text.count("\n", 0, long.start()) + 1)
        what = _("holds a number of more than {most} digits").format(most=most)
        _bad(path, where, what, _("Shorten it or make it text, or leave the row out with --skip-rows."))


def _torn(path: Path, place: Place) -> NoReturn:
    _bad(path, place, _("the last line is cut off"), _("Mend it, or leave it out with --skip-rows."))


def _json(path: Path, encoding: str, skip: Callable[[int], bool]) -> Numbered:
    text = _whole_text(path, encoding)
    head, _newline, rest = text.lstrip().partition("\n")
    if head.startswith("{") and head.rstrip().endswith("}") and rest.strip():
        # One object a line under the name .json: common, and unmistakable.
        yield from _jsonl(path, encoding, skip)
        return
    found = _parsed(text, path, (None, None))
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1 and len(found) <= 2 and not any(name in found for name in CHATS):
            found = lists[0]
    if not isinstance(found, list):
        _bad(path, (None, None), _("holds {what}, not an array of rows").format(what=kind(found)),
             _("A JSON dataset is [{...}, {...}]; with one object a line, name it .jsonl."))  # fmt: skip
    for number, row in enumerate(found, 1):
        if skip(number):
            continue
        if not isinstance(row, dict):
            _bad(path, (number, None), _("is {what}, not an object").format(what=kind(row)))
        yield number, row


def _table(path: Path, encoding: str, skip: Callable[[int], bool], suffix: str) -> Numbered:
    text = _whole_text(path, encoding)
    csv.field_size_limit(LONGEST_LINE)
    delimiter = _delimiter(text[:LONGEST_HEADER], suffix)

    def fields(spaced: bool) -> Any:
        return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced, strict=True)

    reader = fields(spaced=False)
    try:
        header = next(reader, None)
        if header is None:
            return
        # People write ", ": then the space is no part of a name, nor of what stands below it, and quotes are behind it.
        if len(header) > 1 and all(name.startswith(" ") for name in header[1:]):
            reader = fields(spaced=True)
            header = next(reader)
        header = [name.strip() for name in header]
        if len(set(header)) != len(header):
            raise DatasetError(
                _("{path}: a column name stands twice").format(path=path.name), ", ".join(header), _("Rename one of them.")
            )
        for number, found in enumerate((one for one in reader if one), 1):
            if skip(number):
                continue
            if len(found) != len(header):
                what = _("has {found} fields, the header has {wanted}").format(found=len(found), wanted=len(header))
                _bad(
                    path, (number, reader.line_num), what, _("Fields with the delimiter or line breaks in them need quotes.")
                )
            yield number, dict(zip(header, found, strict=True))
    except csv.Error as error:
        _bad(path, (None, reader.line_num), str(error), _("Check the quotes around this line."))


def delimiter_of(path: Path, encoding: str = "utf-8") -> str:
    """What stands between the fields of a table. Raises DatasetError or OSError where it cannot be read."""
    with opened(path) as file:
        data = _unpacked(lambda: file.read(LONGEST_HEADER), path)
    return _delimiter(data.removeprefix(BOM).decode(encoding, errors="replace"), suffix_of(path))


def _delimiter(head: str, suffix: str) -> str:
    """`head`: the beginning of a table, its header whole."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True), ()))
        except csv.Error:
            return 0

    return "\t" if suffix == ".tsv" else next((one for one in DELIMITERS if columns(one) > 1), ",")


def _parquet(path: Path, skip: Callable[[int], bool]) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    number = unpacked = 0
    limit = max(LARGEST_TEXT, MOST_PACKED * path.stat().st_size)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_rows_at_a_time(file.metadata)):
                unpacked += batch.nbytes
                if unpacked > limit:
                    raise ValueError(_("it unpacks to more than {factor} times its size").format(factor=MOST_PACKED))
                for row in batch.to_pylist():
                    number += 1
                    if not skip(number):
                        yield number, unpadded(row)
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DatasetError(
            _("{path}: is no sound parquet file").format(path=path.name), first_line(error), _mend_words()
        ) from None


def unpadded(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was before Arrow held it. There all structs of a column have the same fields, and what one of them lacks is null:
    the arguments of one tool's call would be those of another's too. A null that was meant looks the same and goes with them."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _rows_at_a_time(metadata: Any) -> int:
    """So few rows that a batch stays small whatever the file unpacks to. Raises ValueError where one row alone would be too large."""
    rows = max(1, metadata.num_rows)
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > rows * LONGEST_LINE:
        raise ValueError(_("its rows unpack to {size} MiB each").format(size=unpacked // rows >> 20))
    return int(max(1, min(128, rows * LONGEST_LINE // max(1, unpacked))))


def _mend_words() -> str:
    return _("Mend the file, or make or fetch it again from its source.")


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
    if not fix and row is not None:  # a row that is left out is not read
        fix = _("Mend it, or leave it out with --skip-rows.")
    raise DatasetError(f"{where}: {what}", fix=fix or _mend_words(), row=row)
