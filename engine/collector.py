"""Python's collector of cyclic garbage, kept from looking through what is none."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """For imports, and for anything else that makes a great many objects that stay. Looking through them for garbage, again and again,
    is a third of the time; and a full collection that went through them later held the interpreter for up to 0.7 s, and with it
    whoever waited for an answer to a key."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
