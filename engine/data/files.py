"""Rows out of one file, as they stand there: JSONL and JSON here, tables and parquet in rooms of their own.

It is strict, since untrusted bytes come in: a key may not stand twice in an object. Rows count from 1 and blank lines are none; where
a row is not the line of its number, both are said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.data.parquet import parquet_rows
from engine.data.tables import table_rows
from engine.data.texts import Numbered, Place, bad, decoded, lines_of, opened, suffix_of, torn, whole_text
from engine.errors import DatasetError
from engine.i18n import _, sentences

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
CHATS = ("messages", "conversations", "conversation", "dialogue", "chat")
"""Columns that hold the turns of one row, and no rows."""
LFS = b"version https://git-lfs.github.com/spec/"
MOST_OFFERED = 8
"""Files of a folder that are offered; who has more knows how to name one."""


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


def read_file(
    path: Path,
    encoding: str = "utf-8",
    skip: Callable[[int], bool] = lambda row: False,
    blank: Callable[[int], object] = lambda row: None,
) -> Numbered:
    """The rows of one file, by its suffix. `skip` says which are left out unread, so that a damaged one can be among them; `blank` is
    told which rows of a table hold nothing.

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
        return table_rows(path, encoding, skip, blank, suffix)
    if suffix == ".parquet":
        return parquet_rows(path, skip)
    known = _("Known are {suffixes} (text ones also as .gz).").format(suffixes=", ".join(SUFFIXES))
    raise DatasetError(
        _("{path}: what this file holds is not known by its name").format(path=path.name),
        fix=sentences(remedy_of(suffix), known),
    )


def _as_table() -> str:
    return _("Save the sheet as CSV (UTF-8) in the program that made it.")


def _as_texts() -> str:
    return _('Make it JSON lines, {"text": "..."} for each text, or {"messages": [...]} for conversations.')


def remedy_of(suffix: str) -> str:
    """What to do with files of a `suffix` that is not read; empty where nothing is known."""
    return _REMEDIES[suffix]() if suffix in _REMEDIES else ""


_REMEDIES = {**dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), _as_table), **dict.fromkeys((".txt", ".md"), _as_texts)}
"""Suffix of what people have instead -> what to do with it, in the language of who asks."""


def kind(value: Any) -> str:
    """What a value of a row is, in a person's words."""
    if value is None:
        return _("null")
    if isinstance(value, bool):
        return _("true or false")
    if isinstance(value, int | float):
        return _("a number")
    if isinstance(value, str):
        return _("text")
    if isinstance(value, dict):
        return _("an object")
    # What parquet and save_to_disk hold beyond JSON's values: bytes, dates, decimals.
    return _("a list") if isinstance(value, list) else _("a value of the type {name}").format(name=type(value).__name__)


def _jsonl(path: Path, encoding: str, skip: Callable[[int], bool]) -> Numbered:
    row = 0
    with opened(path) as file:
        for number, line in enumerate(lines_of(file, path), 1):
            if line.strip():
                row += 1
                if row == 1 and not skip(row) and line.lstrip().startswith(b"["):
                    what = _("is the beginning of an array, and here each line is one JSON object")
                    bad(path, (row, number), what, _("Name the file .json: then it is read as an array of rows."))
                if not skip(row):
                    yield row, _object(line, path, (row, number), encoding, cut_off=not line.endswith(b"\n"))


def _object(line: bytes, path: Path, place: Place, encoding: str, cut_off: bool) -> dict[str, Any]:
    # Without its end, else what is missing there is missed in column 1 of the next line.
    text = decoded(line, path, place, encoding, cut_off).rstrip("\r\n")
    found = _parsed(text, path, place, cut_off)
    if not isinstance(found, dict):
        bad(path, place, _("is {what}, not an object").format(what=kind(found)), _("Each line is one JSON object."))
    return found


def _parsed(text: str, path: Path, place: Place, cut_off: bool = False) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            ((twice, _times),) = Counter(name for name, _value in pairs).most_common(1)
            bad(path, place, _("the key {name!r} stands twice in one object").format(name=twice))
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        begun = text.strip()
        if cut_off and begun.startswith("{") and not begun.endswith("}"):
            torn(path, place)
        where = place if place != (None, None) else (None, error.lineno)
        bad(path, where, _("is not JSON: {words}, column {column}").format(words=error.msg, column=error.colno))
    except RecursionError:
        bad(path, place, _("is nested too deeply"))
    except ValueError:  # all that is left: Python takes no whole number of more digits than it has a limit for
        most = sys.get_int_max_str_digits()
        long = re.search(rf"\d{{{most + 1},}}", text)
        where = place if place != (None, None) or long is None else (None, text.count("\n", 0, long.start()) + 1)
        what = _("holds a number of more than {most} digits").format(most=most)
        bad(path, where, what, _("Shorten it or make it text, or leave the row out with --skip-rows."))


def _json(path: Path, encoding: str, skip: Callable[[int], bool]) -> Numbered:
    text = whole_text(path, encoding)
    head, _newline, rest = text.lstrip().partition("\n")
    if head.startswith("{") and head.rstrip().endswith("}") and rest.strip():
        # One object a line under the name .json: common, and unmistakable.
        yield from _jsonl(path, encoding, skip)
        return
    found = _parsed(text, path, (None, None))
    if isinstance(found, dict):
        lists = {
            name: value for name, value in found.items() if isinstance(value, list) and value and isinstance(value[0], dict)
        }
        if "data" in lists:  # what stands beside it describes it
            found = lists["data"]
        elif len(lists) == 1 and len(found) <= 2 and not any(name in found for name in CHATS):
            (found,) = lists.values()
    if not isinstance(found, list):
        bad(path, (None, None), _("holds {what}, not an array of rows").format(what=kind(found)),
             _("A JSON dataset is [{...}, {...}]; with one object a line, name it .jsonl."))  # fmt: skip
    for number, row in enumerate(found, 1):
        if skip(number):
            continue
        if not isinstance(row, dict):
            bad(path, (number, None), _("is {what}, not an object").format(what=kind(row)))
        yield number, row
