"""Several processes on this machine: how much of their number is speed, and what a commit costs by how many they are.

The training benchmark's model and rows, the same rows a step however many share it, each process with one core. Seconds are those
from the first told step to the last, from the Journal; a commit's are what `checkpoint_saved` tells.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from engine.journal import read_journal

COUNTS = (1, 2, 3)
REPEATS = 3
STEPS = 60
ROWS = 24
"""Of a step: each of COUNTS divides it."""


def once(folder: Path, name: str, processes: int) -> tuple[float, list[float]]:
    """(seconds a step, seconds of each commit) of a run of so many processes."""
    from tests.cluster.world import Run

    out = folder / name
    run = Run(
        folder, "--yes", "--dataset", folder / "chats.jsonl", "--model", folder / "model", "--output", out, "--nproc", processes,
        "--batch-size", ROWS // processes, "--max-steps", STEPS, "--save-steps", STEPS // 3, "--epochs", 100,
    )  # fmt: skip
    if run.code() != 0:
        raise SystemExit(run.said())
    told: list[dict[str, Any]] = list(read_journal(out))
    steps = [record for record in told if record["type"] == "step"]
    commits = [record["seconds"] for record in told if record["type"] == "checkpoint_saved"]
    return (steps[-1]["t"] - steps[0]["t"]) / (steps[-1]["step"] - steps[0]["step"]), commits


def main() -> None:
    from tests.bench.variants import prepare

    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[int, list[float]] = {count: [] for count in COUNTS}
    commits: dict[int, list[float]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for repeat in range(REPEATS):
            for count in COUNTS:
                each, saved = once(folder, f"{count}-{repeat}", count)
                found[count].append(each)
                commits[count] += saved
    print("\n| processes | step s | times one process | efficiency | commit s, median (most) |\n|---|---|---|---|---|")
    alone = statistics.median(found[1])
    for count in COUNTS:
        each = statistics.median(found[count])
        print(f"| {count} | {each:.3f} | {alone / each:.2f} | {alone / each / count:.0%} | "
              f"{statistics.median(commits[count]):.3f} ({max(commits[count]):.3f}) |")  # fmt: skip
