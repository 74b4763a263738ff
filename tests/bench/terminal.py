"""The wizard on a real pty: time to the first frame, and from a key to its paint while the demo trains."""

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


def key_to_paint(folder: str) -> dict[str, list[float]]:
    """Seconds from a key to its paint while the demo trains: `l` until the log is on the screen, `l` again until it is gone."""
    child = spawn(folder, "--demo", "--epochs", "5000", "--save-steps", "100000")
    for words in ("trained on", "context", "are free there", "No checkpoint", "learning rate", "the same without"):
        child.expect(words)
        time.sleep(1.5)
        child.send("\x0e")
    child.expect("Detach")
    time.sleep(6)
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
    return seconds


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
        for name, keys in key_to_paint(folder).items():
            keys.sort()
            p99 = keys[int(len(keys) * 0.99)] * 1000
            median = statistics.median(keys) * 1000
            print(f"key to {name} the log, to its paint, while the demo trains: median {median:.0f} ms, p99 {p99:.0f} ms")
