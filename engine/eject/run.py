"""What a run was, with nothing left to be chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from engine.checkpoints.adapter import CONFIG_NAME, read_adapter_config
from engine.checkpoints.files import Unsound
from engine.checkpoints.lora_fields import lora_fields
from engine.checkpoints.manifest import Manifest
from engine.checkpoints.scan import glance
from engine.config import RunConfig
from engine.data.files import CHATS, SUFFIXES
from engine.data.formats import OWN, PAIRS, TEXTS, read_rows
from engine.data.normal import ROLES, spoken
from engine.data.read import Reading, encoding_to_read, read_raw, renamed
from engine.data.tables import delimiter_of
from engine.data.texts import suffix_of
from engine.errors import ConfigError
from engine.folder import own_start
from engine.i18n import _
from engine.journal import begun_at, read_journal, standing_attempts
from engine.models.folder import load_tokenizer, model_folder
from engine.models.templates import MODELS_OWN
from engine.paths import is_folder, with_its_name

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""File ending -> the builder of datasets that reads it."""
LOOKED_AT = 256
"""Rows from which it is told what rows hold beside their words: not each of them has a system turn, tools or a weight."""
ON_THE_WAY = (
    "dataset", "format", "columns", "encoding", "skip_rows", "chat_template", "eval_fraction", "train_on", "max_length", "epochs",
    "max_steps", "learning_rate", "scheduler", "warmup", "weight_decay", "max_grad_norm", "lora_dropout", "seed", "precision",
    "load_in_4bit",
)  # fmt: skip
"""Settings that decide what is learned, and that a run may go on with otherwise than before."""
OF_THE_SETTINGS = ("r", "lora_alpha", "target_modules", "bias", "task_type")
"""Fields of an adapter that each script and file of settings says by itself."""


@dataclass(frozen=True)
class Ejected:
    """A run as any trainer could be told it."""

    name: str
    """Of its folder."""
    config: RunConfig
    batch_size: int
    grad_accum: int
    """Batches of one process to a step of the run: what several processes did at once it does one after the other."""
    processes: int
    """Of the run."""
    shape: dict[str, Any]
    """What its adapter is beside rank, scale and layers, by PEFT's names: rsLoRA, DoRA, patterns, layers trained whole. Only
    an adapter that another tool began has any."""
    precision: str
    device: str
    """It was trained on: cuda, mps or cpu."""
    total_steps: int | None
    """None: no checkpoint tells of this length; the epochs count."""
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
    in_turns: bool
    """Whether its prompts and completions are turns."""
    unlearned: bool
    """Whether answers are marked as not to be learned."""
    train_on: str
    changes: tuple[str, ...]
    """What changed in the middle of it, a line each: whatever does the run again does all of it with the last settings."""
    files: tuple[tuple[str, str, str | None], ...]
    """(path, encoding, what stands between the fields of a table, else None) of the dataset's files, in order; empty where it is
    one of the library datasets, in a folder or on the hub."""

    def template(self) -> str | None:
        """The chat template that was put into the tokenizer; None: the model's own. Raises ConfigError, ModelError."""
        if self.config.chat_template == MODELS_OWN:
            return None
        return str(load_tokenizer(model_folder(str(self.config.model)), self.config.chat_template).chat_template)

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
    looked_at = [row for _number, row in islice(read_raw(config.dataset, Reading.of(config)), LOOKED_AT)]
    raw = looked_at[0]
    there = frozenset().union(*looked_at)
    saved = [one for one in glance(out).checkpoints if one.manifest is not None]
    last = saved[-1].manifest if saved else None
    names = rows.columns
    columns = _columns(set(renamed(raw, names)), rows.format)
    own = [name for name in there if names.get(name, name) in columns]
    said = [turn for row in looked_at for name in own for turn in _turns(row.get(name))]
    turns = [turn for name in own for turn in _turns(raw.get(name))]
    return Ejected(
        name=with_its_name(out).name,
        config=config,
        batch_size=last.geometry.batch_size if last else 8 if config.batch_size == "auto" else int(config.batch_size),
        grad_accum=last.geometry.grad_accum * last.geometry.world_size if last else config.grad_accum * config.world,
        processes=last.geometry.world_size if last else config.world,
        shape=_shape(saved[-1].path) if saved else {},
        precision="bfloat16" if config.load_in_4bit else last.precision if last else "float32",
        device=last.device if last else "cpu",
        total_steps=_total_steps(config, last),
        format=rows.format,
        columns=columns,
        renamed={own: known for own, known in names.items() if own in there},
        renamed_in_turns={own: known for own, known in names.items() if any(own in turn for turn in said)},
        otherwise=rows.format == "messages"
        and (
            any(raw[name] != spoken(raw[name]) for name in own if name in raw)
            or any(turn.get("role", ROLES[0]) not in ROLES for turn in turns)
        ),
        beside=frozenset(names.get(name, name) for name in there) - {*columns},
        in_turns=rows.format == "prompt_completion" and bool(turns),
        unlearned=any(turn.get("weight") == 0 or turn.get("train") is False or turn.get("loss") is False for turn in said),
        train_on=OWN[rows.format] if config.train_on == "auto" else config.train_on,
        changes=tuple(_changes(standing_attempts(read_journal(out)))),
        files=_files(rows.raw.files, Reading.of(config)),
    )


def _total_steps(config: RunConfig, last: Manifest | None) -> int | None:
    """As `Ejected.total_steps`. A run that was extended and has not saved since counts as what it is extended to."""
    if config.max_steps is not None:
        return config.max_steps
    return last.schedule.total_steps if last and math.isclose(last.total_epochs, config.epochs, rel_tol=1e-3) else None


def _shape(checkpoint: Path) -> dict[str, Any]:
    """As `Ejected.shape`."""
    try:
        found = lora_fields(read_adapter_config(checkpoint / CONFIG_NAME).raw)
    except (OSError, Unsound, ValueError):  # it was damaged or changed since: no run trains such a one
        found = {}
    return {name: value for name, value in found.items() if value and name not in OF_THE_SETTINGS}


def _changes(attempts: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """As `Ejected.changes`."""
    if attempts and (first := begun_at(attempts[0])):
        yield f"Its first {first} steps are of another run; here it begins with a new adapter."
    told = [(begun_at(attempt), attempt[0].get("config")) for attempt in attempts]
    known = [(step, settings) for step, settings in told if isinstance(settings, dict)]
    for (_begun, before), (step, after) in pairwise(known):
        settings = [(name, before.get(name), after.get(name)) for name in ON_THE_WAY]
        settings.append(("rows of a step", _rows_of_a_step(before), _rows_of_a_step(after)))
        changed = [f"{name} {was} -> {now}" for name, was, now in settings if was != now and "auto" not in (was, now)]
        if changed:
            yield f"It went on otherwise behind step {step}, here all is as it was at its end: " + ", ".join(changed)


def _rows_of_a_step(settings: Mapping[str, Any]) -> int | str:
    """Processes and batches may change without it, so they alone are no change."""
    parts = [settings.get(name) for name in ("batch_size", "grad_accum", "nproc", "nnodes")]
    return (
        math.prod(part for part in parts if isinstance(part, int))
        if all(isinstance(part, int) for part in parts)
        else "auto"
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
