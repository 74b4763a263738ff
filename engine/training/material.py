"""What a run learns from: tokenizer, rows, token tables, and the digests that say whether they are those of last time.

All of it is known before the model is loaded, so a changed dataset or tokenizer is told in seconds and not after minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from engine.checkpoints.manifest import Identities
from engine.config import RunConfig
from engine.data.dataset import Dataset, data_settings_digest, eval_rows, held_back_notes, read_dataset, skipped_notes
from engine.data.formats import OWN, read_rows
from engine.data.identity import Digests, identify, template_digest, tokenizer_digest
from engine.data.places import beyond
from engine.data.problems import Notes
from engine.data.read import Reading
from engine.data.table import Tell, token_table
from engine.data.token_table import TokenTable
from engine.data.tokens import tokenize
from engine.errors import DatasetError, LoraTuiError
from engine.hardware import load_libraries
from engine.i18n import _, n_, with_fix
from engine.models.folder import base_digests, load_tokenizer, model_folder, tokenizer_files_digest
from engine.models.templates import with_template
from engine.training.probe import ProbeRow


@dataclass(frozen=True)
class Material:
    """Everything a run needs but the model itself."""

    folder: Path
    """The base model's local folder."""
    tokenizer: Any
    dataset: Dataset
    train: TokenTable
    eval: TokenTable | None
    identities: Identities
    notes: tuple[str, ...]
    """What a person should know of the data before it is trained on."""

    @property
    def trained_tokens(self) -> int:
        """Tokens of an epoch that the loss counts."""
        return int(self.train.trained.sum())

    @cached_property
    def probe_candidates(self) -> tuple[ProbeRow, ...]:
        """The rows the probe may choose from; at most the first 20,000, so that huge datasets cost nothing here."""
        count = min(len(self.train), 20_000)
        return tuple(
            ProbeRow(self.train.digests[index].tobytes().hex(), row["input_ids"], row["labels"])
            for index, row in ((index, self.train.row(index)) for index in range(count))
        )


@dataclass(frozen=True)
class Otherwise:
    """Rows with labels at other tokens than those that are trained on."""

    own: str
    """--train-on, as it is, with `auto` named."""
    other: str
    """--train-on that gives these labels."""
    rows: tuple[ProbeRow, ...]


def counted_otherwise(config: RunConfig, material: Material, rows: Sequence[ProbeRow]) -> Otherwise | None:
    """`rows` of `material` as a trainer may have counted them that was told nothing, or that they are chats; None where this kind of
    rows leaves no choice, or its tokens cannot be told apart."""
    assert config.dataset is not None
    found = read_rows(config.dataset, Reading.of(config))
    own = OWN[found.format] if config.train_on == "auto" else config.train_on
    other = OWN[found.format] if own == "all" else "all"
    if other == own:
        return None
    wanted = {row.digest for row in rows}
    digests = (digest.tobytes().hex() for digest in material.train.digests)
    numbers = {int(number) for number, digest in zip(material.train.source_row, digests, strict=True) if digest in wanted}
    try:
        chosen = list(islice((pair for pair in found.numbered() if pair[0] in numbers), len(numbers)))
        table = tokenize(chosen, material.tokenizer, other, config.max_length)
    except LoraTuiError:
        return None
    labelled = {table.digests[index].tobytes().hex(): table.row(index) for index in range(len(table))}
    made = tuple(ProbeRow(digest, row["input_ids"], row["labels"]) for digest, row in sorted(labelled.items()))
    return Otherwise(own, other, made) if made else None


def load_material(
    config: RunConfig, dataset: Dataset | None = None, tell: Tell = lambda done, total, seconds: None
) -> Material:
    """Read, check, split and tokenise, or take up what was tokenised before. `dataset`: where the plan has identified it already.
    Raises DatasetError or ModelError (exit 4), or ConfigError (2) where --max-length is more than the model takes."""
    assert config.dataset is not None and config.model is not None
    reading = Reading.of(config)
    rows = read_rows(config.dataset, reading)
    folder = model_folder(config.model)
    base_config, base_weights = base_digests(folder)
    load_libraries()  # not before the rows are read: what is wrong with them is told at once
    tokenizer = load_tokenizer(folder, config.chat_template)
    words, template = tokenizer_digest(tokenizer), template_digest(tokenizer)
    made = token_table(rows, reading, tokenizer, words + template, config.train_on, config.max_length, tell)
    table = made.table
    noticed = _beyond(table, folder, config.max_length)
    if dataset is None or not dataset.is_of(*table.everything):  # the files may have changed since the plan was made
        dataset = read_dataset(config, rows, table.everything)
    train = table.of_rows(dataset.numbers[dataset.train])
    if not len(train):
        raise DatasetError(
            _("no row that is trained on has a token to learn from"),
            _("All {count} rows are masked entirely.").format(count=len(dataset.train)),
            _("Check that the answers are not empty, or choose another --train-on (now: {train_on}).").format(
                train_on=config.train_on
            ),
        )
    evaluated = table.of_rows(dataset.numbers[dataset.eval]) if len(dataset.eval) else None
    held_back = identify(dataset.digests[dataset.eval]) if len(dataset.eval) else None
    measured: tuple[str, ...] = ()
    if config.eval_dataset is not None:
        beside = eval_rows(config)
        own = token_table(
            beside, Reading.of(config), tokenizer, words + template, config.train_on, config.max_length, tell
        ).table
        noticed += _beyond(own, folder, config.max_length)
        evaluated, held_back = own.of_rows(own.everything[0]), identify(own.everything[1])
        measured = (*beside.notes, *_contaminated(own, dataset.train_digests, beside.name))
    identities = Identities(
        base_model=config.model,
        base_config=base_config,
        base_weights=base_weights,
        tokenizer=words,
        tokenizer_files=with_template(tokenizer_files_digest(folder), config.chat_template),
        chat_template=template,
        dataset=dataset.identity,
        eval_dataset=held_back,
        data_settings=data_settings_digest(config),
    )
    left_out = skipped_notes(config.skip_rows, int(dataset.numbers[-1]))
    measured = (*left_out, *held_back_notes(config, dataset), *measured)
    if evaluated is not None and not len(evaluated):  # a mean over no label would be taken for a loss of zero
        evaluated = None
        measured = (*measured, _("no row that is held back has a token to learn from, and no eval loss is measured"))
    notes = (*rows.notes, *measured, *([made.note] if made.note else []), *_notes(table.notes), *noticed)
    return Material(folder, tokenizer, dataset, train, evaluated, identities, notes)


def _contaminated(measured: TokenTable, trained: Digests, name: str) -> tuple[str, ...]:
    """What to know of rows that are measured on and trained on: a loss on them says nothing."""
    known = {row.tobytes() for row in trained}
    numbers, digests = measured.everything
    both = [int(number) for number, row in zip(numbers, digests, strict=True) if row.tobytes() in known]
    if not both:
        return ()
    words = n_(
        "{count} row of {name} is trained on too (row {first}): the eval loss will look better than it is",
        "{count} rows of {name} are trained on too (the first is row {first}): the eval loss will look better than it is",
        len(both),
    )
    return (words.format(count=len(both), name=name, first=both[0]),)


def _beyond(table: TokenTable, folder: Path, max_length: int) -> tuple[str, ...]:
    found = beyond(table, folder, max_length)
    return (with_fix(found.message, found.fix),) if found is not None else ()


def _notes(notes: Notes) -> tuple[str, ...]:
    """One sentence for each kind of problem: the first row in full, how many more, the remedy."""
    told = []
    for code, count in notes.counts.items():
        first = next(problem for problem in notes.problems if problem.code == code)
        more = n_(" (and {count} more row)", " (and {count} more rows)", count - 1).format(count=count - 1)
        told.append(with_fix(f"{first.message}{more if count > 1 else ''}", first.fix))
    return tuple(told)
