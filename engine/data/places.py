"""Whether rows, cut as they will be, are longer than a model was made for.

Most models count places by turning vectors, and go on beyond what they were made for as well as they can: that is told. Others have
learned a vector for each place, and beyond the last one is nothing: torch would end the run at the first such row, wherever it comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpoints.files import Unsound, number
from engine.data.problems import Problem
from engine.data.report import DatasetReport
from engine.data.token_table import TokenTable
from engine.errors import ConfigError, ModelError
from engine.i18n import _, n_
from engine.models.folder import read_model_config
from engine.models.report import weight_headers

NAMES = ("wpe.", "embed_positions.", "position_embeddings.", "embed_position.")
"""Parts of the names of weights that hold a vector for each place."""


@dataclass(frozen=True)
class Places:
    """The places that a model has for the tokens of a row."""

    count: int
    learned: bool
    """Whether there is nothing beyond them."""


def places_of(folder: Path) -> Places | None:
    """The places of the model in `folder`, by its config.json and the headers of its files; None where they do not tell."""
    try:
        config = read_model_config(folder)
        headers = weight_headers(folder)
    except (OSError, ModelError, Unsound):  # told by whoever loads it
        return None
    nested = config.get("text_config")
    text: dict[str, Any] = nested if isinstance(nested, dict) else config
    count = next((value for name in ("max_position_embeddings", "n_positions") if _is_count(value := text.get(name))), None)
    if count is None:
        return None
    tables = (one.shape[0] for name, one in headers.items() if any(part in name for part in NAMES) and len(one.shape) == 2)
    if any(rows in (count, count + 2) for rows in tables):  # OPT's has two more than it uses
        return Places(count, True)
    return Places(int(count * _stretched(text)), False)


def beyond(table: TokenTable, folder: Path, max_length: int) -> Problem | None:
    """What to know of rows of `table` that are longer than the model in `folder` was made for; None where there are none. Raises
    ConfigError where it cannot take them."""
    places = places_of(folder)
    if places is None or not len(over := np.flatnonzero(table.lengths > places.count)):
        return None
    row, tokens = int(table.source_row[over[0]]), int(table.lengths[over[0]])
    if places.learned:
        raise ConfigError(
            _("--max-length {length}: this model takes no more than {places} tokens").format(
                length=max_length, places=places.count
            ),
            n_(
                "{count} row is longer: row {row} with {tokens}.",
                "{count} rows are longer; the first is row {row} with {tokens}.",
                len(over),
            ).format(count=len(over), row=row, tokens=tokens),
            _("--max-length {places} cuts what is longer.").format(places=places.count),
        )
    words = n_(
        "{count} row is longer than the {places} tokens that the model was made for (row {row} with {tokens})",
        "{count} rows are longer than the {places} tokens that the model was made for (the first is row {row} with {tokens})",
        len(over),
    ).format(count=len(over), places=places.count, row=row, tokens=tokens)
    fix = _("What stands behind them it understands badly; --max-length {places} cuts it.").format(places=places.count)
    return Problem(row, "beyond_context", "costs", words, fix)


def with_places(report: DatasetReport, folder: Path) -> DatasetReport:
    """`report` with what there is to know of rows that are longer than the model in `folder` was made for."""
    if report.table is None or report.stopped is not None:
        return report
    try:
        found = beyond(report.table, folder, report.max_length)
    except ConfigError as error:
        return report.stopped_by(error)
    if found is None:
        return report
    return replace(report, problems=(found, *report.problems), counts={**report.counts, found.code: 1})


def _stretched(text: dict[str, Any]) -> float:
    """By what the places are stretched beyond those that config.json names; more rather than less, as this is only told."""
    ways = (text.get(name) for name in ("rope_scaling", "rope_parameters"))
    factors = (number(way.get("factor")) for way in ways if isinstance(way, dict))
    return max([1.0, *(factor for factor in factors if factor is not None)])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
