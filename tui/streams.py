"""The terminal, kept on a handle of one's own.

While the engine trains, descriptors 1 and 2 belong to run.log. Whoever goes on talking to a person does so on a duplicate taken
before, and a reader that goes away (a closed pipe, a hung-up terminal) ends the talk, never the training.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import IO

from engine.training.library_output import Surviving


def duplicate(descriptor: int) -> IO[str]:
    """A line-buffered text stream on a duplicate of `descriptor`, which goes on when the engine redirects the original."""
    return Surviving.on(descriptor, sys.stderr.encoding or "utf-8")


def quiet_libraries() -> None:
    """For commands that load a model and say one thing: no progress bars of others between their lines, and no warnings meant for
    programmers. What matters of them is checked, not read."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.disable_progress_bar()
