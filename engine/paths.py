"""Paths as people write them: with `~` or `$HOME`, too long, or where they may not look. Asking about one never raises."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import unquote

from engine.i18n import _


def path_of(words: str) -> Path:
    """`words` as a path, `~` being the home folder, and what a `$NAME` at its beginning names where no shell has seen it: in a
    field, in a file. The `~name` of nobody and a `$NAME` that is not set stay as they are."""
    if words.startswith("$") and not is_there(Path(words)):
        begins, slash, rest = words.partition("/")
        words = os.path.expandvars(begins) + slash + rest
    return Path(os.path.expanduser(words))  # noqa: PTH111 - Path.expanduser raises for a user that is not there


def pasted(words: str) -> str:
    """`words` as a terminal or a file manager gives a path: in quotes, with its spaces escaped, or as a file: URL, without all that.
    What is there as it stands stays so."""
    words = words.strip()
    if words.startswith("file:///"):
        return unquote(words.removeprefix("file://"))
    if not any(mark in words for mark in "'\"\\") or is_there(path_of(words)):
        return words
    try:
        (meant,) = shlex.split(words)
    except ValueError:
        return words
    return meant if words[0] == words[-1] or is_there(path_of(meant)) else words


def no_flag(path: Path) -> str:
    """`path` as a word behind a command that is never taken for a flag."""
    words = str(path)
    return f"./{words}" if words.startswith("-") else words


def as_argument(path: Path) -> str:
    """`path` as it is typed behind a command: as `no_flag`, quoted where a shell wants that."""
    return shlex.quote(no_flag(path))


def is_folder(path: Path) -> bool:
    """Whether a folder is there. False too where the system does not say: a name too long, a parent that may not be entered."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises then


def is_file(path: Path) -> bool:
    """As `is_folder`, for a regular file."""
    return os.path.isfile(path)  # noqa: PTH113


def is_there(path: Path) -> bool:
    """As `is_folder`, for anything."""
    return os.path.exists(path)  # noqa: PTH110


def lost_link(path: Path) -> str:
    """What to say of a link whose target is not there; nothing for anything else."""
    if is_there(path) or not os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises where the others do
        return ""
    return _("It is a link to {target}, which is not there.").format(target=os.readlink(path))  # noqa: PTH115


def with_its_name(path: Path) -> Path:
    """`path`, ending in the name of what it leads to: `.` and `..` are none, and nothing could be called after them."""
    return path.resolve() if path.name in ("", "..") else path


def rooted(path: Path) -> Path:
    """The path of what is there at `path` from the root on, so that it holds in any folder: links are kept, `..` is not. Behind a link
    to a folder that is another place than it reads, and there it stays."""
    written = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
    return Path(written) if is_there(Path(written)) and os.path.samefile(path, written) else path.absolute()  # noqa: PTH121
