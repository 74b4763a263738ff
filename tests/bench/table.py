"""The token table of a million short chats: the pass that makes it, the start that finds it again, and the memory of both.

Each start is a process of its own with an empty cache at first. `ROWS=20000 python -m tests.bench table` for a shorter one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = int(os.environ.get("ROWS", "1000000"))


def start(folder: Path) -> None:
    """One start, in this process, up to the first batch: prints what it took."""
    import resource

    from engine.config import RunConfig
    from engine.data.order import row_order
    from engine.hardware import load_libraries

    load_libraries()
    from engine.training.material import load_material

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    material = load_material(RunConfig(dataset=str(folder / "chats.jsonl"), model=str(folder / "model")))
    seconds = time.monotonic() - began
    began = time.monotonic()
    order = row_order(42, 0, material.train.lengths)
    material.train.row(int(order[len(order) // 2]))
    first = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([len(material.train), seconds, first, before / 1024, peak / 1024]))


def main() -> None:
    from tests.conftest import build_tiny_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_model(folder / "model")
        with open(folder / "chats.jsonl", "w", encoding="utf-8") as file:
            for number in range(ROWS):
                turns = [("user", f"question {number}"), ("assistant", f"the lamp burns when fog comes {number % 977}")]
                row = {"messages": [{"role": role, "content": words} for role, words in turns]}
                file.write(json.dumps(row) + "\n")
        environment = {**os.environ, "LORA_TUI_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        for what in ("made", "found again"):
            code = "import sys; from pathlib import Path; from tests.bench.table import start; start(Path(sys.argv[1]))"
            command = [sys.executable, "-c", code, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows, seconds, first, libraries, peak = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{what}: {rows} rows in {seconds:.1f} s ({rows / seconds:.0f} rows/s) · order of an epoch and a row from its "
                f"middle {first:.2f} s · peak {peak:.0f} MB, {libraries:.0f} of them libraries"
            )
