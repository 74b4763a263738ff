"""What is wrong with a dataset, row by row, as data.

An error is one text for a person; a script wants each row with a code. So an error about rows carries both: it reads as any other
of the family, and `problems` says the same again in parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import DatasetError
from engine.i18n import _, n_
from engine.named import with_rows

SHOWN = 20
"""Kinds of bad rows, and rows to leave out, named in one error; the others are counted."""
NUMBERED = 12
"""Rows of one kind of problem whose numbers are told; --json has more."""
LISTED = 10_000
"""Problems kept one by one."""


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
    parts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the words were made with, where they can be made again (remarks.py)."""


NAMED = 1000
"""Problems of one kind that are noticed that are kept one by one."""


@dataclass
class Notes:
    """What was noticed while rows were tokenised: of each kind the first NAMED problems, and how many there are."""

    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    """Rows that went in."""

    def add(self, problem: Problem) -> None:
        """One more."""
        self.counts[problem.code] = self.counts.get(problem.code, 0) + 1
        if self.counts[problem.code] <= NAMED:
            self.problems.append(problem)

    def take(self, other: Notes) -> None:
        """What was noticed in the rows that came next."""
        held = dict.fromkeys(other.counts, 0)
        for problem in other.problems:
            if self.counts.get(problem.code, 0) + held[problem.code] < NAMED:
                held[problem.code] += 1
                self.problems.append(problem)
        for code, count in other.counts.items():
            self.counts[code] = self.counts.get(code, 0) + count


class BadRows(DatasetError):
    """Rows that stop the start, each of them in `problems`."""

    def __init__(self, problems: Sequence[Problem], title: str, detail: str, fix: str) -> None:
        super().__init__(title, detail, fix)
        self.problems = tuple(problems)


class Collected:
    """Rows that stop the start, as they are found: each of the first, the number of all."""

    def __init__(self, skipped: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.skipped = skipped
        """Rows that are left out already, as they were named."""
        self.count = 0

    def add(self, problem: Problem) -> None:
        """One more; beyond LISTED it is only counted, so that a wholly bad dataset takes no room."""
        self.count += 1
        if len(self.problems) < LISTED:
            self.problems.append(problem)

    def take(self, other: Collected) -> None:
        """Those among the rows that came next."""
        self.problems += other.problems[: max(0, LISTED - len(self.problems))]
        self.count += other.count

    def error(self, rows: int, detail: str = "") -> BadRows:
        """One error for all of them, in a dataset of `rows` rows: how many, and each kind with its first row in full."""
        first = self.problems[0]
        if self.count == 1:
            return BadRows(self.problems, first.message, detail, first.fix)
        kinds: dict[str, list[Problem]] = {}
        for problem in self.problems:
            kinds.setdefault(_without_row(problem), []).append(problem)
        shown = list(kinds.values())[:SHOWN]
        told, *others = [kind[0].message + also(kind[1:], len(kind) - 1) for kind in shown]
        title = _("{count} of {rows} rows cannot be used; the first is {first}").format(
            count=self.count, rows=rows, first=told
        )
        if (more := self.count - sum(map(len, shown))) > 0:
            others.append(n_("and {count} more row", "and {count} more rows", more).format(count=more))
        return BadRows(self.problems, title, "\n".join([*others, detail] if detail else others), self._remedy(rows))

    def _remedy(self, rows: int) -> str:
        """What several of them have in common, and which to leave out, unless that were all of the `rows` rows."""
        common = [fix for fix, times in Counter(problem.fix for problem in self.problems).items() if fix and times > 1]
        if self.count == rows:
            return " ".join(common) or _("Mend the rows, or name another --format.")
        numbers = ",".join(str(problem.row) for problem in self.problems[:SHOWN] if problem.row is not None)
        left_out = _("Mend the rows, or leave them out with --skip-rows {rows}.").format(
            rows=with_rows(self.skipped, numbers) + ("" if self.count <= SHOWN else ",...")
        )
        return " ".join([*common, left_out])


def also(others: Sequence[Problem], count: int) -> str:
    """Behind what was told of one row: how many others there are, and the first of their rows."""
    if not count:
        return ""
    rows = ", ".join(str(problem.row) for problem in others[:NUMBERED] if problem.row is not None)
    rows += ", ..." if count > NUMBERED else ""
    return n_(" (and {count} more row: {rows})", " (and {count} more rows: {rows})", count).format(count=count, rows=rows)


def _without_row(problem: Problem) -> str:
    """What is told of a row, the same for all rows of which the same is told."""
    return re.sub(rf"\b{problem.row}\b", "", problem.message, count=1)
