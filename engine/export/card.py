"""The model card of an export: what it was made from and how, in the form the hub reads (YAML front matter, then Markdown)."""

from __future__ import annotations

import json
from pathlib import Path

import engine
from engine.export.source import ExportSource

SETTINGS = (
    "epochs",
    "max_steps",
    "learning_rate",
    "scheduler",
    "warmup",
    "batch_size",
    "grad_accum",
    "max_length",
    "train_on",
    "seed",
)


def model_card(source: ExportSource, merged: bool) -> str:
    """The card as text. English, as cards are. It names no folder of this machine: of a local base only its last part."""
    base = source.base_name
    local = Path(base).expanduser().is_dir()
    shown = Path(base).name if local else base
    shape = source.adapter.adapter
    assert shape is not None
    # A JSON string is a YAML string: a name cannot break out of the front matter.
    front = ["---", *([] if local else [f"base_model: {json.dumps(base)}"]), f"library_name: {'transformers' if merged else 'peft'}",
             "pipeline_tag: text-generation", "tags: [lora, lora-tui]", "---"]  # fmt: skip
    what = "The base model with the LoRA adapter merged into it." if merged else "A LoRA adapter."
    facts = [f"| base model | {_cell(shown)} |", f"| rank, alpha | {shape.r}, {shape.lora_alpha} |",
             f"| target modules | {_cell(', '.join(shape.target_modules))} |"]  # fmt: skip
    if source.config.dataset is not None:
        facts.append(f"| dataset | {_cell(Path(source.config.dataset).name)} |")
        facts += [f"| {name} | {_cell(str(getattr(source.config, name)))} |" for name in SETTINGS]
    for name, value in (
        ("step", source.adapter.step),
        ("epoch", source.adapter.epoch),
        ("training loss", source.adapter.loss),
    ):
        if value is not None:
            facts.append(f"| {name} | {value:.6g} |")
    return "\n".join([*front, "", f"# {_cell(shown)}, fine-tuned", "", f"{what} Made by lora-tui {engine.__version__}.", "",
                      "| | |", "|---|---|", *facts, ""])  # fmt: skip


def _cell(text: str) -> str:
    return "".join(" " if ord(letter) < 32 else letter for letter in text).replace("|", "\\|").replace("<", "&lt;")
