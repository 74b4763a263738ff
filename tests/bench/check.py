"""`check` of a folder of many checkpoints, 2 MB of state each: wall and CPU seconds of the whole process, and its peak memory.

The checkpoints are one real checkpoint of a short run, each copy with its own step and the losses logged up to it; ours with a
manifest that is true of them, another tool's without one. 10,000 of them take 17 GB of disk for some minutes, under TMPDIR.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.checkpoints.manifest import Manifest, dump_manifest, parse_manifest

COUNTS = (1_000, 10_000)
LOGGED = 1_000
"""Rows of the longest log; a run that saves more often than it logs has fewer than checkpoints."""
STATE_BYTES = 2_000_000


def one(folder: Path) -> Path:
    """A checkpoint of a real run whose adapter and optimizer take STATE_BYTES together."""
    from tests.bench.variants import prepare
    from tests.engine.runs import train

    prepare(folder)
    train(dataset=folder / "chats.jsonl", model=folder / "model", output=folder / "one", batch_size=8, max_steps=2,
          save_steps=2, lora_r=8)  # fmt: skip
    return folder / "one" / "checkpoint-2"


def fill(out: Path, source: Path, count: int, ours: bool) -> None:
    """`count` checkpoints like `source` in `out`, at steps 1 to `count`, with a manifest where they are `ours`."""
    manifest = parse_manifest((source / "manifest.json").read_bytes()).model_dump(mode="json")
    state = json.loads((source / "trainer_state.json").read_bytes())
    rows = [{"epoch": n / 60, "grad_norm": 1.25, "learning_rate": 1e-4, "loss": 4 - 3 * n / LOGGED, "step": n * count // LOGGED}
            for n in range(1, LOGGED + 1)]  # fmt: skip
    out.mkdir()
    for step in range(1, count + 1):
        folder = out / f"checkpoint-{step}"
        shutil.copytree(source, folder, ignore=None if ours else shutil.ignore_patterns("manifest.json"))
        logged = rows[: step * LOGGED // count]
        content = json.dumps({**state, "global_step": step, "epoch": step / 60, "log_history": logged}, indent=2).encode()
        (folder / "trainer_state.json").write_bytes(content)
        if ours:
            changed = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            files = {**manifest["files"], "trainer_state.json": changed}
            own = Manifest.model_validate_json(json.dumps({**manifest, "step": step, "epoch": step / 60, "files": files}))
            (folder / "manifest.json").write_bytes(dump_manifest(own))


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stderr.write(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.stdout.buffer.write(done.stdout)
"""
"""A small process in between: the peak of a forked child counts what its parent held, and this one holds torch."""


def measure(out: Path, *options: str) -> dict[str, Any]:
    """One `lora-tui check` of `out`: the peak is of the largest of its processes."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "tui", "check", str(out), "--json", *options]
    done = subprocess.run(command, capture_output=True, check=True)
    wall = time.perf_counter() - begin
    told = json.loads(done.stdout)
    cpu, peak = done.stderr.split()[-2:]
    grades = {row["grade"] for row in told["checkpoints"]}
    return {"wall": wall, "cpu": float(cpu), "peak MB": int(peak) / 1e3,
            "grades": sorted(grades), "count": len(told["checkpoints"])}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        source = one(Path(name))
        size = sum(path.stat().st_size for path in source.iterdir())
        for count, ours in ((count, ours) for count in COUNTS for ours in (True, False)):
            if count * size * 1.2 > shutil.disk_usage(name).free:
                print(f"{count} checkpoints: no room for them in {name}")
                continue
            out = Path(name) / str(count)
            fill(out, source, count, ours)
            time.sleep(4)  # what is younger is not remembered (engine/checkpoints/verdicts.py)
            for turn in ("first", "again", "--full"):
                found = measure(out, *([turn] if turn == "--full" else []))
                print(f"check of {count} checkpoints of {size / 1e6:.1f} MB, {'ours' if ours else 'another tool'}, {turn}: "
                      f"{found['wall']:.2f} s wall, {found['cpu']:.2f} s CPU, peak {found['peak MB']:.0f} MB, "
                      f"{', '.join(found['grades'])}", flush=True)  # fmt: skip
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
