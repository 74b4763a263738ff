"""What was checked is what is loaded.

The libraries that load a checkpoint open its files by name, some minutes after they were judged, and a folder that others may write
to can have changed meanwhile (FAILURES.md B 29). So the files are copied once more through descriptors into a folder that only this
user can enter, the copy is judged as if it were new, and the libraries are given the copy. A checkpoint is small beside its base
model; the copy costs one reading of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.commit import need_room
from engine.checkpoints.files import Unsound, list_folder, open_plain
from engine.checkpoints.inspect import inspect_folder
from engine.durable import STAGING_PREFIX
from engine.errors import CannotContinue
from engine.i18n import _
from engine.paths import is_folder

NEVER_LOADED = ("training_args.bin",)


@contextmanager
def private_copy(checkpoint: Checkpoint, output_dir: Path) -> Iterator[Path]:
    """A folder with the files of `checkpoint`, private and judged anew; gone afterwards.

    Raises CannotContinue where they are gone or no longer what was judged, or the copy cannot be read, OSError where they cannot be
    copied into `output_dir`.
    """
    need_room(output_dir, checkpoint.bytes)
    copy = output_dir / f"{STAGING_PREFIX}verified-{os.getpid()}"
    copy.mkdir(mode=0o700)
    try:
        try:
            copy_plain_files(checkpoint.path, copy)
        except (Unsound, OSError) as wrong:
            if is_folder(checkpoint.path):
                raise
            raise _removed(checkpoint) from wrong
        judged = inspect_folder(copy)
        if (
            _said(judged) != _said(checkpoint)
            or (judged.grade is Grade.BROKEN)
            or (checkpoint.continuable > judged.continuable)
        ):
            raise _changed(checkpoint, "\n".join(problem.message for problem in judged.problems))
        yield copy
    except Unsound as wrong:  # while it is copied, or while whoever has the copy reads it
        raise _changed(checkpoint, wrong.problem.message) from wrong
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def copy_plain_files(source: Path, target: Path, leave_out: tuple[str, ...] = NEVER_LOADED) -> None:
    """Copy the plain files of the folder `source`, links not followed, except those named. Raises Unsound or OSError."""
    for name, entry in sorted(list_folder(source).items()):
        if entry.kind == "file" and name not in leave_out:
            with open(target / name, "xb") as written:
                for piece in _pieces(source / name):
                    written.write(piece)


def _pieces(path: Path) -> Iterator[bytes]:
    """The content of `path`. What goes wrong where it is written to stays outside: `open_plain` would tell it of this file."""
    with open_plain(path) as file:
        while piece := file.read(1 << 20):
            yield piece


def _said(checkpoint: Checkpoint) -> tuple[object, ...]:
    """What the plan was made from. With a manifest that is all of it; without, what the files say of themselves."""
    if checkpoint.manifest is not None:
        return (checkpoint.manifest,)
    return (checkpoint.step, checkpoint.epoch, checkpoint.history, checkpoint.adapter)


def _removed(checkpoint: Checkpoint) -> CannotContinue:
    return CannotContinue(
        _("{path}: it was removed between being checked and being loaded").format(path=checkpoint.path),
        _("A run that is at work there removes its older checkpoints (--keep)."),
        _("Choose another one, or wait until that run has ended."),
    )


def _changed(checkpoint: Checkpoint, why: str) -> CannotContinue:
    return CannotContinue(
        _("{path}: it was changed between being checked and being loaded").format(path=checkpoint.path),
        why,
        _("Nothing of it was loaded. See who else writes to this folder, then start again."),
    )
