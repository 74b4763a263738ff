"""What a run was, with nothing left to be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.scan import glance
from engine.config import RunConfig
from engine.data.files import CHATS, SUFFIXES, delimiter_of, suffix_of
from engine.data.formats import OWN, PAIRS, TEXTS, read_rows
from engine.data.normal import ROLES, spoken
from engine.data.read import Reading, encoding_to_read, read_raw, renamed
from engine.errors import ConfigError
from engine.folder import own_start
from engine.i18n import _
from engine.paths import is_folder

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""File ending -> the builder of datasets that reads it."""


@dataclass(frozen=True)
class Ejected:
    """A run as any trainer could be told it."""

    name: str
    """Of its folder."""
    config: RunConfig
    batch_size: int
    precision: str
    device: str
    """It was trained on: cuda, mps or cpu."""
    total_steps: int | None
    """None: no checkpoint tells; the epochs count."""
    format: str
    """Of the rows as they are in the dataset (formats.py)."""
    columns: tuple[str, ...]
    """Those that its rows are made of, by the names they have once they are renamed."""
    renamed: dict[str, str]
    """Column as it is in the dataset -> the name it stands for (--columns, or a Chinese one that is known)."""
    renamed_in_turns: dict[str, str]
    """As `renamed`, of what turns are made of."""
    otherwise: bool
    """Whether its turns are written in a way of their own: as pairs, texts in turn, or JSON text."""
    beside: frozenset[str]
    """The other columns, by the names they stand for."""
    train_on: str
    files: tuple[tuple[str, str, str | None], ...]
    """(path, encoding, what stands between the fields of a table, else None) of the dataset's files, in order; empty where it is
    one of the library datasets, in a folder or on the hub."""

    def called(self, name: str) -> str:
        """What the dataset itself calls the column or the part of a turn that is known as `name`."""
        given = {**self.renamed, **self.renamed_in_turns}
        return next((own for own, known in given.items() if known == name), name)


def read_run(out: Path) -> Ejected:
    """The run in `out`. Raises ConfigError where there is none, DatasetError where its rows are gone."""
    config = own_start(out) if is_folder(out) else None
    if config is None:
        raise ConfigError(
            _("{folder}: there is no run of lora-tui in it").format(folder=out),
            fix=_("Name the folder that holds run.toml."),
        )
    assert config.dataset is not None and config.model is not None
    if config.init_from is not None:
        raise ConfigError(
            _("{folder}: its run began from the weights of {path}").format(folder=out, path=config.init_from),
            _(
                "A script of other libraries would begin with a new adapter, of the settings' shape, and train another model."
            ),
            _("Eject the run that those weights are of."),
        )
    rows = read_rows(config.dataset, Reading.of(config))
    _number_of, raw = next(iter(read_raw(config.dataset, Reading.of(config))))
    manifests = [one.manifest for one in glance(out).checkpoints if one.manifest is not None]
    last = manifests[-1] if manifests else None
    names = rows.columns
    columns = _columns(set(renamed(raw, names)), rows.format)
    turns = [turn for column in raw if names.get(column, column) in columns for turn in _turns(raw[column])]
    return Ejected(
        name=out.name,
        config=config,
        batch_size=last.geometry.batch_size if last else 8 if config.batch_size == "auto" else int(config.batch_size),
        precision="bfloat16" if config.load_in_4bit else last.precision if last else "float32",
        device=last.device if last else "cpu",
        total_steps=last.schedule.total_steps if last else config.max_steps,
        format=rows.format,
        columns=columns,
        renamed={own: known for own, known in names.items() if own in raw},
        renamed_in_turns={own: known for own, known in names.items() if any(own in turn for turn in turns)},
        otherwise=rows.format == "messages"
        and (
            any(raw[column] != spoken(raw[column]) for column in raw if names.get(column, column) in columns)
            or any(turn.get("role", ROLES[0]) not in ROLES for turn in turns)
        ),
        beside=frozenset(renamed(raw, names)) - {*columns},
        train_on=OWN[rows.format] if config.train_on == "auto" else config.train_on,
        files=_files(rows.raw.files, Reading.of(config)),
    )


def _columns(found: set[str], format: str) -> tuple[str, ...]:
    if format == "prompt_completion":
        return next(pair for pair in PAIRS if set(pair) <= found)
    names = {"messages": CHATS, "sharegpt": CHATS, "text": TEXTS, "alpaca": ("output", "response")}[format]
    return (next(name for name in names if name in found),)


def _files(files: tuple[Path, ...], reading: Reading) -> tuple[tuple[str, str, str | None], ...]:
    """As `Ejected.files`."""
    if any(suffix_of(path) not in SUFFIXES for path in files):
        return ()
    found = [(path, encoding_to_read(path, reading)) for path in files]
    return tuple(
        (str(path), encoding, delimiter_of(path, encoding) if suffix_of(path) in (".csv", ".tsv") else None)
        for path, encoding in found
    )


def _turns(value: Any) -> list[dict[str, Any]]:
    return [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []


def harmless(text: str) -> str:
    """`text` on one line and without quotes, so that it cannot leave the comment it stands in."""
    return "".join(letter if letter.isprintable() and letter not in '"\\' else " " for letter in text)
