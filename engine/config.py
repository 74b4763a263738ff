"""RunConfig: every answer a run needs, in one frozen model, each described once.

The command line, run.toml, the environment and the wizard are all generated from or validated by this one model, so a
field's name, help, unit and range exist in one place. Where the answers come from: sources.py.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from engine.i18n import _
from engine.named import parse_columns, parse_rows
from engine.paths import is_there, path_of
from engine.redact import redact

ACCEPTABLE = ("dataset", "tokenizer", "chat_template", "optimizer", "scheduler", "rng", "versions")
"""Receipt items that `--accept` may wave through (C1); adapter items and probe_loss never. `versions` is never failed, so
that accepting it is harmless."""
TOO_LOW, REACHED, NEARLY = 0.1, 0.3, 0.5
"""Losses that the advice goes by, where nobody sets others: below the first the rows are known by heart, or the loss counts tokens
that are always the same; up to the second the model is worth a try; above the third the run is to go on."""
TRACKERS = ("tensorboard", "wandb", "trackio", "swanlab", "mlflow")
"""What `--report-to` knows: Trainer's own callbacks for them, each an extra of this package."""


def _field(default: Any, help: str, group: str, metavar: str = "", more: bool = False, **bounds: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group, "metavar": metavar, "more": more}, **bounds)


class RunConfig(BaseModel):
    """One run, completely answered. Frozen: a changed answer is a new RunConfig."""

    # defer_build: --help shows the fields and validates nothing, so it does not pay for the validator.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    dataset: str | None = _field(None, "File, save_to_disk folder or hub id to learn from", "What", "PATH|ID")
    model: str | None = _field(None, "Folder or hub id of the model to fine-tune", "What", "PATH|ID")
    output: str | None = _field(None, "Folder of the run (default: out/<dataset>-<model>)", "What", "FOLDER")
    format: Literal["auto", "messages", "prompt_completion", "text", "alpaca", "sharegpt"] = _field(
        "auto", "What the dataset's rows are, where it should not be recognised", "What", more=True
    )
    columns: str | None = _field(
        None,
        "Columns under other names, e.g. prompt=question,completion=answer or messages=chat,role=speaker,content=text",
        "What",
        "NAME=COLUMN,...",
        more=True,
    )
    encoding: Literal["auto", "utf-8", "gb18030", "big5"] = _field(
        "auto", "Encoding of text files; auto: UTF-8, or GB18030 where the text is plainly Chinese", "What", more=True
    )
    skip_rows: str | None = _field(None, "Rows to leave out, by their number: 412 or 7,100-120", "What", "ROWS", more=True)

    chat_template: str = _field(
        "auto",
        "How turns are written: auto: as the model's own template does; plain: for a base model; chatml; or a Jinja file",
        "What",
        "auto|NAME|FILE",
        more=True,
    )

    resume: str = _field(
        "auto", "auto: from the furthest checkpoint; never: start fresh; PATH: from this one", "Continue", "auto|never|PATH"
    )
    init_from: str | None = _field(None, "Start a new run from the weights of this checkpoint only", "Continue", "PATH")
    accept: tuple[str, ...] = _field(
        (),
        "Go on although these receipt items differ: dataset, tokenizer, chat_template, optimizer, scheduler, rng, versions",
        "Continue",
        "ITEM,...",
        more=True,
    )

    epochs: float = _field(3.0, "Passes over the dataset, in total", "Training", "N", gt=0, le=100_000)
    max_steps: int | None = _field(
        None, "Stop after this many optimizer steps instead of --epochs", "Training", "N", ge=1, le=100_000_000
    )
    learning_rate: float = _field(2e-4, "Peak learning rate", "Training", "RATE", gt=0, le=1)
    scheduler: Literal["cosine", "linear", "constant"] = _field(
        "cosine", "How the learning rate falls after the warmup", "Training"
    )
    warmup: float = _field(
        0.03, "Below 1: share of the steps; from 1 on: number of steps", "Training", "N", ge=0, le=100_000_000
    )
    batch_size: Literal["auto"] | int = _field(
        "auto", "Rows at a time on the device; auto: 8, or fewer where they would not fit", "Training", "auto|N"
    )
    grad_accum: int = _field(1, "Batches added up for one optimizer step", "Training", "N", ge=1, le=65_536)
    max_length: int = _field(1024, "Longest row in tokens; longer ones are cut", "Training", "N", ge=8, le=10_000_000)
    train_on: Literal["auto", "assistant", "completion", "all"] = _field(
        "auto",
        "Which tokens the loss counts; auto: the assistant's turns or the completion, all of a plain text",
        "Training",
    )
    eval_fraction: float = _field(0.0, "Share of the rows held back to measure eval loss", "Training", "SHARE", ge=0, lt=1)
    eval_dataset: str | None = _field(
        None,
        "Measure eval loss on this instead: a split of the dataset (validation, test), or a file, folder or hub id",
        "Training",
        "SPLIT|PATH",
    )
    seed: int = _field(42, "Seed of the weights' start, the row order and the dropout", "Training", "N", ge=0, lt=2**31)
    weight_decay: float = _field(0.0, "AdamW weight decay", "Training", "W", more=True, ge=0, le=1)
    max_grad_norm: float = _field(
        1.0, "Gradients are clipped to this norm; 0: never", "Training", "G", more=True, ge=0, le=1e6
    )

    on_jump: Literal["warn", "stop", "rollback"] = _field(
        "warn",
        "When the loss starts over, diverges or is no number: warn, stop, or go back with half the rate (at most 3 times)",
        "Watching",
    )
    stop_at_loss: float = _field(
        0.0, "Finish once the loss, smoothed over 10 logs, is this low; 0: never", "Watching", "LOSS", ge=0, le=1000
    )
    loss_too_low: float = _field(
        TOO_LOW, "Below this loss the advice is to look at the data", "Watching", "LOSS", more=True, ge=0, le=1000
    )
    loss_reached: float = _field(
        REACHED, "From this loss down the advice is to try the model", "Watching", "LOSS", more=True, ge=0, le=1000
    )
    loss_nearly: float = _field(
        NEARLY, "Above this loss the advice is to keep going", "Watching", "LOSS", more=True, ge=0, le=1000
    )

    report_to: str | None = _field(
        None,
        "Also show the run in tensorboard, wandb, trackio, swanlab or mlflow; several separated by commas",
        "Watching",
        "NAMES",
        more=True,
    )

    lora_r: int = _field(16, "Rank of the adapter", "LoRA", "R", ge=1, le=4096)
    lora_alpha: float = _field(32, "Scale of the adapter (it acts with alpha / rank)", "LoRA", "A", gt=0, le=65_536)
    lora_dropout: float = _field(0.0, "Dropout in front of the adapter", "LoRA", "P", ge=0, lt=1)
    target_modules: str = _field("all-linear", "all-linear, or names of the layers, separated by commas", "LoRA", "NAMES")

    precision: Literal["auto", "float32", "bfloat16", "float16"] = _field(
        "auto", "Number format of the base model; auto: what this hardware is good at", "Hardware", more=True
    )
    load_in_4bit: bool = _field(False, "Load the base model in 4 bit (CUDA, needs the gpu extra)", "Hardware", more=True)
    activation_checkpointing: Literal["auto"] | bool = _field(
        "auto",
        "Trade 30-90 % more time for less activation memory; auto: only where it would not fit",
        "Hardware",
        more=True,
    )

    nproc: Literal["auto"] | int = _field(
        1, "Processes on this machine, each on a device of its own; auto: one for each GPU", "Hardware", "auto|N"
    )
    nnodes: int = _field(
        1, "Machines that run this together; the same command on each", "Hardware", "N", more=True, ge=1, le=4096
    )
    node_rank: int = _field(0, "Which of the machines this is, from 0", "Hardware", "N", more=True, ge=0, le=4095)
    rendezvous: str | None = _field(
        None, "Where the machines meet: machine 0's address and a free port of it", "Hardware", "HOST:PORT", more=True
    )
    parallel: Literal["auto", "ddp", "fsdp2", "deepspeed"] = _field(
        "auto",
        "What several processes hold of the model: the whole (ddp) or a part each (fsdp2, deepspeed); auto: a part where it must",
        "Hardware",
        more=True,
    )
    ddp_timeout: float = _field(
        600,
        "Seconds after which a process that does not answer counts as lost",
        "Hardware",
        "SECONDS",
        more=True,
        ge=5,
        le=86_400,
    )

    logits: Literal["labels", "all"] = _field(
        "labels",
        "Where the output layer is computed: at tokens the loss counts, or at all as TRL does",
        "Hardware",
        more=True,
    )

    lora_kernel: Literal["auto", "fused", "peft"] = _field(
        "auto",
        "How a layer with its adapter is computed: in one pass (fused), or as PEFT does; auto: fused, except on an Apple GPU",
        "Hardware",
        more=True,
    )

    logging_steps: int = _field(1, "Log the loss every N steps", "Saving", "N", ge=1, le=1_000_000)
    save_steps: Literal["auto"] | int = _field(
        "auto", "Save every N steps; auto: four times an epoch, at least every 500", "Saving", "auto|N"
    )
    keep: int = _field(3, "Checkpoints kept: the furthest N (and the best by eval loss)", "Saving", "N", ge=1, le=100_000)
    on_save_error: Literal["stop", "continue"] = _field(
        "stop", "When a checkpoint cannot be saved: stop the run, or warn and go on", "Saving", more=True
    )

    @property
    def world(self) -> int:
        """Processes of the run on all machines; `auto` counts as one until it is known (resume/plan.py)."""
        return (1 if self.nproc == "auto" else self.nproc) * self.nnodes

    @field_validator("rendezvous")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        host, colon, port = (value or "").rpartition(":")
        if value is not None and not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError(_("is not HOST:PORT"))
        return value

    @field_validator("batch_size", "save_steps", "nproc", mode="before")
    @classmethod
    def _auto_or_positive(cls, value: Any) -> Any:
        if value == "auto":
            return value
        try:
            number = int(str(value).encode("ascii"))  # of other digits than 0-9 it is told here as for other numbers
        except ValueError:
            raise ValueError(_("is neither auto nor a whole number")) from None
        if not 1 <= number <= 1_000_000:
            raise ValueError(_("must be auto or a whole number from 1 to 1000000"))
        return number

    @field_validator("loss_reached", "loss_nearly")
    @classmethod
    def _in_order(cls, value: float, info: ValidationInfo) -> float:
        below = "loss_too_low" if info.field_name == "loss_reached" else "loss_reached"
        if value < info.data.get(below, 0.0):
            raise ValueError(_("is below {name} ({bound:g})").format(name=flag(below), bound=info.data[below]))
        return value

    @field_validator("parallel")
    @classmethod
    def _not_in_4bit(cls, value: str, info: ValidationInfo) -> str:
        if value in ("fsdp2", "deepspeed") and info.data.get("load_in_4bit"):
            raise ValueError(_("excludes --load-in-4bit: transformers cannot load 4-bit weights in parts"))
        return value

    @field_validator("logits")
    @classmethod
    def _not_all_with_deepspeed(cls, value: str, info: ValidationInfo) -> str:
        if value == "all" and info.data.get("parallel") == "deepspeed":
            raise ValueError(
                _("excludes --parallel deepspeed: TRL's loss takes the output layer's weights without calling the layer")
            )
        return value

    @field_validator("eval_dataset")
    @classmethod
    def _one_way_to_measure(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("eval_fraction"):
            raise ValueError(_("excludes --eval-fraction: the rows to measure on are named here"))
        return value

    @field_validator("accept", mode="before")
    @classmethod
    def _items(cls, value: Any) -> Any:
        if not isinstance(value, str | list | tuple):
            raise ValueError(_("is no list of items; these can be accepted: {known}").format(known=", ".join(ACCEPTABLE)))
        items = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else tuple(value)
        unknown = [item for item in items if item not in ACCEPTABLE]
        if unknown:
            raise ValueError(
                _("names what cannot be accepted; these items can: {known}").format(known=", ".join(ACCEPTABLE))
            )
        return items

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, value: str | None) -> str | None:
        names = [name.strip() for name in (value or "").split(",") if name.strip() and name.strip() != "none"]
        for name in names:
            if name not in TRACKERS:
                raise ValueError(
                    _("names a tracker that is unknown; these are known: {known}").format(known=", ".join(TRACKERS))
                )
        return ",".join(dict.fromkeys(names)) or None

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: str | None) -> str | None:
        if value is not None:
            parse_columns(value)
        return value

    @field_validator("skip_rows", mode="before")
    @classmethod
    def _row_numbers(cls, value: Any) -> Any:
        if value is not None:
            parse_rows(str(value))
        return value if value is None else str(value)

    @field_validator("target_modules", "report_to", mode="before")
    @classmethod
    def _names_of_a_list(cls, value: Any) -> Any:
        """A settings file may write names as a list, as it writes those of `accept`."""
        names = value if isinstance(value, list) else []
        return ",".join(names) if names and all(isinstance(name, str) for name in names) else value

    @field_validator("target_modules")
    @classmethod
    def _names_not_a_pattern(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if not all(name and name.replace("_", "").replace("-", "").replace(".", "").isalnum() for name in names):
            raise ValueError(_("must be all-linear or names of layers separated by commas (never a pattern)"))
        return ",".join(dict.fromkeys(names))  # an adapter is on each once, and says so

    @field_validator("dataset", "eval_dataset", "model", "output", "chat_template", "init_from", "resume")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or "\0" in value):
            raise ValueError(_("is empty"))
        try:
            (value or "").encode()
        except UnicodeEncodeError:  # run.toml could not hold it
            raise ValueError(_("holds bytes that are no UTF-8; rename it")) from None
        if value is not None and redact(value) != value:
            raise ValueError(
                _("holds an access token, which would be kept in run.toml; use `hf auth login` or HF_TOKEN instead")
            )
        return str(path_of(value)) if value is not None and value.startswith(("~", "$")) else value

    @field_validator("resume")
    @classmethod
    def _no_word_misspelt(cls, value: str) -> str:
        word = value.lower()
        if word in ("auto", "never") and value != word and not is_there(path_of(value)):
            raise ValueError(_("is no checkpoint; did you mean {word}?").format(word=word))
        return value

    # Of those that come before, the last one here is asked first.
    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """A TOML `true` is no 1, though Python takes it for one."""
        kind = number_kind(str(info.field_name))
        if isinstance(value, bool) and kind is not None:
            raise PydanticKnownError("int_type" if kind is int else "float_type")
        return value


def flag(name: str) -> str:
    """`learning_rate` -> `--learning-rate`."""
    return "--" + name.replace("_", "-")


def field_meta(name: str) -> dict[str, Any]:
    """`group`, `metavar` and `more` (hidden behind "more" in the wizard) of a field."""
    extra = RunConfig.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return dict(extra)


def group_title(group: str) -> str:
    """The heading of a group of fields, in the installed language."""
    titles = {
        "What": _("What to learn"),
        "Continue": _("Fresh or continue"),
        "Training": _("Training"),
        "Watching": _("Watching the loss"),
        "LoRA": _("LoRA"),
        "Hardware": _("Hardware"),
        "Saving": _("Saving"),
    }
    return titles[group]


def is_switch(name: str) -> bool:
    """Whether a field is on or off (or auto)."""
    return RunConfig.model_fields[name].annotation in (bool, Literal["auto"] | bool)


def number_kind(name: str) -> type[int] | type[float] | None:
    """What kind of number a field is, one that may also be `auto` or nothing included; None where it is none."""
    annotation = RunConfig.model_fields[name].annotation
    kinds = {annotation, *get_args(annotation)}
    return int if int in kinds else float if float in kinds else None


def choices(name: str) -> tuple[str, ...]:
    """The words a field may be, empty where it is free."""
    annotation = RunConfig.model_fields[name].annotation
    return tuple(get_args(annotation)) if get_origin(annotation) is Literal else ()
