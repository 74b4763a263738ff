"""The program: `lora-tui` and `python -m tui`.

Before anything else is imported it sees to its standard streams and to signals. Until there is something to save (then tui.headless
or the wizard take over) one ends the process with the exit code of the contract and without a traceback, also in the middle of an
import. Importing tui.cli alone leaves both as they are for whoever does so.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from functools import partial

from tui.signals import heeded
from tui.standard import give_up_unwritten, see_to_streams

PATIENCE = 5.0
"""Seconds that threads have to end once there is an exit code. What had to be saved is saved by then."""


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    see_to_streams()
    for _name, number, code in heeded():
        signal.signal(number, partial(_leave, code))
    from tui.cli import main as run

    try:
        code = run()
    finally:
        give_up_unwritten()
    if "torch" in sys.modules:
        _end(code)
    return code


def _end(code: int) -> None:
    """Leave as Python does, but for taking apart all that torch and transformers have built, which takes over a second, and without
    waiting for ever: a thread that reads a terminal which has gone may never end."""
    end = time.monotonic() + PATIENCE
    pools = threading.Thread(target=_end_pools, daemon=True)
    pools.start()
    for thread in (pools, *(one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread())):
        thread.join(max(0.0, end - time.monotonic()))
    atexit._run_exitfuncs()
    give_up_unwritten()
    os._exit(code)


def _end_pools() -> None:
    """Let go of the threads that pools keep for more work, as threading does at an end. Its own `_shutdown` is for the main thread:
    in another it waits for that one."""
    for call in reversed(threading._threading_atexits):  # type: ignore[attr-defined]
        call()


def _leave(code: int, _number: int, _frame: object) -> None:
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
