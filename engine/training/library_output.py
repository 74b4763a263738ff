"""Keeps what libraries print out of the way of whoever shows the run, and keeps it: in run.log (C2).

Python's streams are only half of it: tokenizers, CUDA and BLAS write to the descriptors themselves. So descriptors 1 and 2 are
pointed at the file while training. Whoever wants to go on talking keeps a duplicate of them from before.

Access tokens are hidden in what goes through Python's streams and loggers, and only there: what is written to the descriptors is
in the file as it was written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from engine.durable import open_plain_file
from engine.redact import redact


class Surviving(io.TextIOWrapper):
    """A stream whose end may go away or be full: what cannot be written is lost, whoever wrote it is not."""

    problem: OSError | None = None
    """The first error, but for a reader that has gone: nobody misses then what is lost."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lost(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.problem = self.problem or error

    @classmethod
    def on(cls, descriptor: int, encoding: str) -> Surviving:
        """A line-buffered one on a duplicate of `descriptor`."""
        raw = open(os.dup(descriptor), "wb", buffering=0)  # noqa: SIM115 - closed with the stream
        return cls(cast(IO[bytes], raw), encoding=encoding, errors="replace", line_buffering=True, write_through=True)


class _Discreet(Surviving):
    """What libraries print by way of Python, without the access tokens in it."""

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


@contextlib.contextmanager
def library_output_to(path: Path | None) -> Iterator[None]:
    """Send descriptors 1 and 2, and the root logger, to `path` (appended); None: nowhere. Restores them whatever happens. Raises
    OSError."""
    target = (
        os.open(os.devnull, os.O_WRONLY) if path is None else open_plain_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    )
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    handler = logging.StreamHandler(_Discreet.on(target, "utf-8"))
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
