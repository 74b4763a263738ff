"""Where the answers of a run come from, and how they become one RunConfig.

Flags, environment, --config files, what the run in OUT was started with: sources of different strength (C1). `resolve` lays them over
each other, remembers which won each setting, and reports **all** problems at once, each named the way its source names it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from engine.config import RunConfig, choices, flag, is_switch
from engine.durable import open_plain_file
from engine.errors import ConfigError
from engine.i18n import _
from engine.redact import redact

SCHEMA_VERSION = 1
HOW_MANY = "settings"
"""Key of run.toml: how many settings it holds, since one that was cut at the end of a line is still TOML."""
ENV_PREFIX = "LORA_TUI_"
OTHER_VARIABLES = ("lang", "cache", "state", "keys", "ascii", "meet")
"""Variables of that name which are no settings; the last is the batch script's own (submit.py)."""
MAX_TOML_BYTES = 1_000_000
RIVALS = {"max_steps": "epochs", "eval_dataset": "eval_fraction", "eval_fraction": "eval_dataset"}
"""Settings that do not count beside another one."""
NOTHING = (None, "", 0, "0", "0.0")
"""What says that a setting is not used."""
ELSEWHERE = {
    "lr": "learning_rate", "num_train_epochs": "epochs", "num_epochs": "epochs", "iters": "max_steps",
    "per_device_train_batch_size": "batch_size", "micro_batch_size": "batch_size", "gradient_accumulation_steps": "grad_accum",
    "model_name_or_path": "model", "model_name": "model", "base_model": "model", "model_id": "model", "dataset_name": "dataset",
    "dataset_path": "dataset", "data": "dataset", "data_path": "dataset", "train_file": "dataset", "output_dir": "output",
    "resume_from_checkpoint": "resume", "continue": "resume", "checkpoint": "resume", "max_seq_length": "max_length",
    "max_seq_len": "max_length", "cutoff_len": "max_length", "sequence_len": "max_length", "lora_rank": "lora_r", "rank": "lora_r",
    "lora_target": "target_modules", "lora_target_modules": "target_modules", "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler", "warmup_ratio": "warmup", "warmup_steps": "warmup", "save_total_limit": "keep",
    "val_set_size": "eval_fraction", "val_size": "eval_fraction", "val_dataset": "eval_dataset", "template": "chat_template",
    "gradient_checkpointing": "activation_checkpointing", "bf16": "precision", "fp16": "precision", "torch_dtype": "precision",
    "qlora": "load_in_4bit", "quantization_bit": "load_in_4bit", "nproc_per_node": "nproc", "num_processes": "nproc",
    "deepspeed": "parallel", "fsdp": "parallel",
}  # fmt: skip
"""What settings are called in other trainers -> their names here, for whoever types one of those."""


@dataclass(frozen=True)
class Source:
    """Raw answers from one place. `values` may hold strings (flags, environment) or typed values (TOML)."""

    kind: Literal["flag", "environment", "config", "run", "remembered", "demo"]
    where: str
    """Shown in errors: a file's path, or empty."""
    values: Mapping[str, Any]
    of_run: bool = False
    """Whether it is a file that a run wrote of itself, with its id."""

    def name(self, field: str) -> str:
        """What a person wrote to set `field` here."""
        if self.kind == "flag":
            return flag(field)
        if self.kind == "environment":
            return ENV_PREFIX + field.upper()
        return f"{self.where}: {field}" if self.where else field


@dataclass(frozen=True)
class Resolved:
    """A valid configuration and where each value came from."""

    config: RunConfig
    origin: Mapping[str, str]
    """Field -> kind of the winning source; fields left at their default are missing."""

    def asked(self, field: str) -> bool:
        """Whether a person set `field` for this very run (flag, environment or config file)."""
        return self.origin.get(field) in ("flag", "environment", "config")


def resolve(sources: Sequence[Source]) -> Resolved:
    """Lay `sources` over each other, strongest first. Raises ConfigError naming every bad value.

    Where two settings exclude each other, the stronger source's counts, and a weaker one's word on its rival does not: a run that was
    begun with --max-steps is extended with --epochs as any other.
    """
    values: dict[str, Any] = {}
    owner: dict[str, Source] = {}
    problems: list[str] = []
    blamed: list[Source] = []
    for source in sources:
        for key, value in source.values.items():
            if key not in RunConfig.model_fields:
                problems.append(_no_such(source, key))
                blamed.append(source)
            elif (rival := RIVALS.get(key)) in owner and owner[rival] is not source and values[rival] not in NOTHING:
                continue
            elif key not in values:
                values[key], owner[key] = value, source
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            key = str(item["loc"][0]) if item["loc"] else ""
            text = _explain(key, item)
            line = f"{owner[key].name(key)}: {text}" if key in owner else text
            if line not in problems:
                problems.append(line)
                blamed += [owner[key]] if key in owner else []
        config = None
    if problems or config is None:
        title = problems[0] if len(problems) == 1 else _("{count} settings are wrong").format(count=len(problems))
        detail = "" if len(problems) == 1 else "\n".join(problems)
        fix = _("See lora-tui --help for what each setting takes.")
        if blamed and all(source.of_run for source in blamed):  # nobody has named it: a run wrote it of itself
            fix = _("Put these lines of the run's own file right.") + " " + _way_on("run")
        elif blamed and all(source.kind == "run" for source in blamed):
            fix = _("The checkpoint's own files say so; name these settings as flags.")
        raise ConfigError(title, detail, fix)
    return Resolved(config, {key: source.kind for key, source in owner.items()})


def _no_such(source: Source, key: str) -> str:
    import difflib

    near = [ELSEWHERE[key]] if key in ELSEWHERE else difflib.get_close_matches(key, RunConfig.model_fields, 1)
    text = _("{name}: there is no such setting").format(name=source.name(key))
    return text + (" · " + _("did you mean {near}?").format(near=source.name(near[0])) if near else "")


def _explain(key: str, item: Any) -> str:
    value, kind, context = item.get("input"), item["type"], item.get("ctx") or {}
    shown = redact(
        f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    )
    if kind == "value_error":
        return f"{shown} {context['error']}"
    words = choices(key)
    if is_switch(key):
        words = (*(("auto",) if RunConfig.model_fields[key].default == "auto" else ()), "true", "false")
    if words:
        return _("{value} is not one of {words}").format(value=shown, words=", ".join(words))
    bounds = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    if kind in bounds:
        limit = next(iter(context.values()))
        return _("{value} is out of range (must be {bound} {limit})").format(value=shown, bound=bounds[kind], limit=limit)
    if kind.startswith(("int_", "float_", "finite")):
        what = _("a whole number") if kind.startswith("int_") else _("a number")
        return _("{value} is not {what}").format(value=shown, what=what)
    return f"{shown}: {item['msg']}"


def problem_of(field: str, value: Any) -> str | None:
    """What is wrong with one raw answer, in words; None where it would be taken. For forms that check a field when it is left."""
    try:
        resolve([Source("demo", "", {field: value})])
    except ConfigError as error:
        return error.title.removeprefix(f"{field}: ")
    return None


def environment(environ: Mapping[str, str] = os.environ) -> Source:
    """The `LORA_TUI_*` variables, but for those that are no settings. What names none is among them, to be refused: a run with a
    misspelt one would go on for hours with the default, and nobody else has a reason to use this prefix. An empty one is not set."""
    names = {name: name.removeprefix(ENV_PREFIX).lower() for name in environ if name.startswith(ENV_PREFIX)}
    found = {key: environ[name] for name, key in names.items() if environ[name] != "" and key not in OTHER_VARIABLES}
    return Source("environment", "", found)


def read_toml(path: Path, kind: Literal["config", "run", "remembered"] = "config") -> Source:
    """A TOML file of settings. Raises ConfigError where it is missing, no TOML, of a newer schema, or a run's and cut short."""
    import tomllib

    try:
        document = tomllib.loads(toml_text(path, follow=kind == "config"))
    except FileNotFoundError:
        raise ConfigError(
            _("{path}: there is no such file").format(path=path), fix=_("Check the path that --config names.")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(_("{path}: cannot be read").format(path=path), words, _way_on(kind)) from None
    except (ValueError, RecursionError) as error:  # not TOMLDecodeError alone: an integer of 5,000 digits is a plain one
        raise ConfigError(_("{path}: is not TOML").format(path=path), str(error), _way_on(kind)) from None
    empty = not document
    schema, count = document.pop("schema_version", SCHEMA_VERSION), document.pop(HOW_MANY, 0)
    of_run = document.pop("run_id", None) is not None
    if type(schema) is not int or schema != SCHEMA_VERSION:  # true is 1 to Python
        raise ConfigError(
            _("{path}: schema_version {found} is not {known}").format(path=path, found=schema, known=SCHEMA_VERSION),
            _("It was written by another version of lora-tui, or changed since."),
            _("Use the version that wrote it.") + " " + _way_on(kind),
        )
    if kind == "run" and (empty or type(count) is not int or not 0 <= count <= len(document)):
        raise _cut_short(path, len(document), count)
    return Source(kind, str(path), document, of_run or kind == "run")


def _way_on(kind: str) -> str:
    """What to do about a file of settings that cannot be taken."""
    if kind == "run":
        return _(
            "Put it back from a copy. Or delete it: then what the run's checkpoints tell is taken, and what they do not tell must "
            "be named again."
        )
    return _("Mend it, or leave --config out and name the settings as flags; lora-tui --help lists them.")


def _cut_short(path: Path, found: int, count: Any) -> ConfigError:
    return ConfigError(
        _("{path}: was cut short").format(path=path),
        _("It holds {found} of {count} settings; what is missing would silently be the default.").format(
            found=found, count=count if type(count) is int and count else "?"
        ),
        _way_on("run") + " " + _("Where you took settings out of it yourself, correct the number in its first line."),
    )


def toml_text(path: Path, follow: bool) -> str:
    """The text of a TOML file; of a plain file only, and not of one that is far too large. Raises OSError or UnicodeDecodeError.

    `follow`: a person named it, so a link may lead to it; a file of a folder that may be a stranger's is taken as it is.
    """
    with os.fdopen(open_plain_file(path, os.O_RDONLY, follow), "rb") as file:
        content = file.read(MAX_TOML_BYTES + 1)
    if len(content) > MAX_TOML_BYTES:
        raise OSError(errno.EFBIG, _("more than {limit} kB are no settings").format(limit=MAX_TOML_BYTES // 1000))
    return content.decode("utf-8-sig")


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Those settings as words of a command line. What no flag can say (None, a switch that is left to the program) is left out."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(f"no_{name}"))
        elif value is not None and not is_switch(name):
            text = ",".join(map(str, value)) if isinstance(value, tuple | list) else as_written(value)
            words += [f"{flag(name)}={text}"] if text.startswith("-") else [flag(name), text]
    return words


def as_written(value: Any) -> str:
    """`value` as a person would write it, and so that it is read back as the same."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def to_toml(config: RunConfig, run_id: str | None = None) -> str:
    """`config` as run.toml. Settings at None are left out, as TOML has no null."""
    import tomlkit

    settings = {name: value for name, value in config.model_dump().items() if value is not None}
    document = tomlkit.document()
    document.add(HOW_MANY, tomlkit.item(len(settings)))  # first: it must not be what was cut off
    document.add("schema_version", tomlkit.item(SCHEMA_VERSION))
    if run_id is not None:
        document.add("run_id", tomlkit.item(run_id))
    for name, value in settings.items():
        document.add(name, tomlkit.item(list(value) if isinstance(value, tuple) else value))
    return tomlkit.dumps(document)
