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


def key_to_paint(folder: str) -> list[float]:
    """Seconds from pressing `l` until the log is on the screen, while the demo trains."""
    child = spawn(folder, "--demo", "--epochs", "5000", "--save-steps", "100000")
    for words in ("trained on", "context", "are free there", "No checkpoint", "learning rate", "the same without"):
        child.expect(words)
        time.sleep(1.5)
        child.send("\x0e")
    child.expect("Detach")
    time.sleep(6)
    seconds = []
    for _key in range(KEYS):
        _drained(child)
        begin = time.perf_counter()
        child.send("l")
        child.expect(re.compile(rb"run\.log"))
        seconds.append(time.perf_counter() - begin)
        child.send("\x1b")
        time.sleep(0.3)
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
        keys = sorted(key_to_paint(folder))
        p99 = keys[int(len(keys) * 0.99)]
        print(f"key to paint while the demo trains: median {statistics.median(keys) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
