"""Keeps what libraries print out of the way of whoever shows the run, and keeps it: in run.log (C2).

Python's streams are only half of it: tokenizers, CUDA and BLAS write to the descriptors themselves. So descriptors 1 and 2 are
pointed at the file while training. Whoever wants to go on talking keeps a duplicate of them from before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def library_output_to(path: Path) -> Iterator[None]:
    """Send descriptors 1 and 2, and the root logger, to `path` (appended). Restores them whatever happens. Raises OSError."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    handler = logging.StreamHandler(open(os.dup(target), "w", encoding="utf-8"))  # noqa: SIM115 - closed below
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        _flush()
        for descriptor in saved:
            os.dup2(target, descriptor)
        # Whoever shows the run may have put streams of its own in place of Python's, as Textual does.
        with contextlib.redirect_stdout(handler.stream), contextlib.redirect_stderr(handler.stream):
            yield
    finally:
        _flush()
        for descriptor, original in saved.items():
            os.dup2(original, descriptor)
            os.close(original)
        logging.getLogger().removeHandler(handler)
        handler.stream.close()
        os.close(target)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):
            stream.flush()
