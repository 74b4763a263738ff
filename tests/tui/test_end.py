"""The end of the program: it waits for threads that have something to finish, and for no others."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tui import __main__ as program

program.PATIENCE = {patience}
{threads}
program._end(7)
"""
LONG = 120


def end(threads: str, patience: float) -> subprocess.CompletedProcess[str]:
    """A process that ends with these threads. Fails where it does not end well before a patience of LONG."""
    program = PROGRAM.format(patience=patience, threads=threads)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG / 2)


def test_a_pool_that_has_nothing_to_do_is_not_waited_for() -> None:
    assert end("ThreadPoolExecutor().submit(int).result()", LONG).returncode == 7


def test_work_that_is_being_done_is_finished() -> None:
    done = end("ThreadPoolExecutor().submit(lambda: (time.sleep(0.5), sys.stdout.write('pool\\n')))\n"
               "threading.Thread(target=lambda: (time.sleep(0.5), sys.stdout.write('thread\\n'))).start()", LONG)  # fmt: skip
    assert done.returncode == 7
    assert sorted(done.stdout.split()) == ["pool", "thread"]


def test_a_thread_that_never_ends_is_left() -> None:
    assert end("threading.Thread(target=threading.Event().wait).start()", 0.2).returncode == 7


def test_a_pool_that_never_ends_is_left() -> None:
    assert end("ThreadPoolExecutor().submit(threading.Event().wait)", 0.2).returncode == 7
