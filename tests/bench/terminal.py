"""The wizard on a real pty: time to the first frame, and from a key to its paint while the demo trains; how much of a processor the
screen takes meanwhile, when nobody touches it."""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pexpect

STARTS, KEYS = 9, 100
WATCHED = 20.0
"""Seconds for which nobody touches the training screen."""


def spawn(folder: str, *arguments: str) -> pexpect.spawn:
    environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LORA_TUI_STATE": folder}
    command = str(Path(sys.executable).with_name("lora-tui"))
    child = pexpect.spawn(command, list(arguments), dimensions=(24, 80), cwd=folder, env=environment, timeout=60)
    child.delaybeforesend = None
    return child


def first_frame(folder: str) -> float:
    """Seconds from the shell's start of the process until the first step can be read."""
    begin = time.perf_counter()
    child = spawn(folder)
    child.expect("should the model")
    seconds = time.perf_counter() - begin
    time.sleep(0.5)
    child.send("\x11")
    child.expect(pexpect.EOF)
    child.close()
    return seconds


def while_training(folder: str) -> tuple[dict[str, list[float]], float]:
    """Seconds from a key to its paint while the demo trains: `l` until the log is on the screen, `l` again until it is gone. And the
    share of one processor that the screen's thread takes while nobody touches it."""
    child = spawn(folder, "--demo", "--epochs", "5000", "--save-steps", "100000")
    for words in ("trained on", "context", "are free there", "No checkpoint", "learning rate", "the same without"):
        child.expect(words)
        time.sleep(1.5)
        child.send("\x0e")
    child.expect("Detach")
    time.sleep(6)
    _drained(child)
    begin, spent = time.perf_counter(), _seconds_of_main_thread(child.pid)
    while time.perf_counter() < begin + WATCHED:
        _drained(child)
    share = (_seconds_of_main_thread(child.pid) - spent) / (time.perf_counter() - begin)
    seconds: dict[str, list[float]] = {"open": [], "close": []}
    for _key in range(KEYS):
        for name, answer in (("open", rb"run\.log"), ("close", rb"Detach")):
            _drained(child)
            begin = time.perf_counter()
            child.send("l")
            child.expect(re.compile(answer))
            seconds[name].append(time.perf_counter() - begin)
            time.sleep(0.2)
    child.send("s")
    child.expect("stopped|Result")
    child.close(force=True)
    return seconds, share


def _seconds_of_main_thread(pid: int) -> float:
    """Seconds of a processor that the first thread of the process has used (proc(5), fields 14 and 15): Textual's loop runs there, the
    training in another."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drained(child: pexpect.spawn) -> None:
    """Read what is there, so that nothing painted before is taken for the answer to the next key."""
    import select

    while select.select([child.fileno()], [], [], 0.02)[0]:
        child.read_nonblocking(1 << 20, timeout=0.02)
    child.buffer = b""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        starts = [first_frame(folder) for _start in range(STARTS)]
        print(f"first frame: median {statistics.median(starts):.2f} s, worst of {STARTS} {max(starts):.2f} s")
        answers, share = while_training(folder)
        print(f"the training screen takes {share:.2%} of a processor while nobody touches it")
        for name, keys in answers.items():
            keys.sort()
            p99 = keys[int(len(keys) * 0.99)] * 1000
            median = statistics.median(keys) * 1000
            print(f"key to {name} the log, to its paint, while the demo trains: median {median:.0f} ms, p99 {p99:.0f} ms")
