"""The terminal, kept on a handle of one's own.

While the engine trains, descriptors 1 and 2 belong to run.log. Whoever goes on talking to a person does so on a duplicate taken
before, and a reader that goes away (a closed pipe, a hung-up terminal) ends the talk, never the training.
"""

from __future__ import annotations

import contextlib
import locale
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from engine.durable import open_plain_file
from engine.training.library_output import Surviving, library_output_to


def duplicate(descriptor: int) -> Surviving:
    """A line-buffered text stream on a duplicate of `descriptor`, which goes on when the engine redirects the original."""
    return Surviving.on(descriptor, sys.stderr.encoding or "utf-8")


@contextlib.contextmanager
def own_terminal(log: Path) -> Iterator[Path | None]:
    """Textual keeps the terminal on a handle of its own; whatever libraries write to descriptors 1 and 2 goes to the log, or nowhere
    where none can be kept. Gives the log that is kept.

    Python's helper for processes that are spawned (`engine.data.workers`) is begun here: it is given the descriptor of sys.stderr, and
    what Textual puts there has none.
    """
    kept = sys.__stdout__, sys.__stderr__
    written: Path | None = log
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        os.close(open_plain_file(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    except OSError:
        written = None
    sys.__stdout__, sys.__stderr__ = duplicate(1), duplicate(2)  # type: ignore[misc]
    try:
        with library_output_to(written):
            if os.name == "posix":
                from multiprocessing import resource_tracker

                resource_tracker.ensure_running()
            yield written
    finally:
        sys.__stdout__, sys.__stderr__ = kept  # type: ignore[misc]


def ascii_terminal() -> bool:
    """Whether only ASCII can be trusted to show: asked for with LORA_TUI_ASCII, a dumb terminal, or another encoding than UTF-8."""
    if os.environ.get("LORA_TUI_ASCII", "") not in ("", "0"):
        return True
    return os.environ.get("TERM") in ("dumb", "linux") or "utf" not in locale.getpreferredencoding(False).lower()


def quiet_libraries() -> None:
    """For commands that load a model and say one thing: no progress bars of others between their lines, and no warnings meant for
    programmers. What matters of them is checked, not read."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.disable_progress_bar()
