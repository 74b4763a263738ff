"""Runs of several real processes, started as a person starts them, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from engine.journal import JOURNAL_NAME, read_journal

PATIENCE = 120


def flags(**settings: object) -> list[object]:
    """Settings as a person would give them."""
    return [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)]


class Run:
    """`lora-tui` in a process of its own with everything it starts. `prefix`: a command in front of it."""

    program = (sys.executable, "-m", "tui")
    path = str(Path(__file__).parents[2])

    def __init__(self, folder: Path, *arguments: object, prefix: tuple[str, ...] = (), name: str = "") -> None:
        self.out = folder / f"stdout{name}.txt"
        self.err = folder / f"stderr{name}.txt"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [*prefix, *self.program, *map(str, arguments)],
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "PYTHONPATH": self.path, "COLUMNS": "200"},
            )  # fmt: skip

    def code(self) -> int:
        """The exit code it ends with. Fails where it does not end."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still running after {PATIENCE} s:\n{self.said()}") from None

    def said(self) -> str:
        return self.err.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """All processes it has started that are there."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def worker(self, rank: int) -> psutil.Process:
        """The process of this rank."""
        for process in self.family():
            try:
                if process.environ().get("RANK") == str(rank) and "carry-out" in process.cmdline():
                    return process
            except psutil.Error:
                continue
        raise AssertionError(f"no process of rank {rank}")

    def launcher(self) -> psutil.Process:
        return self.worker(0).parent()

    def end(self) -> None:
        for process in self.family():
            process.kill()
        self.process.kill()
        self.process.wait()


def steps_told(out: Path) -> int:
    """How many steps the journal in `out` tells of, all attempts together."""
    return sum(record["type"] == "step" for record in read_journal(out)) if (out / JOURNAL_NAME).exists() else 0


def wait_until(condition: Callable[[], bool], run: Run, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert run.process.poll() is None, f"it has ended:\n{run.said()}"
        assert time.monotonic() < end, f"nothing happened:\n{run.said()}"
        time.sleep(0.01)


def all_gone(processes: list[psutil.Process], seconds: float = 20) -> bool:
    """Whether all of them have ended within `seconds`."""
    _gone, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


KILL = signal.SIGKILL
