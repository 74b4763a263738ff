"""Where an export goes: its room is told before, and it is there whole or not at all.

An export is written into a staging folder beside its place and renamed when it is complete, as a checkpoint is. What lies at
that place already is never written over: the new one gets a number.
"""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def staged(into: Path, name: str, room: int) -> Iterator[tuple[Path, Path]]:
    """(staging folder to write into, where its content will be once the block ends well).

    `room`: bytes the export will take, held against the free space before anything is written. Raises OutputError where
    it is not there, or where the folder is busy or cannot be written; nothing half-written stays then.
    """
    with locked(into):
        try:
            sweep(into)
            free = free_bytes(into)
            if free < room:
                raise OutputError(
                    _("{folder}: the disk is too small for this export").format(folder=into),
                    _("It takes {needed:.2f} GB; {free:.2f} GB are free.").format(needed=room / 1e9, free=free / 1e9),
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
