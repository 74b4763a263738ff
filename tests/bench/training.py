"""The same work done by lora-tui, by `trl sft`, by TRL's trainer and by raw torch loops, side by side in one run.

Each variant is a process of its own, in alternating order, three times; the medians and their ratios are printed as a table. Same
rows, same steps. On a machine that others use too, look at the CPU seconds of the whole process, imports included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPEATS = 3


def measure(variant: str, folder: Path) -> dict[str, Any]:
    """One process: seconds of training, and of the whole process."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.variants", variant, str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return {
        "first": float("nan"),
        **{key: value for part in told for key, value in part.items()},
        "whole": time.monotonic() - started,
    }


def seconds_of(*arguments: str) -> float:
    """Median wall seconds of a command, five times."""
    times = []
    for _time in range(5):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "tui", *arguments], capture_output=True, check=False)
        times.append(time.monotonic() - started)
    return statistics.median(times)


def padded(folder: Path) -> tuple[float, float]:
    """(as lora-tui orders the rows, as chance does): positions of all batches, padding included, for each token of an epoch."""
    import numpy

    from engine.config import RunConfig
    from engine.data.order import row_order
    from tests.bench.variants import BATCH, table

    lengths = table(folder).train.lengths
    orders = row_order(RunConfig().seed, 0, lengths), numpy.random.default_rng(0).permutation(len(lengths))
    grouped, random = (
        sum(lengths[order[begin : begin + BATCH]].max() * BATCH for begin in range(0, len(order), BATCH)) / lengths.sum()
        for order in orders
    )
    return float(grouped), float(random)


def main() -> None:
    from tests.bench.variants import VARIANTS, prepare

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for turn in range(REPEATS):
            for variant in list(VARIANTS) if turn % 2 == 0 else reversed(list(VARIANTS)):
                found[variant].append(measure(variant, folder))
        medians = {
            variant: {
                key: statistics.median(run[key] for run in runs) for key in ("train", "first", "whole", "cpu", "last_loss")
            }
            for variant, runs in found.items()
        }
        print("| | training s | first step after s | whole s | CPU s | training, x ours | first step | whole | last loss |")
        print("|---|---|---|---|---|---|---|---|---|")
        for variant, row in medians.items():
            ours = medians["lora-tui"]
            times = " | ".join(f"{row[key] / ours[key]:.2f}" for key in ("train", "first", "whole"))
            print(f"| {variant} | {row['train']:.2f} | {row['first']:.2f} | {row['whole']:.2f} | {row['cpu']:.1f} | {times} | "
                  f"{row['last_loss']:.3f} |".replace("nan", "-"))  # fmt: skip
        grouped, random = padded(folder)
        print(f"padding: {grouped:.3f} positions a token in batches of like lengths, {random:.3f} in random ones")
        print(
            f"--help {seconds_of('--help'):.2f} s · check of 3 checkpoints {seconds_of('check', str(folder / 'run')):.2f} s"
        )
