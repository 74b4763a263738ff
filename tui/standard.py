"""The three standard streams, whatever state whoever started this process has left them in. Imports nothing of ours at its top: the
program sees to them first."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator


def see_to_streams() -> None:
    """Put the null device on those of descriptors 0 to 2 that are closed, and streams on them: else the next file that is opened
    would get such a number, and be written to by whatever prints. What stdout does not take is an OutputError from here on."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, which is this one
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 - as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = sys.__stdout__ = Stdout.of(sys.stdout)  # type: ignore[misc]


def give_up_unwritten() -> None:
    """See to it that Python does not try again at its end to write what a stream still holds and could not be written: it would end
    with 120, whatever had been said."""
    from engine.errors import OutputError

    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, OutputError, ValueError):  # no room, nobody who reads it, or closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def make_input_editable() -> None:
    """Give `input` a history and keys to move, by importing readline where this Python has it. Not on a dumb terminal, where readline
    would hide the beginning of a long line."""
    if os.environ.get("TERM") != "dumb":
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401


class Stdout(io.TextIOWrapper):
    """Standard output, of which a full disk or a gone one is told to a person. A reader that has gone is no error (tui.cli).

    What its encoding has no character for is a question mark: under an ASCII locale a dot between two words, or a name, must not end a
    command. Nothing that a program reads is left to that: JSON is escaped to ASCII, and an ejected run is UTF-8.
    """

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> Stdout:
        """One in the place of `stream`, which is no more to be used."""
        how = stream.encoding, "replace"
        lines, through = stream.line_buffering, stream.write_through
        return cls(stream.detach(), *how, line_buffering=lines, write_through=through)

    def write(self, text: str) -> int:
        """Raises OutputError, or BrokenPipeError."""
        with _told():
            return super().write(text)

    def flush(self) -> None:
        """Raises OutputError, or BrokenPipeError."""
        with _told():
            super().flush()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from engine.errors import OutputError
        from engine.i18n import _

        raise OutputError(_("standard output cannot be written"), error.strerror or str(error)) from error
