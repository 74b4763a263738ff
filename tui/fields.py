"""What the wizard's fields are called, and the engine's words with these names in place of flags.

The engine speaks to whoever has a command line. In the wizard nobody can type a flag, so each one that a field stands for is told as
that field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rich.text import Text

from engine.config import flag
from engine.errors import LoraTuiError
from engine.i18n import _
from tui.i18n import N_
from tui.plain import visible

_SAID = re.compile(r"lora-tui --help\b|lora-tui [^\n·]*|--[a-z][a-z0-9-]*")
"""A flag; a whole command, which is there to be copied, comes before the flags in it."""
_BESIDE = re.compile("(?<=[\u3000-\u9fff]) (?=\u201c)|(?<=\u201d) (?=[\u3000-\u9fff])")
"""The space that Chinese puts between its own words and a flag, and not before its quotes."""


LABELS = {
    "dataset": N_("Dataset"), "model": N_("Model"), "output": N_("Output"),
    "format": N_("format"), "columns": N_("columns"), "encoding": N_("encoding"), "skip_rows": N_("skip rows"),
    "chat_template": N_("chat template"),
    "epochs": N_("epochs"), "max_steps": N_("max steps"), "learning_rate": N_("learning rate"), "scheduler": N_("scheduler"),
    "warmup": N_("warmup"), "batch_size": N_("batch size"), "grad_accum": N_("grad accum"), "max_length": N_("max length"),
    "train_on": N_("train on"), "eval_fraction": N_("eval fraction"), "eval_dataset": N_("eval dataset"), "seed": N_("seed"),
    "weight_decay": N_("weight decay"), "max_grad_norm": N_("max grad norm"), "on_jump": N_("on jump"),
    "stop_at_loss": N_("stop at loss"), "loss_too_low": N_("loss too low"), "loss_reached": N_("loss reached"),
    "loss_nearly": N_("loss nearly"), "report_to": N_("report to"), "lora_r": N_("lora r"), "lora_alpha": N_("lora alpha"),
    "lora_dropout": N_("lora dropout"), "target_modules": N_("target modules"), "precision": N_("precision"),
    "load_in_4bit": N_("load in 4bit"), "activation_checkpointing": N_("activation checkpointing"), "nproc": N_("nproc"),
    "nnodes": N_("nnodes"), "node_rank": N_("node rank"), "rendezvous": N_("rendezvous"), "parallel": N_("parallel"),
    "ddp_timeout": N_("ddp timeout"), "logits": N_("logits"), "lora_kernel": N_("lora kernel"),
    "logging_steps": N_("logging steps"), "save_steps": N_("save steps"), "keep": N_("keep"), "on_save_error": N_("on save error"),
}  # fmt: skip
"""Field -> what it is called on the screen: in English the words of its flag, so that whoever knows one finds the other."""


def label(name: str) -> str:
    """How the field of a setting is called on the screen."""
    return _(LABELS[name])


def named_in(words: str | None) -> set[str]:
    """The settings whose flags are told in `words`."""
    said = set(_SAID.findall(words or ""))
    return {name for name in LABELS if flag(name) in said}


def in_fields(words: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """`words` for somebody in the wizard. `more`: flag -> what the field is called, where a screen has others than those of a run."""
    called = {flag(name): label(name) for name in LABELS} | dict(more)
    fields = {one: _('"{field}"').format(field=name) for one, name in called.items()}
    fields["lora-tui --help"] = "F1"
    return _BESIDE.sub("", _SAID.sub(lambda found: fields.get(found.group(), found.group()), words))


def lines_text(lines: Iterable[tuple[str, str]]) -> Text:
    """(text, style) lines as one text, with fields where the engine names flags."""
    return Text("\n").join(Text(visible(in_fields(line), keep_lines=True), style=style) for line, style in lines)


def told(error: LoraTuiError, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """An error as one paragraph: what, where, what to do. Where the engine names a flag, the field is named; `more` as `in_fields`."""
    words = "\n".join(part for part in (error.title, error.detail, error.fix) if part)
    return visible(in_fields(words, more), keep_lines=True)


def done_words(asked_for: str) -> str:
    """What must be answered otherwise for a run of which nothing is left."""
    match asked_for:
        case "stop_at_loss":
            return _("The loss of this run is where {name} wants it; 0 goes on with it.").format(name=label(asked_for))
        case "max_steps":
            return _("Nothing is left of this run; a higher number of {name} goes on with it.").format(name=label(asked_for))
    return _("Nothing is left of this run; with more {name} it goes on.").format(name=label(asked_for))
