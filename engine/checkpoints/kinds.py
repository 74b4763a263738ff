"""Which program made a checkpoint, and which kinds of checkpoint are not continued here, told by what stands in the folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from engine.checkpoints.adapter import CONFIG_NAME, WEIGHTS
from engine.checkpoints.checkpoint import AdapterShape, Problem
from engine.checkpoints.files import Entry, Unsound, list_folder, open_plain
from engine.checkpoints.state import TrainerState
from engine.i18n import _

README_BYTES = 65_536

TAGS = (
    ("unsloth", "Unsloth"),
    ("llama-factory", "LLaMA-Factory"),
    ("llamafactory", "LLaMA-Factory"),
    ("axolotl", "Axolotl"),
    ("trl", "TRL"),
)
"""Words of a model card, the more specific first: Unsloth trains with TRL, and says both."""
LOGGED_BY_TRL = frozenset({"mean_token_accuracy", "num_tokens", "rewards/chosen", "rewards/margins", "completion_length",
                           "completions/mean_length"})  # fmt: skip


def made_by(folder: Path, entries: Mapping[str, Entry], adapter: AdapterShape | None, state: TrainerState | None) -> str:
    """The program's name; unknown where nothing tells. A checkpoint with a manifest is ours and not asked about here."""
    card = _card(folder, entries)
    for word, name in TAGS:
        if word in card and re.search(rf"(?<![\w-]){word}(?![\w-])", card):
            return name
    if adapter is not None and (adapter.base_model or "").startswith("unsloth/"):
        return "Unsloth"
    if "tokens_state.json" in entries:
        return "Axolotl"
    if (folder.parent / "trainer_log.jsonl").is_file() or (folder.parent / "llamaboard_config.yaml").is_file():
        return "LLaMA-Factory"
    if state is not None and state.log.keys & LOGGED_BY_TRL:
        return "TRL"
    return "Trainer" if state is not None or "training_args.bin" in entries else "unknown"


def _card(folder: Path, entries: Mapping[str, Entry]) -> str:
    if "README.md" not in entries:
        return ""
    try:
        with open_plain(folder / "README.md") as file:
            return file.read(README_BYTES).decode("utf-8", "replace").lower()
    except Unsound:
        return ""


def sharded(folder: Path, entries: Mapping[str, Entry]) -> tuple[Problem, bool] | None:
    """The problem of a checkpoint that FSDP or DeepSpeed spread over several files, and whether its shards look whole.

    Their formats cannot be judged without running what they hold, so "whole" only means: none is empty, none is missing its index.
    """
    folders = [name for name, entry in entries.items() if entry.kind == "folder"]
    deepspeed = [name for name in folders if re.fullmatch(r"global_step\d+", name)]
    fsdp = [name for name in folders if re.fullmatch(r"(pytorch_model_fsdp|optimizer)_\d+", name)]
    flat = [name for name in ("pytorch_model_fsdp.bin", "optimizer.bin") if name in entries]
    if not (deepspeed or fsdp or flat):
        return None
    tool = "DeepSpeed" if deepspeed else "FSDP"
    whole = all(entries[name].size for name in flat)
    for name in (*deepspeed, *fsdp):
        try:
            inside = list_folder(folder / name)
        except (OSError, Unsound):
            return _sharded(tool), False
        whole &= bool(inside) and all(entry.kind == "file" and entry.size for entry in inside.values())
        whole &= name in deepspeed or ".metadata" in inside
    return _sharded(tool), whole


def _sharded(tool: str) -> Problem:
    return Problem(
        "sharded",
        _("Its training state was spread over several processes by {tool}.").format(tool=tool),
        _("Continue it with the program and the number of processes that made it."),
    )


def several_adapters(folder: Path, entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """Subfolders that hold an adapter of their own, as PEFT saves all but the default one."""
    found = []
    for name, entry in entries.items():
        if entry.kind == "folder":
            try:
                inside = list_folder(folder / name)
            except (OSError, Unsound):
                continue
            if CONFIG_NAME in inside or any(weights in inside for weights in WEIGHTS):
                found.append(name)
    return tuple(sorted(found))


def several(names: tuple[str, ...]) -> Problem:
    """The problem of a checkpoint with more than one adapter."""
    return Problem(
        "several_adapters",
        _("It holds several adapters, in subfolders ({names}); which one was trained is not said.").format(
            names=", ".join(names)[:120]
        ),
        _("Continue it with the program that made it, or take one of them with --init-from."),
    )
