"""What the promise costs: the share of a run that goes into the monitor, the Journal, the probe, the receipt and a save's own part.

The training benchmark's model and rows, continued in the middle so that there is a receipt; the named functions are timed where they
stand, in the training thread and in the committer's. Shares are of the seconds from the first event to the end of the run.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = {
    "monitor": ("engine.course.monitor", "LossMonitor.observe"),
    "Journal": ("engine.journal", "Journal.write"),
    "probe": ("engine.training.probe", "score"),
    "probe, bare base": ("engine.training.probe", "score_base"),
    "receipt": ("engine.training.proving", "Proof.check_memory"),
    "private copy, judged": ("engine.checkpoints.verified", "copy_plain_files"),
    "save, in the loop": ("engine.training.saving", "Saver._save"),
    "save, beside it": ("engine.checkpoints.commit", "Committer._commit"),
}
STEPS = 240


def timed(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its seconds added to `spent[name]`."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun

    return wrapped


def place(part: str) -> tuple[Any, str, Callable[..., Any]]:
    """Whose attribute the function of this part is, its name there, and itself."""
    module, path = PARTS[part]
    owner: Any = importlib.import_module(module)
    *outer, last = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    return owner, last, getattr(owner, last)


def watch(spent: dict[str, float]) -> None:
    """Put a clock around every part, wherever its module was imported from."""
    for name in PARTS:
        owner, last, function = place(name)
        clocked = timed(spent, name, function)
        setattr(owner, last, clocked)
        for other in ("engine.training.session", "engine.training.saving", "engine.checkpoints.verified"):
            loaded = importlib.import_module(other)
            if getattr(loaded, last, None) is function:
                setattr(loaded, last, clocked)


def main() -> None:
    from tests.bench.variants import BATCH, prepare
    from tests.engine.runs import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        flags = {"dataset": folder / "chats.jsonl", "model": folder / "model", "output": folder / "run", "batch_size": BATCH}
        train(**flags, max_steps=STEPS, save_steps=60, stop_at=STEPS // 2)
        spent: dict[str, float] = {}
        watch(spent)
        begun = time.perf_counter()
        train(**flags, max_steps=STEPS, save_steps=60)
        whole = time.perf_counter() - begun
    print(f"{STEPS // 2} steps in {whole:.1f} s, three saves")
    for part in PARTS:
        seconds = spent.get(part, 0.0)
        print(f"{part:22}{seconds:8.3f} s{100 * seconds / whole:8.2f} %")
