"""What a person names of a dataset: its columns by what they stand for, rows by their numbers."""

from __future__ import annotations

from engine.i18n import _

COLUMNS = (
    "messages",
    "role",
    "content",
    "prompt",
    "completion",
    "text",
    "instruction",
    "input",
    "output",
    "system",
    "tools",
)
"""What a column may stand for."""
MAX_SKIPPED = 1_000_000


def parse_columns(value: str) -> dict[str, str]:
    """`prompt=question,completion=answer` -> {"question": "prompt", "answer": "completion"}. Raises ValueError."""
    found: dict[str, str] = {}
    for part in value.split(","):
        name, equals, column = (side.strip() for side in part.partition("="))
        if not equals or not column or name not in COLUMNS:
            raise ValueError(
                _("has a part {part} that is not NAME=COLUMN; names are {names}").format(
                    part=repr(part), names=", ".join(COLUMNS)
                )
            )
        if column in found or name in found.values():
            raise ValueError(_("names {part} twice").format(part=repr(part)))
        found[column] = name
    return found


def with_rows(skipped: str | None, rows: str) -> str:
    """The whole value that leaves out `rows` too: a flag that is named again says all of it anew."""
    return f"{skipped},{rows}" if skipped else rows


def parse_rows(value: str) -> frozenset[int]:
    """`7,100-120` -> the row numbers, from 1. Raises ValueError."""
    found: set[int] = set()
    for part in value.split(","):
        low, dash, high = (side.strip() for side in part.partition("-"))
        if not (low.isascii() and low.isdigit()) or (dash and not (high.isascii() and high.isdigit())):
            raise ValueError(
                _("has a part {part} that is no row number and no range such as 100-120").format(part=repr(part))
            )
        first, last = int(low), int(high if dash else low)
        if not 1 <= first <= last or last - first + len(found) > MAX_SKIPPED:
            raise ValueError(_("has a part {part} that is no range of rows; they count from 1").format(part=repr(part)))
        found.update(range(first, last + 1))
    return frozenset(found)
