"""The one seam through which tests break the file system: every call that the engine makes of it, in this process, counted.

SQLite's way (FAILURES.md, part C): run an operation once to count its calls, then again and again, and break the 1st, 2nd, 3rd ...
until none remain. *Dying* means that from that call on nothing reaches the disk: each further call raises too, so that no `except`
and no `finally` can tidy up, as after SIGKILL; a write that dies has written half. *Failing* means that the call raises an OSError
and the process lives on, either once or from then on (a full disk stays full).
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGING = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "ftruncate", "write", "link", "truncate")
"""Functions of os that change what is on the disk or make it durable."""
LOOKING = ("scandir", "listdir", "open", "lstat", "stat")
"""Functions of os that only look, or open."""


class Died(BaseException):
    """The process is gone: nothing after this happens."""


@dataclass
class Breaker:
    """Counts the calls under `root`, and breaks one of them."""

    root: Path
    at: int | None = None
    """The call to break, from 1; None only counts."""
    error: int | None = None
    """The errno it fails with; None: the process dies."""
    lasting: bool = False
    """Every changing call after it fails too."""
    looking: bool = True
    """Whether calls that change nothing count; to die at one of them is to die at the next that does."""
    calls: list[str] = field(default_factory=list)
    broken: bool = False

    def call(self, name: str, changing: bool) -> None:
        """Count a call; raise where it is to break."""
        if self.broken and self.error is None:
            raise Died(name)
        if not changing and not self.looking:
            return
        self.calls.append(name)
        now = len(self.calls) == self.at
        if not now and not (self.broken and self.lasting and changing):
            return
        self.broken = True
        if self.error is None:
            raise Died(name)
        raise OSError(self.error, os.strerror(self.error))


@contextmanager
def breaking(breaker: Breaker) -> Iterator[Breaker]:
    """Send this process's file-system calls under the breaker's root through it."""
    originals: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*CHANGING, *LOOKING)}
    plain_open = builtins.open
    ours: set[int] = set()
    inside = False

    def concerns(target: Any) -> bool:
        if isinstance(target, int):
            return target in ours
        return isinstance(target, str | os.PathLike) and str(target).startswith(str(breaker.root))

    def wrap(name: str) -> Callable[..., Any]:
        original = originals[name]

        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            folder = options.get("dir_fd")
            if inside or not (arguments and (concerns(arguments[0]) or (folder is not None and folder in ours))):
                return original(*arguments, **options)
            try:
                breaker.call(name, name in CHANGING or (name == "open" and bool(arguments[1] & os.O_CREAT)))
            except (Died, OSError):
                if name == "write":
                    inside = True
                    original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    inside = False
                raise
            found = original(*arguments, **options)
            if name == "open":
                ours.add(found)
            return found

        return called

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            try:
                breaker.call("write", True)
            except (Died, OSError):
                super().write(bytes(data)[: len(bytes(data)) // 2])
                raise
            return super().write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not concerns(file) or isinstance(file, int):
            return plain_open(file, mode, *arguments, **options)
        breaker.call(f"open {mode}", "r" not in mode or "+" in mode)
        if mode in ("wb", "xb", "ab"):
            raw = Raw(file, mode.replace("b", ""))
            ours.add(raw.fileno())
            return io.BufferedWriter(raw)
        found = plain_open(file, mode, *arguments, **options)
        ours.add(found.fileno())
        return found

    close = os.close

    def closed(descriptor: int) -> None:
        ours.discard(descriptor)
        close(descriptor)

    for name in originals:
        setattr(os, name, wrap(name))
    os.close = closed  # type: ignore[assignment]
    builtins.open = io.open = opened  # type: ignore[assignment]
    try:
        yield breaker
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        os.close = close
        builtins.open = io.open = plain_open  # type: ignore[assignment]
        gc.collect(1)  # a process that is dead holds no lock; here, from Python 3.13 on, what held it may be part of a cycle


ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENOENT)
"""What a disk says when it is full, broken, over its quota, suddenly read-only, or gone."""
