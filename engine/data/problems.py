"""What is wrong with a dataset, row by row, as data.

An error is one text for a person; a script wants each row with a code. So an error about rows carries both: it reads as any other
of the family, and `problems` says the same again in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import DatasetError
from engine.i18n import _, n_

SHOWN = 20
"""Rows named in one error; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """Something that a person should know before training on this dataset."""

    row: int | None
    """From 1, in the dataset as given; None: about all of it."""
    code: str
    severity: Literal["stops", "costs", "info"]
    """stops: cannot be trained on; costs: something is lost; info: worth knowing."""
    message: str
    fix: str = ""


class BadRows(DatasetError):
    """Rows that stop the start, each of them in `problems`."""

    def __init__(self, problems: Sequence[Problem], title: str, detail: str, fix: str) -> None:
        super().__init__(title, detail, fix)
        self.problems = tuple(problems)


def bad_rows(problems: Sequence[Problem], rows: int) -> BadRows:
    """One error for all `problems` of a dataset of `rows` rows: how many, and the first ones in full."""
    first, more = problems[0], len(problems) - SHOWN
    if len(problems) == 1:
        return BadRows(problems, first.message, "", first.fix)
    title = _("{count} of {rows} rows cannot be used; the first is {first}").format(
        count=len(problems), rows=rows, first=first.message
    )
    listed = [problem.message for problem in problems[1:SHOWN]]
    if more > 0:
        listed.append(n_("and {count} more row", "and {count} more rows", more).format(count=more))
    return BadRows(problems, title, "\n".join(listed), first.fix)
