"""A base model that two processes share out among them (FSDP2) beside one that each has whole (DDP): memory and time.

A Llama of about 1 GB in float32 and few, short rows, so that the weights are what counts. Memory is the most that a process was seen
to have of its own, looked at five times a second (RssAnon, Linux: pages of the model's file, which the system may drop, are not
counted); seconds are those from the first told step to the last.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path

from engine.journal import read_journal

HIDDEN, LAYERS = 2048, 5
STEPS = 8
REPEATS = 3


def once(folder: Path, name: str, parallel: str) -> tuple[float, list[float]]:
    """(seconds a step, peak megabytes of each process)."""
    from tests.cluster.world import Run

    out = folder / name
    run = Run(
        folder, "--yes", "--dataset", folder / "chats.jsonl", "--model", folder / "model", "--output", out, "--nproc", 2,
        "--parallel", parallel, "--batch-size", 1, "--max-steps", STEPS, "--epochs", 100, "--save-steps", 100,
    )  # fmt: skip
    peaks: dict[int, float] = {}
    while run.process.poll() is None:
        for rank in (0, 1):
            try:
                status = Path(f"/proc/{run.worker(rank).pid}/status").read_text()
            except (AssertionError, OSError):
                continue
            own = [int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("RssAnon")]
            peaks[rank] = max(peaks.get(rank, 0), *own)
        time.sleep(0.2)
    if run.code() != 0:
        raise SystemExit(run.said())
    steps = [record for record in read_journal(out) if record["type"] == "step"]
    return (steps[-1]["t"] - steps[0]["t"]) / (steps[-1]["step"] - steps[0]["step"]), list(peaks.values())


def main() -> None:
    from tests.bench.save import build

    os.environ["OMP_NUM_THREADS"] = "1"
    ways = ("ddp", "fsdp2", *(["deepspeed"] if importlib.util.find_spec("deepspeed") else []))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, HIDDEN, LAYERS)
        weights = (folder / "model" / "model.safetensors").stat().st_size / 1e6
        for repeat in range(REPEATS):
            for way in ways:
                each, peak = once(folder, f"{way}-{repeat}", way)
                seconds[way].append(each)
                peaks[way] += peak
    print(f"\nweights {weights:.0f} MB, two processes\n\n| | step s | most memory of a process, MB |\n|---|---|---|")
    for way in ways:
        print(f"| {way} | {statistics.median(seconds[way]):.2f} | {max(peaks[way]):.0f} |")
