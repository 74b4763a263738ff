"""The terminal, kept on a handle of one's own.

While the engine trains, descriptors 1 and 2 belong to run.log. Whoever goes on talking to a person does so on a duplicate taken
before, and a reader that goes away (a closed pipe, a hung-up terminal) ends the talk, never the training.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import IO, cast


class Surviving(io.TextIOWrapper):
    """A stream whose reader may go away."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def duplicate(descriptor: int) -> IO[str]:
    """A line-buffered text stream on a duplicate of `descriptor`, which goes on when the engine redirects the original."""
    raw = open(os.dup(descriptor), "wb", buffering=0)  # noqa: SIM115 - lives as long as the process
    encoding = sys.stderr.encoding or "utf-8"
    return Surviving(cast(IO[bytes], raw), encoding=encoding, errors="replace", line_buffering=True, write_through=True)
