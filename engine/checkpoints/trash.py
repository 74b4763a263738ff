"""A folder's `.trash`: what was put away there can be taken back (C7: `d`, `z`). Nothing in it is ever scanned or swept."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from engine.durable import sync_folder
from engine.errors import OutputError
from engine.folder import TRASH, free_sibling
from engine.i18n import _
from engine.lock import locked, unwritable


def to_trash(path: Path) -> Path:
    """Move `path` into the folder's `.trash`, from where a person can take it back. Returns its new place. Raises OSError; also where
    `.trash` is a link, which would lead elsewhere."""
    target = place_in_trash(path)
    move(path, target)
    return target


def place_in_trash(path: Path) -> Path:
    """A free place for `path` in the folder's `.trash`, which is made. Raises OSError as `to_trash` does."""
    trash = path.parent / TRASH
    if trash.is_symlink():
        words = _("{path} is a link, which is not followed; take it away").format(path=trash)
        raise OSError(errno.ENOTDIR, words, str(trash))
    trash.mkdir(exist_ok=True)
    return trash / f"{path.name}.{time.time_ns()}"


def move(path: Path, target: Path) -> None:
    """Rename `path` durably. Raises OSError. The folder it goes to is synced first: better found twice than nowhere."""
    path.rename(target)
    for folder in dict.fromkeys((target.parent, path.parent)):
        sync_folder(folder)


def from_trash(place: Path) -> Path:
    """Undo `to_trash`: give what lies at `place` its name back. Raises OSError, where that name is taken again too."""
    original = place.parent.parent / place.name.rpartition(".")[0]
    if os.path.lexists(original):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(original))
    move(place, original)
    return original


def put_away(path: Path) -> Path:
    """`to_trash` by a person, where no run is at work in the folder. Raises OutputError."""
    try:
        with locked(path.parent):
            return to_trash(path)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def take_back(place: Path) -> Path:
    """`from_trash` by a person, where no run is at work in the folder. Raises OutputError."""
    folder = place.parent.parent
    try:
        with locked(folder):
            return from_trash(place)
    except FileExistsError as error:
        raise OutputError(
            _("{path}: cannot take it back").format(path=place),
            _("Another checkpoint of that name is there now."),
            _("Move that one away first, for example to {path}.").format(path=free_sibling(Path(str(error.filename)))),
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
