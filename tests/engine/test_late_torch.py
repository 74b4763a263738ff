"""torch comes when it is asked for: what must be set before it can be, and importing it goes the one way there is (hardware.py)."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "engine.training.trainer",
        "engine.training.expect",
        "engine.training.trial",
        "engine.export.chat",
        "tui.wizard",
        "tui.app",
    ],
)
def test_a_module_that_is_imported_early_brings_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_a_signal_while_libraries_are_imported_comes_after_them() -> None:
    """Raised in the middle of one, its exception may abort the process: C++ that makes a module expects none."""
    code = """
import os, signal, sys
def handler(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGHUP, handler)
from engine.hardware import signals_later
try:
    with signals_later():
        os.kill(os.getpid(), signal.SIGHUP)
        done = sum(range(100_000))
except KeyboardInterrupt:
    sys.exit(3 if done else 4)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
