"""What a run learns from: tokenizer, rows, token tables, and the digests that say whether they are those of last time.

All of it is known before the model is loaded, so a changed dataset or tokenizer is told in seconds and not after minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.checkpoints.manifest import Identities
from engine.config import RunConfig
from engine.data.dataset import Dataset, data_settings_digest, eval_rows, held_back_notes, read_dataset
from engine.data.formats import read_rows
from engine.data.identity import Digests, identify, template_digest, tokenizer_digest
from engine.data.problems import Notes
from engine.data.read import Reading
from engine.data.table import Tell, token_table
from engine.data.token_table import TokenTable
from engine.hardware import load_libraries
from engine.i18n import n_
from engine.models.folder import base_digests, load_tokenizer, model_folder, tokenizer_files_digest
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


def load_material(
    config: RunConfig, dataset: Dataset | None = None, tell: Tell = lambda done, total, seconds: None
) -> Material:
    """Read, check, split and tokenise, or take up what was tokenised before. `dataset`: where the plan has identified it already.
    Raises DatasetError or ModelError (exit 4)."""
    assert config.dataset is not None and config.model is not None
    reading = Reading.of(config)
    rows = read_rows(config.dataset, reading)
    folder = model_folder(config.model)
    base_config, base_weights = base_digests(folder)
    load_libraries()  # not before the rows are read: what is wrong with them is told at once
    tokenizer = load_tokenizer(folder)
    words, template = tokenizer_digest(tokenizer), template_digest(tokenizer)
    made = token_table(rows, reading, tokenizer, words + template, config.train_on, config.max_length, tell)
    table = made.table
    dataset = dataset if dataset is not None else read_dataset(config, rows, table.everything)
    train = table.of_rows(dataset.numbers[dataset.train])
    evaluated = table.of_rows(dataset.numbers[dataset.eval]) if len(dataset.eval) else None
    held_back = identify(dataset.digests[dataset.eval]) if len(dataset.eval) else None
    measured: tuple[str, ...] = ()
    if config.eval_dataset is not None:
        beside = eval_rows(config)
        own = token_table(
            beside, Reading.of(config), tokenizer, words + template, config.train_on, config.max_length, tell
        ).table
        evaluated, held_back = own.of_rows(own.everything[0]), identify(own.everything[1])
        measured = (*beside.notes, *_contaminated(own, dataset.train_digests, beside.name))
    identities = Identities(
        base_model=config.model,
        base_config=base_config,
        base_weights=base_weights,
        tokenizer=words,
        tokenizer_files=tokenizer_files_digest(folder),
        chat_template=template,
        dataset=dataset.identity,
        eval_dataset=held_back,
        data_settings=data_settings_digest(config),
    )
    measured = (*held_back_notes(config, dataset), *measured)
    notes = (*rows.notes, *measured, *([made.note] if made.note else []), *_notes(table.notes))
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


def _notes(notes: Notes) -> tuple[str, ...]:
    """One sentence for each kind of problem: the first row in full, how many more, the remedy."""
    told = []
    for code, count in notes.counts.items():
        first = next(problem for problem in notes.problems if problem.code == code)
        more = n_(" (and {count} more row)", " (and {count} more rows)", count - 1).format(count=count - 1)
        told.append(f"{first.message}{more if count > 1 else ''}. {first.fix}")
    return tuple(told)
