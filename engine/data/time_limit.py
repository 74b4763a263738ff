"""A bound on the time of code that comes from outside: a chat template may loop for ever.

Threads cannot be killed, and a process for each row would cost more than the rendering. But a template is compiled to Python, and a
running Python thread can be sent an exception; a watchdog does that when a deadline has passed. It works in any thread, costs two
microseconds a use, and its own thread ends when nothing is to be watched.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator

TICK = 0.1
"""Seconds between two looks at the deadlines."""
IDLE_TICKS = 20


class TooLong(Exception):
    """The time was up."""


_LOCK = threading.Lock()
_deadlines: dict[int, float] = {}
_watching = False


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong in the body once it has run for `seconds`. Not nested; a call into C is only stopped when it returns."""
    global _watching
    own = threading.get_ident()
    with _LOCK:
        _deadlines[own] = time.monotonic() + seconds
        if not _watching:
            _watching = True
            threading.Thread(target=_watch, name="time-limit", daemon=True).start()
    try:
        yield
    finally:
        with _LOCK:
            _deadlines.pop(own, None)


def _watch() -> None:
    global _watching
    idle = 0
    while True:
        time.sleep(TICK)
        with _LOCK:
            idle = 0 if _deadlines else idle + 1
            if idle > IDLE_TICKS:
                _watching = False
                return
            now = time.monotonic()
            for thread in [one for one, deadline in _deadlines.items() if deadline < now]:
                del _deadlines[thread]
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLong))
