"""The model card of an export: what it was made from and how, in the form the hub reads (YAML front matter, then Markdown)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine
from engine.events import ResumeChecked, RunFinished
from engine.export.source import ExportSource
from engine.journal import begun_at, fold, read_journal, standing_attempts
from engine.models.templates import MODELS_OWN
from engine.paths import is_folder, path_of

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

WIDTH, HEIGHT = 72, 8
"""Columns and rows of the loss's picture."""


def model_card(source: ExportSource, merged: bool) -> str:
    """The card as text. English, as cards are. It names no folder of this machine: of a local base only its last part."""
    base = source.base_name
    local = is_folder(path_of(base))
    shown = Path(base).name if local else base
    shape = source.adapter.adapter
    assert shape is not None
    # A JSON string is a YAML string: a name cannot break out of the front matter.
    front = ["---", *([] if local else [f"base_model: {json.dumps(base)}"]), f"library_name: {'transformers' if merged else 'peft'}",
             "pipeline_tag: text-generation", "tags: [lora, lora-tui]", "---"]  # fmt: skip
    what = "The base model with the LoRA adapter merged into it." if merged else "A LoRA adapter."
    facts = [f"| base model | {_cell(shown)} |", f"| rank, alpha | {shape.r}, {shape.lora_alpha} |",
             f"| target modules | {_cell(', '.join(shape.target_modules))} |"]  # fmt: skip
    told = _journal(source)
    if source.config.dataset is not None:
        settings = {name: told.settings.get(name, getattr(source.config, name)) for name in ("dataset", *SETTINGS)}
        facts.append(f"| dataset | {_cell(Path(str(settings['dataset'])).name)} |")
        template = str(told.settings.get("chat_template", source.config.chat_template))
        facts += [f"| chat_template | {_cell(Path(template).name)} |"] if template != MODELS_OWN else []
        unused = "max_steps" if settings["max_steps"] is None else "epochs"  # the one is there instead of the other
        facts += [f"| {name} | {_cell(str(settings[name]))} |" for name in SETTINGS if name != unused]
    facts += [f"| {name} | {value:.6g} |" for name, value in told.reached.items()]
    facts += [f"| {name} | {value:,} |" for name, value in told.numbers.items()]
    return "\n".join([*front, "", f"# {_cell(shown)}, fine-tuned", "", f"{what} Made by lora-tui {engine.__version__}.", "",
                      "| | |", "|---|---|", *facts, "", *told.lines])  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """What is known of the way to the adapter; of a checkpoint in the middle of the run nothing that came after it."""

    settings: Mapping[str, Any]
    """What it was trained with; empty where the Journal does not tell."""
    reached: dict[str, float]
    numbers: dict[str, int]
    lines: list[str]


def _journal(source: ExportSource) -> _Told:
    """What the run's Journal tells: settings, how far it came, rows and tokens, the loss as a picture, and the receipt of each time it
    was continued."""
    records = list(read_journal(source.adapter.path.parent))
    adapter = source.adapter
    known: dict[str, Any] = {
        "step": adapter.step,
        "epoch": adapter.epoch,
        "loss": adapter.loss,
        "eval_loss": adapter.eval_loss,
    }
    if adapter.step is None:  # the adapter of the run's end carries no state of its own
        known = dict(next((one for one in reversed(records) if one["type"] == RunFinished.type), {}))
    titles = {"step": "step", "epoch": "epoch", "loss": "training loss", "eval_loss": "eval loss"}
    reached = {words: known[key] for key, words in titles.items() if isinstance(known.get(key), int | float)}
    last = known.get("step") if isinstance(known.get("step"), int) else None
    attempts = [one for one in standing_attempts(records) if last is None or begun_at(one) < max(last, 1)]
    begun = attempts[-1][0] if attempts else {}
    numbers = {
        words: int(begun[key])
        for key, words in (("rows", "rows"), ("trained_tokens", "tokens trained on, an epoch"))
        if isinstance(begun.get(key), int)
    }
    way = [row for row in fold(records) if last is None or row["step"] <= last]
    losses = [row["loss"] for row in way if isinstance(row.get("loss"), int | float)]
    lines = ["## Training loss", "", "```", *loss_picture(losses), "```", ""] if len(losses) > 1 else []
    receipts = [record for told in attempts for record in told if record["type"] == ResumeChecked.type]
    if receipts:
        words = "After loading and before the first step, what was restored was held against what was saved:"
        lines += ["## Continued", "", words, "",
                  "| from | ok | changed | unknown |", "|---|---|---|---|"]  # fmt: skip
    for receipt in receipts:
        told = receipt.get("items")
        items = [item for item in told if isinstance(item, dict)] if isinstance(told, list) else []
        verdicts = [str(item.get("verdict")) for item in items]
        changed = [str(item.get("item")) for item in items if item.get("verdict") == "changed"]
        lines.append(f"| {_cell(str(receipt.get('checkpoint')))} | {verdicts.count('ok')} | {_cell(', '.join(changed)) or '-'} | "
                     f"{verdicts.count('unknown')} |")  # fmt: skip
    settings = begun.get("config")
    return _Told(settings if isinstance(settings, dict) else {}, reached, numbers, [*lines, ""] if receipts else lines)


def loss_picture(losses: Sequence[float]) -> list[str]:
    """The losses as columns of text, at most WIDTH of them, each the mean of its share; the lowest and highest are written beside."""
    width = min(WIDTH, len(losses))
    shares = [losses[index * len(losses) // width : (index + 1) * len(losses) // width] for index in range(width)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    eighths = [round((mean - low) / ((high - low) or 1.0) * (HEIGHT * 8 - 1)) + 1 for mean in means]
    rows = []
    for row in reversed(range(HEIGHT)):
        label = f"{high:8.3g} " if row == HEIGHT - 1 else f"{low:8.3g} " if row == 0 else " " * 9
        rows.append((label + "".join(" ▁▂▃▄▅▆▇█"[max(0, min(8, one - 8 * row))] for one in eighths)).rstrip())
    return [*rows, f"{'':9}{len(losses)} logged losses"]


def _cell(text: str) -> str:
    return "".join(" " if ord(letter) < 32 else letter for letter in text).replace("|", "\\|").replace("<", "&lt;")
