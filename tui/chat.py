"""`lora-tui chat OUT --prompt TEXT`: the adapter's answer and the bare base's, as they come, or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from engine.chat import SIDES, Sampling, Side, open_chat, question
from engine.export.source import find_source
from engine.hardware import prepare_process
from engine.i18n import _
from tui.plain import visible
from tui.streams import quiet_libraries


def run_chat(
    out: str, prompt: str, checkpoint: str | None, model: str | None, max_new_tokens: int, temperature: float, top_p: float,
    seed: int, json: bool,
) -> int:  # fmt: skip
    """Ask both sides; the exit code. Raises the engine's errors."""
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    source = find_source(Path(out), checkpoint, model)
    prepare_process()
    quiet_libraries()
    answers = {}
    with open_chat(source) as chat:
        for side in SIDES:
            if not json:
                title = _("adapter ({name})").format(name=source.adapter.path.name) if side == "adapter" else _("bare base")
                sys.stdout.write(f"── {title}\n")
            answers[side] = chat.answer(question(prompt), side, sampling, _silent if json else _told)
            if not json:
                sys.stdout.write("\n\n")
    if json:
        _print_json(prompt, str(source.adapter.path), sampling, answers)
    return 0


def _silent(_piece: str) -> None:
    pass


def _told(piece: str) -> None:
    sys.stdout.write(visible(piece, keep_lines=True))
    sys.stdout.flush()


def _print_json(prompt: str, source: str, sampling: Sampling, answers: dict[Side, str]) -> None:
    document: dict[str, object] = {"schema": 1, "from": source, "prompt": prompt, "sampling": asdict(sampling)}
    document |= {side: answers[side] for side in SIDES}
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
