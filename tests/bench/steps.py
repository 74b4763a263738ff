"""Memory and time of a step over 100,000 steps of one run: a tiny model, a log at every step, twenty saves.

Memory is the process's own (RssAnon, Linux) when the Journal told the step; the time of a step is the mean of the thousand before it.
STEPS=10000 for a shorter one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.journal import JOURNAL_NAME

STEPS = int(os.environ.get("STEPS", "100000"))
LOOKS = tuple(count for count in (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000) if count <= STEPS)


def own_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    from tests.conftest import build_tiny_model, chats, write_jsonl

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_model(folder / "model")
        write_jsonl(folder / "chats.jsonl", chats(64))
        command = [
            sys.executable, "-m", "tui", "--yes", "--dataset", str(folder / "chats.jsonl"), "--model", str(folder / "model"),
            "--output", str(folder / "run"), "--max-steps", str(STEPS), "--save-steps", str(STEPS // 20), "--batch-size", "1",
        ]  # fmt: skip
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("| steps | memory MB | a step, ms | the Journal MB |\n|---|---|---|---|")
        told = folder / "run" / JOURNAL_NAME
        while not told.exists():
            time.sleep(0.1)
        moments: dict[int, float] = {}
        with open(told, encoding="utf-8") as journal:
            line = ""
            while True:
                line += journal.readline()
                if not line.endswith("\n"):  # half of it, or none
                    if run.poll() is not None:
                        break
                    time.sleep(0.02)
                    continue
                record, line = json.loads(line), ""
                if record["type"] != "step":
                    continue
                step = record["step"]
                if step % 1_000 in (0, 1):
                    moments[step] = record["t"]
                if step in LOOKS:
                    each = (record["t"] - moments[step - 999]) / 999 * 1e3
                    print(
                        f"| {step} | {own_megabytes(run.pid):.0f} | {each:.2f} | {told.stat().st_size / 1e6:.1f} |",
                        flush=True,
                    )
        if run.wait():
            raise SystemExit(f"the run ended with {run.returncode}")
