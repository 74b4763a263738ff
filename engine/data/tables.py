"""Rows out of a table of text, CSV or TSV, by the names in its header."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.data.texts import BOM, LONGEST_LINE, Numbered, bad, opened, suffix_of, unpacked, whole_text
from engine.errors import DatasetError
from engine.i18n import _

LONGEST_HEADER = 1 << 16
DELIMITERS = ",;\t|"
"""What stands between the fields of a .csv: the first of these that makes more than one column of its header. Where the comma is the
decimal sign, spreadsheets write semicolons."""


def table_rows(
    path: Path, encoding: str, skip: Callable[[int], bool], blank: Callable[[int], object], suffix: str
) -> Numbered:
    """The rows of a table, each by the names in its header. One in which nothing stands, as spreadsheets write below the last, is
    told to `blank` and keeps its number. Raises DatasetError naming the row."""
    text = whole_text(path, encoding)
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
        named = [name for name in header if name]
        if len(set(named)) != len(named):
            raise DatasetError(
                _("{path}: a column name stands twice").format(path=path.name), ", ".join(header), _("Rename one of them.")
            )
        for number, found in enumerate((one for one in reader if one), 1):
            if skip(number):
                continue
            if not any(field.strip() for field in found):
                blank(number)
                continue
            if len(found) != len(header):
                what = _("has {found} fields, the header has {wanted}").format(found=len(found), wanted=len(header))
                bad(
                    path, (number, reader.line_num), what, _("Fields with the delimiter or line breaks in them need quotes.")
                )
            # Spreadsheets write empty columns behind the last one; of several without a name a row could hold one only.
            if len(header) - len(named) > 1 and any(field and not name for name, field in zip(header, found, strict=True)):
                bad(path, (number, reader.line_num), _("has words in one of several columns without a name"))
            yield number, dict(zip(header, found, strict=True))
    except csv.Error as error:
        bad(path, (None, reader.line_num), str(error), _("Check the quotes around this line."))


def delimiter_of(path: Path, encoding: str = "utf-8") -> str:
    """What stands between the fields of a table. Raises DatasetError or OSError where it cannot be read."""
    with opened(path) as file:
        data = unpacked(lambda: file.read(LONGEST_HEADER), path)
    return _delimiter(data.removeprefix(BOM).decode(encoding, errors="replace"), suffix_of(path))


def _delimiter(head: str, suffix: str) -> str:
    """`head`: the beginning of a table, its header whole."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True), ()))
        except csv.Error:
            return 0

    return "\t" if suffix == ".tsv" else next((one for one in DELIMITERS if columns(one) > 1), ",")
