"""Real runs, killed with SIGKILL at random moments and continued until they are done: `python -m tests.faults.kills`.

Every run is a process of its own, killed wherever it stands: while it imports, reads, loads, steps, saves, sweeps up after the kill
before. The moment is drawn evenly over a run's whole time, or, every third time, while a staging folder exists, since a save is
short. After each kill the folder is looked at as `check` would; after each finished run it is held against one that was never
killed. Prints one table; exits 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checkpoints.scan import scan
from engine.events import CheckpointSaved, RunStarted, Step
from engine.folder import FINAL
from engine.journal import read_journal
from engine.resume.recommend import settle
from tests.conftest import build_tiny_model, chats, run_lora_tui, write_jsonl
from tests.engine.runs import adapter_bytes, losses

SAVE_STEPS = 3
FLAGS = ["--yes", "--epochs", "2", "--batch-size", "2", "--learning-rate", "0.01", "--save-steps", str(SAVE_STEPS), "--lora-dropout",
         "0.1", "--eval-fraction", "0.2", "--keep", "2"]  # fmt: skip
"""20 rows learned, two at a time: 20 steps, seven saves, five removals."""


@dataclass
class Figures:
    """What was seen."""

    kills: int = 0
    runs: int = 0
    where: Counter[str] = field(default_factory=Counter)
    checkpoints: int = 0
    """Checkpoints judged after a kill."""
    faults: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Steps done again after each kill."""
    leftovers: int = 0
    """Kills that left a staging or trash folder."""
    seconds: float = 0.0

    def table(self) -> str:
        """The figures as a Markdown table."""
        rows = [
            ("SIGKILLs", self.kills),
            *((f"... of them {where}", count) for where, count in sorted(self.where.items())),
            ("runs finished, each compared with one that was never killed", self.runs),
            ("checkpoints judged after a kill", self.checkpoints),
            (f"steps done again after a kill: mean, largest (a save every {SAVE_STEPS} steps)",
             f"{sum(self.lost) / max(1, len(self.lost)):.2f}, {max(self.lost, default=0)}"),
            ("kills that left such a folder; all were swept by the next start", self.leftovers),
            ("**faults**", len(self.faults)),
            ("minutes", f"{self.seconds / 60:.1f}"),
        ]  # fmt: skip
        return "\n".join(["| seen | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


class Killing:
    """Runs, kills and compares in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance, self.figures = folder, random.Random(seed), Figures()
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch", "trl", "peft", "transformers", "datasets", "trl.trainer.sft_trainer"])
        self.model = build_tiny_model(folder / "model")
        self.rows = write_jsonl(folder / "chats.jsonl", chats(26))
        self.straight = folder / "straight"
        self._finish(self.straight)  # the first start also waits for the server that imports the libraries
        begun = time.monotonic()
        self._finish_again()
        self.usual = time.monotonic() - begun
        self.losses, self.adapter = losses(self.straight), adapter_bytes(self.straight)

    def _finish_again(self) -> None:
        self._finish(self.folder / "again")
        if adapter_bytes(self.folder / "again") != adapter_bytes(self.straight):
            raise SystemExit("this machine's runs are not the same run twice; nothing can be compared")

    def _start(self, out: Path) -> Any:
        flags = [*FLAGS, "--dataset", str(self.rows), "--model", str(self.model), "--output", str(out)]
        process = self.context.Process(target=run_lora_tui, args=(flags, str(self.folder), {}))
        process.start()
        return process

    def _finish(self, out: Path) -> None:
        process = self._start(out)
        process.join(300)
        if process.exitcode != 0:
            self._fault(f"exit {process.exitcode}: {(self.folder / 'stderr.txt').read_text()[-600:]}")

    def run(self, out: Path, kills: int) -> None:
        """One run, killed up to `kills` times."""
        for _time in range(kills):
            process = self._start(out)
            if self.chance.random() < 1 / 3:
                self._await_staging(process, out)
            else:
                process.join(self.chance.uniform(0.0, self.usual))
            if process.exitcode is not None:
                if process.exitcode != 0:
                    self._fault(f"exit {process.exitcode}: {(self.folder / 'stderr.txt').read_text()[-600:]}")
                break  # it was done before the kill came
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self._after_kill(out)
        self._finish(out)
        self.figures.runs += 1
        if losses(out) != self.losses or adapter_bytes(out) != self.adapter:
            self._fault(f"{out.name}: not the run that was never killed")
        left = [path.name for path in out.iterdir() if path.name.startswith((".staging", ".trash", ".run.toml"))]
        if left:
            self._fault(f"{out.name}: left over {left}")
        shutil.rmtree(out)

    def _await_staging(self, process: Any, out: Path) -> None:
        saves = self.chance.randint(1, 4)
        seen: set[str] = set()
        while process.exitcode is None and len(seen) < saves:
            if out.is_dir():
                seen.update(path.name for path in out.glob(".staging-*"))
            time.sleep(0.0005)
        time.sleep(self.chance.choice((0.0, 0.002, 0.005, 0.01)))

    def _after_kill(self, out: Path) -> None:
        figures = self.figures
        figures.kills += 1
        if not out.is_dir():
            figures.where["before its folder was made"] += 1
            return
        half = [path.name for path in out.glob(".staging-*")] + [path.name for path in out.glob(".trash-*")]
        records = list(read_journal(out))
        figures.leftovers += bool(half)
        found = scan(out)
        figures.checkpoints += len(found.checkpoints)
        for one in found.checkpoints:
            if one.grade != "proven":
                self._fault(f"{out.name}/{one.name} is {one.grade}: {[problem.message for problem in one.problems]}")
        chosen = settle(found)[1].checkpoint
        furthest = max((one.step or 0 for one in found.checkpoints), default=0)
        if (chosen.step if chosen else 0) != furthest:
            self._fault(f"{out.name}: chosen is {chosen}, the furthest is {furthest}")
        told = max((record["step"] for record in records if record["type"] == CheckpointSaved.type), default=0)
        if told > furthest:
            self._fault(f"{out.name}: step {told} was told as saved, {furthest} is there")
        started = [index for index, record in enumerate(records) if record["type"] == RunStarted.type]
        done = [record["step"] for record in records[started[-1] :] if record["type"] == Step.type] if started else []
        if done:
            figures.lost.append(max(0, max(done) - furthest))
        final = (out / FINAL / "adapter_model.safetensors").is_file()
        if half:
            where = "with a save, a removal or the private copy of a start half done"
        elif final:
            where = "after the last save"
        else:
            where = "between two steps" if done else "before the first step"
        figures.where[where] += 1

    def _fault(self, words: str) -> None:
        self.figures.faults.append(words)
        sys.stderr.write(f"FAULT {words}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="go on for so long instead")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lora-tui-kills-") as folder:
        killing = Killing(Path(folder), options.seed)
        figures = killing.figures

        def more() -> bool:
            if options.minutes is not None:
                return time.monotonic() - begun < options.minutes * 60
            return figures.kills < options.kills

        while more():
            left = 6 if options.minutes is not None else options.kills - figures.kills
            killing.run(Path(folder) / f"run-{figures.runs}", min(left, killing.chance.randint(1, 6)))
            sys.stderr.write(f"{figures.kills} kills, {figures.runs} runs, {len(figures.faults)} faults\n")
        figures.seconds = time.monotonic() - begun
    sys.stdout.write(figures.table() + "\n")
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
