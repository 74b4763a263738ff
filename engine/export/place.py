"""Where an export goes: its room is told before, and it is there whole or not at all.

An export is written into a staging folder beside its place and renamed when it is complete, as a checkpoint is. What lies at
that place already is never written over: the new one gets a number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.checkpoints.commit import free_bytes, made_in, sweep
from engine.durable import STAGING_PREFIX
from engine.errors import ConfigError, OutputError
from engine.folder import free_sibling
from engine.i18n import _
from engine.lock import locked, unwritable
from engine.resume.unfit import checkpoint_around
from engine.sizes import size_words

EXPORTS = "export"
"""The folder in a run's folder where exports go by default."""
FLAG = "--into"
"""What names the folder."""
REFUSED_WRITES = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def staged(into: Path, name: str, room: int) -> Iterator[tuple[Path, Path]]:
    """(staging folder to write into, where its content will be once the block ends well).

    `room`: bytes the export will take, held against the free space before anything is written. Raises OutputError where
    it is not there, or where the folder is busy or cannot be written; nothing half-written stays then. Raises ConfigError where that
    would be in a checkpoint.
    """
    if (checkpoint := checkpoint_around(into)) is not None:
        raise ConfigError(
            _("{folder}: lies in a checkpoint, {checkpoint}").format(folder=into, checkpoint=checkpoint),
            _("With an export in it it would no longer be what was saved, and its run could not go on from it."),
            _("Name another folder with --into."),
        )
    with locked(into, FLAG):
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
            with made_in(into / f"{STAGING_PREFIX}{name}", target) as staging:
                yield staging, target
        except OSError as error:
            raise unwritable(into, error, FLAG) from error
        except Exception as error:
            if (full := disk_error(str(error))) is None:
                raise
            raise unwritable(into, full, FLAG) from error


def disk_error(words: str) -> OSError | None:
    """The system's refusal to write that `words` tell of: writers in Rust (safetensors, tokenizers) and in another process (the
    converter) leave no more of it than that. None: they tell of something else."""
    found = re.search(r"os error (\d+)\)|\[Errno (\d+)\]", words)
    number = int(found[1] or found[2]) if found else None
    return OSError(number, os.strerror(number)) if number in REFUSED_WRITES else None
