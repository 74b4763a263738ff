"""The terminal, kept on a handle of one's own.

While the engine trains, descriptors 1 and 2 belong to run.log. Whoever goes on talking to a person does so on a duplicate taken
before, and a reader that goes away (a closed pipe, a hung-up terminal) ends the talk, never the training.
"""

from __future__ import annotations

import sys
from typing import IO

from engine.training.library_output import Surviving


def duplicate(descriptor: int) -> IO[str]:
    """A line-buffered text stream on a duplicate of `descriptor`, which goes on when the engine redirects the original."""
    return Surviving.on(descriptor, sys.stderr.encoding or "utf-8")
