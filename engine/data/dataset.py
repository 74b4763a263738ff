"""A run's dataset as the plan and the training both need it: identified, and split into what is trained on and what is held back.

The plan tells before anything loads whether the rows are those of last time. It needs their digests and not the rows, and those lie in
the cache for data that was read before (table.py), so neither the plan nor a start reads it again. Nothing here needs torch or a
tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, product

import numpy as np
import numpy.typing as npt

from engine.checkpoints.manifest import DatasetIdentity
from engine.config import RunConfig
from engine.data.formats import OWN, Rows, read_rows
from engine.data.identity import Digests, identify
from engine.data.read import Reading, is_hub_id
from engine.data.split import Places, split
from engine.data.table import row_digests
from engine.i18n import _, n_
from engine.named import parse_rows

DATA_SETTINGS = ("format", "train_on", "max_length", "eval_fraction")
"""Settings that turn rows into tokens."""


@dataclass(frozen=True)
class Dataset:
    """All rows by their digests, and which of them are trained on."""

    numbers: npt.NDArray[np.int64]
    """(rows,) their numbers in the dataset, from 1."""
    digests: Digests
    train: Places
    """Places of the rows that are trained on, in the dataset's order."""
    eval: Places
    """Those that are held back; empty without --eval-fraction."""

    def is_of(self, numbers: npt.NDArray[np.int64], digests: Digests) -> bool:
        """Whether it is that of the rows with these numbers and digests."""
        return np.array_equal(self.numbers, numbers) and np.array_equal(self.digests, digests)

    @cached_property
    def train_digests(self) -> Digests:
        """Of the rows that are trained on."""
        return self.digests[self.train]

    @cached_property
    def identity(self) -> DatasetIdentity:
        """Of the rows that are trained on."""
        return identify(self.train_digests)


def read_dataset(
    config: RunConfig, rows: Rows | None = None, known: tuple[npt.NDArray[np.int64], Digests] | None = None
) -> Dataset:
    """Identify and split. `known`: (numbers, digests) of all rows, where they were just gone through. Raises DatasetError (exit 4)."""
    assert config.dataset is not None
    reading = Reading.of(config)
    rows = rows if rows is not None else read_rows(config.dataset, reading)
    numbers, digests = known if known is not None else row_digests(rows, reading)
    return Dataset(numbers, digests, *split(digests, config.eval_fraction, config.seed))


def eval_rows(config: RunConfig) -> Rows:
    """The rows of --eval-dataset: a split of the dataset by its name, else something of its own. Raises DatasetError, also of a bare
    name that is neither: to ask the hub for it would say that there is no such dataset, and not that there is no such split."""
    assert config.dataset is not None and config.eval_dataset is not None
    reading = replace(Reading.of(config), skip_rows=None)  # those are rows of what is trained on
    name = config.eval_dataset
    if may_be_a_split(name) or name in read_rows(config.dataset, reading).raw.splits:
        return read_rows(config.dataset, reading, name)
    return read_rows(name, reading)


def may_be_a_split(name: str) -> bool:
    """Whether `name` says nothing but a name, and nothing of it is here."""
    return is_hub_id(name) and "/" not in name


def held_back_notes(config: RunConfig, dataset: Dataset) -> tuple[str, ...]:
    """What to know where rows were to be held back and there are none that could be."""
    if not config.eval_fraction or len(dataset.eval):
        return ()
    words = _(
        "--eval-fraction {share:g} holds back no row, and no eval loss is measured: the dataset has no two different rows"
    )
    return (words.format(share=config.eval_fraction),)


def skipped_notes(skipped: str | None, last: int) -> tuple[str, ...]:
    """What to know of --skip-rows that names rows the dataset has not. `last`: the number of the last row that was read; where those
    right behind it are left out, they may be there."""
    if skipped is None:
        return ()
    named = parse_rows(skipped)
    end = next(row for row in count(last + 1) if row not in named)
    beyond = sorted(row for row in named if row > end)
    if not beyond:
        return ()
    words = n_(
        "--skip-rows names {count} row that is not there ({first}): there is none behind row {last}",
        "--skip-rows names {count} rows that are not there (the first is {first}): there is none behind row {last}",
        len(beyond),
    )
    return (words.format(count=len(beyond), first=beyond[0], last=end - 1),)


def in_saved_words(config: RunConfig, saved: str) -> RunConfig:
    """`config` with its settings that turn rows into tokens as they were when their digest was `saved`, where both mean the same:
    what `auto` finds may be named, and the other way round. Raises DatasetError."""
    if data_settings_digest(config) == saved or config.dataset is None:
        return config
    found = read_rows(config.dataset, Reading.of(config)).format
    formats = ("auto", found) if config.format in ("auto", found) else (config.format,)
    own = OWN[found]
    trained = ("auto", own) if config.train_on in ("auto", own) else (config.train_on,)
    for format, train_on in product(formats, trained):
        same = config.model_copy(update={"format": format, "train_on": train_on})
        if data_settings_digest(same) == saved:
            return same
    return config


def data_settings_digest(config: RunConfig) -> str:
    """SHA-256 over the settings that turn rows into tokens."""
    settings = {name: getattr(config, name) for name in DATA_SETTINGS}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
