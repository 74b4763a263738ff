"""The signals that stop a run after saving, and the exit code of each (C1): 128 and the signal's number.

USR1 and USR2 are what batch systems warn with before the time is up (Slurm's --signal, SGE's -notify); left alone they would kill the
run. torchelastic, Kubernetes and machines that are taken away send TERM. Imports nothing of ours: the program sees to signals first.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

SIGNALS = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138, "SIGUSR2": 140}


AT_ONCE = 1.0
"""Seconds within which the same signal is the same request. Batch systems send one to every process of a job, and whoever started this
one passes it on as well; a terminal that is closed hangs up its shell, which tells its jobs, and again who stood in front. A person's
second Ctrl-C is always a second one."""


def is_echo(name: str, before: str, seconds: float) -> bool:
    """Whether the signal `name` that came `seconds` after `before` asks for nothing new."""
    return name == before != "SIGINT" and seconds < AT_ONCE


def heeded() -> Iterator[tuple[str, int, int]]:
    """(name, number, exit code) of those that this system has. What nohup, or a shell's `&`, told this process to ignore stays
    ignored."""
    for name, code in SIGNALS.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            yield name, number, code
