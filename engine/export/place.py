"""Where an export goes: its room is told before, and it is there whole or not at all.

An export is written into a staging folder beside its place and renamed when it is complete, as a checkpoint is. What lies at
that place already is never written over: the new one gets a number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.checkpoints.commit import free_bytes, place, sweep
from engine.durable import STAGING_PREFIX, sync_file, sync_folder
from engine.errors import OutputError
from engine.folder import free_sibling
from engine.i18n import _
from engine.lock import locked, unwritable

EXPORTS = "export"
"""The folder in a run's folder where exports go by default."""
REFUSED_WRITES = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def staged(into: Path, name: str, room: int) -> Iterator[tuple[Path, Path]]:
    """(staging folder to write into, where its content will be once the block ends well).

    `room`: bytes the export will take, held against the free space before anything is written. Raises OutputError where
    it is not there, or where the folder is busy or cannot be written; nothing half-written stays then.
    """
    try:
        with locked(into):
            try:
                sweep(into)
                free = free_bytes(into)
                if free < room:
                    raise OutputError(
                        _("{folder}: the disk is too small for this export").format(folder=into),
                        _("It takes {needed}; {free} are free.").format(needed=size_words(room), free=size_words(free)),
                        _("Make room, or name a folder on another disk with --into."),
                    )
                target = free_sibling(into / name)
                staging = into / f"{STAGING_PREFIX}{name}"
                staging.mkdir()
                try:
                    yield staging, target
                    for path in sorted(staging.iterdir()):
                        sync_file(path)
                    sync_folder(staging)
                    place(staging, target)
                except BaseException:
                    shutil.rmtree(staging, ignore_errors=True)
                    raise
            except OSError as error:
                raise unwritable(into, error) from error
            except Exception as error:
                if (full := disk_error(str(error))) is None:
                    raise
                raise unwritable(into, full) from error
    except OutputError as error:  # the lock's words are those of a run, whose folder another flag names
        raise OutputError(error.title, error.detail, error.fix.replace("--output", "--into")) from error


def size_words(size: int) -> str:
    """`size` in bytes, in the largest unit of which it is at least one."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), (1e3, "kB"))
    return f"{size / unit:.1f} {name}"


def disk_error(words: str) -> OSError | None:
    """The system's refusal to write that `words` tell of: writers in Rust (safetensors, tokenizers) and in another process (the
    converter) leave no more of it than that. None: they tell of something else."""
    found = re.search(r"os error (\d+)\)|\[Errno (\d+)\]", words)
    number = int(found[1] or found[2]) if found else None
    return OSError(number, os.strerror(number)) if number in REFUSED_WRITES else None
