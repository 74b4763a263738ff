"""The text of a file of rows: unpacked, decoded strictly, with bounds; and the error that says where it is wrong.

Here untrusted bytes come in. Text is of the encoding that was said, or refused; a line has a longest length, and so has a text that is
read as a whole.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import DatasetError
from engine.i18n import _

LONGEST_LINE = 64 << 20
"""Bytes of one JSONL line; a longer one is no row but a damaged file."""
LARGEST_TEXT = 1 << 30
"""Bytes of a JSON array or a table, which are read as a whole."""
BOM = b"\xef\xbb\xbf"
WIDE = {"UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "UTF-16": (b"\xff\xfe", b"\xfe\xff")}
"""What files of these encodings begin with; UTF-16's mark is the beginning of UTF-32's."""

Place = tuple[int | None, int | None]
"""(row, line), each from 1 or None where it is not known."""
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""(row number from 1, row) pairs; numbers of rows that were left out are missing."""


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in small letters: `.jsonl` of `Rows.JSONL.gz`; empty where there is none."""
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """The bytes of a file of rows, unpacked where its name says that it is packed. Raises OSError."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def lines_of(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[bytes]:
    """The lines of `path`, opened as `file`, with their ends. Raises DatasetError where one is too long or cannot be unpacked."""
    number = 0
    while True:
        number += 1
        line = unpacked(lambda: file.readline(LONGEST_LINE + 1), path, number)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            bad(
                path,
                (number, number),
                _("the line is longer than {limit} MiB").format(limit=LONGEST_LINE >> 20),
                mend_words(),
            )
        yield line.removeprefix(BOM) if number == 1 else line


def unpacked(read: Callable[[], bytes], path: Path, line: int | None = None) -> bytes:
    """What `read` gives of a file that may be packed. Raises DatasetError where it is damaged; `line`: from 1, where it is read."""
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        bad(path, (None, line), _("the file ends early or is damaged ({words})").format(words=error))


def whole_text(path: Path, encoding: str) -> str:
    """The text of a format that is read as a whole. Raises DatasetError where it is too much, damaged or of another encoding."""
    with opened(path) as file:
        data = unpacked(lambda: file.read(LARGEST_TEXT + 1), path)
    if len(data) > LARGEST_TEXT:
        raise DatasetError(
            _("{path}: has more than {limit} MiB of text").format(path=path.name, limit=LARGEST_TEXT >> 20),
            _("This format is read as a whole."),
            _("Give it as .jsonl (one object a line) or .parquet, which are read row by row."),
        )
    return decoded(data.removeprefix(BOM), path, (None, None), encoding)


def decoded(data: bytes, path: Path, place: Place, encoding: str, cut_off: bool = False) -> str:
    """`data`, which stands at `place`, as text. Raises DatasetError. `cut_off`: no line end follows, so it may be torn there."""

    def at(byte: int) -> Place:
        return place if place != (None, None) else (None, data.count(b"\n", 0, byte) + 1)

    wide = next((name for name, marks in WIDE.items() if data.startswith(marks)), None)
    if wide is not None and place[1] in (None, 1):
        fix = _("Save the file as UTF-8: iconv -f {encoding} -t UTF-8 {path} > utf8-{path}")
        bad(
            path,
            (None, None),
            _("is {encoding}, not UTF-8").format(encoding=wide),
            fix.format(encoding=wide, path=path.name),
        )
    if b"\0" in data:
        bad(path, at(data.index(0)), _("holds a NUL character"), _("The file is damaged, or it is no text."))
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if (
            cut_off
            and error.end == len(data)
            and error.reason in ("unexpected end of data", "incomplete multibyte sequence")
        ):
            torn(path, place)
        what = _("is not {encoding} (byte 0x{byte:02x})").format(encoding=encoding.upper(), byte=data[error.start])
        fix = _("Say what it is with --encoding (gb18030 for most Chinese files), or save it as UTF-8 with iconv; a damaged row "
                "can be left out with --skip-rows.")  # fmt: skip
        bad(path, at(error.start), what, fix)


def torn(path: Path, place: Place) -> NoReturn:
    """Raise DatasetError for a last line that ends too early."""
    bad(path, place, _("the last line is cut off"), _("Mend it, or leave it out with --skip-rows."))


def mend_words() -> str:
    """What to do about a damaged file."""
    return _("Mend the file, or make or fetch it again from its source.")


def bad(path: Path, place: Place, what: str, fix: str = "") -> NoReturn:
    """Raise DatasetError: what is wrong, and at which row and line; without a `fix` the row or the file is to be mended."""
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
    raise DatasetError(f"{where}: {what}", fix=fix or mend_words(), row=row)
