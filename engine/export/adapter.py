"""The adapter alone, as PEFT and everything built on it reads it: two files and the tokenizer, nothing of the training."""

from __future__ import annotations

import json
from pathlib import Path

from engine.checkpoints.adapter import CONFIG_NAME
from engine.checkpoints.verified import copy_plain_files, private_copy
from engine.export.card import model_card
from engine.export.place import staged
from engine.export.source import ExportSource
from engine.training.complete import only_continues


def export_adapter(source: ExportSource, into: Path) -> Path:
    """Write the adapter of `source` under `into`; returns the new folder. The weights are those of the run, byte for byte.

    Raises OutputError, or CannotContinue where the adapter changed since it was judged.
    """
    with (
        staged(into, "adapter", 2 * source.adapter.bytes) as (staging, target),
        private_copy(source.adapter, into) as copy,
    ):
        left_out = (path.name for path in copy.iterdir() if only_continues(path.name))
        copy_plain_files(copy, staging, (*left_out, "README.md", CONFIG_NAME))
        config = json.loads((copy / CONFIG_NAME).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = source.base_name
        (staging / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
        (staging / "README.md").write_text(model_card(source, merged=False), encoding="utf-8")
    return target
