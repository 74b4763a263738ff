"""What a run learns from: tokenizer, rows, token tables, and the digests that say whether they are those of last time.

All of it is known before the model is loaded, so a changed dataset or tokenizer is told in seconds and not after minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.checkpoints.manifest import DatasetIdentity, Identities
from engine.config import RunConfig
from engine.data.formats import read_rows
from engine.data.identity import identify, row_digest
from engine.data.split import split
from engine.data.tokens import TokenProblem, TokenTable, tokenize
from engine.i18n import n_
from engine.training.model import base_digests, load_tokenizer, model_folder, template_digest, tokenizer_digest
from engine.training.probe import ProbeRow


@dataclass(frozen=True)
class Material:
    """Everything a run needs but the model itself."""

    folder: Path
    """The base model's local folder."""
    tokenizer: Any
    train_rows: Sequence[dict[str, Any]]
    """The normalised rows that are trained on, in the dataset's order."""
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
        found = []
        for index in range(min(len(self.train), 20_000)):
            row = self.train.row(index)
            digest = row_digest(self.train_rows[int(self.train.source_row[index])]).hex()
            found.append(ProbeRow(digest, row["input_ids"], row["labels"]))
        return tuple(found)


def load_material(config: RunConfig) -> Material:
    """Read, check, split and tokenise. Raises DatasetError or ModelError (exit 4)."""
    assert config.dataset is not None and config.model is not None
    rows = read_rows(config.dataset, config.format)
    folder = model_folder(config.model)
    base_config, base_weights = base_digests(folder)
    tokenizer = load_tokenizer(folder)
    train_ids, eval_ids = split(rows, config.eval_fraction, config.seed)
    train_rows = [rows[index] for index in train_ids]
    eval_rows = [rows[index] for index in eval_ids]
    train = tokenize(train_rows, tokenizer, config.train_on, config.max_length, [index + 1 for index in train_ids])
    evaluated = None
    if eval_rows:
        evaluated = tokenize(eval_rows, tokenizer, config.train_on, config.max_length, [index + 1 for index in eval_ids])
    identities = Identities(
        base_model=config.model,
        base_config=base_config,
        base_weights=base_weights,
        tokenizer=tokenizer_digest(tokenizer),
        chat_template=template_digest(tokenizer),
        dataset=identify(train_rows),
        eval_dataset=identify(eval_rows) if eval_rows else None,
        data_settings=data_settings_digest(config),
    )
    notes = rows.notes + _notes(train.problems)
    return Material(folder, tokenizer, train_rows, train, evaluated, identities, notes)


def _notes(problems: Sequence[TokenProblem]) -> tuple[str, ...]:
    """One sentence for each kind of problem: the first row in full, how many more, the remedy."""
    notes = []
    for code in dict.fromkeys(problem.code for problem in problems):
        found = [problem for problem in problems if problem.code == code]
        more = n_(" (and {count} more row)", " (and {count} more rows)", len(found) - 1).format(count=len(found) - 1)
        notes.append(f"{found[0].message}{more if len(found) > 1 else ''}. {found[0].fix}")
    return tuple(notes)


def data_settings_digest(config: RunConfig) -> str:
    """SHA-256 over the settings that turn rows into tokens."""
    settings = {name: getattr(config, name) for name in ("format", "train_on", "max_length", "eval_fraction")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def describe_dataset(identity: DatasetIdentity) -> str:
    """A dataset's identity in a few characters, for people."""
    return f"{identity.rows} rows, {identity.ordered[:12]}"
