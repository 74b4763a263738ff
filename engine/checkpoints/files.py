"""Reading a folder nobody vouches for: what is in it, opened without following anything, and JSON without surprises.

A checkpoint may come from a stranger, a torn disk or a clone without its large files. So a name is looked at before it is opened
(a link, a pipe or a device is never opened: a pipe alone would hang the scan), sizes are bounded before anything is read, and JSON
is parsed the way the library that wrote it would have written it: UTF-8, each key once, no byte order mark. Every way a file can
be wrong is one `Unsound`, which carries the sentence a person reads.
"""

from __future__ import annotations

import json
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from engine.checkpoints.checkpoint import Problem
from engine.durable import open_plain_file
from engine.i18n import _

MAX_ENTRIES = 10_000
"""Entries looked at in one checkpoint folder; more is no checkpoint of anything."""
MAX_JSON_BYTES = 32 * 2**20
"""A step-by-step log of some 200,000 steps fits; parsed it takes a few times that in memory."""
_PARSING = threading.Lock()
"""The wizard judges folders in threads; parsing holds the interpreter anyway, so one file at a time keeps memory bounded for free."""

MAX_KEPT_BYTES = 16 * 2**20
"""As much of a folder `reading_once` keeps."""
_KEPT = threading.local()

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Unsound(Exception):
    """A file is not what its name says. Carries the problem that is shown."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(code, message, fix)


@dataclass(frozen=True)
class Entry:
    """One name in a folder, links not followed."""

    name: str
    kind: str
    """file | folder | link | special (pipe, socket, device)."""
    size: int
    """Bytes; 0 for what is no file."""
    mtime: float
    others_write: bool = False
    """Whether any user of this machine may write to it."""
    identity: tuple[int, ...] = ()
    """Device, inode, mode, and the nanoseconds of the last write and the last change: equal ones are the same file, untouched."""
    changed: float = 0.0
    """Unix seconds of its last change of any kind (content, name, mode)."""


def look(path: Path) -> Entry:
    """What `path` itself is, links not followed. Raises OSError."""
    return _entry(path.name, os.lstat(path))


def _entry(name: str, status: os.stat_result) -> Entry:
    mode = status.st_mode
    open_to_all = os.name != "nt" and bool(mode & stat.S_IWOTH) and not stat.S_ISLNK(mode)
    if stat.S_ISREG(mode):
        identity = (status.st_dev, status.st_ino, mode, status.st_mtime_ns, status.st_ctime_ns)
        changed = max(status.st_mtime, status.st_ctime)
        return Entry(name, "file", status.st_size, status.st_mtime, open_to_all, identity, changed)
    kind = "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "special"
    return Entry(name, kind, 0, status.st_mtime, open_to_all)


def list_folder(path: Path) -> dict[str, Entry]:
    """The entries of `path` by name, links not followed. Raises OSError; Unsound where there are too many."""
    found: dict[str, Entry] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if len(found) >= MAX_ENTRIES:
                raise Unsound(
                    "too_many_files",
                    _("The folder holds more than {limit} entries; a checkpoint holds a few dozen.").format(
                        limit=MAX_ENTRIES
                    ),
                    _("Move what does not belong to the checkpoint elsewhere."),
                )
            found[entry.name] = _entry(entry.name, entry.stat(follow_symlinks=False))
    return found


@contextmanager
def reading_once() -> Iterator[None]:
    """Inside, small files are read once and kept: whoever opens one again sees the very same bytes, and costs no system call.

    A judgement looks at most files twice or thrice (structure, numbers, digest), and opening is most of the cost of a small one.
    """
    assert getattr(_KEPT, "files", None) is None, "one judgement at a time in a thread"
    _KEPT.files = {}
    try:
        yield
    finally:
        _KEPT.files = None


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """`path` opened for reading, only if it is a plain file and no link. Raises Unsound. Inside `reading_once` a small file is a
    BytesIO, which has no descriptor."""
    kept: dict[Path, bytes] | None = getattr(_KEPT, "files", None)
    if kept is not None and (known := kept.get(path)) is not None:
        yield BytesIO(known)
        return
    handle, size = _descriptor(path)
    if kept is not None and size + sum(map(len, kept.values())) <= MAX_KEPT_BYTES:
        kept[path] = _content(handle, size, path.name)
        yield BytesIO(kept[path])
        return
    with os.fdopen(handle, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise unreadable(path.name, error) from error


def places(spans: Sequence[tuple[int, int]]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes all of `spans`, (begin, end), out of bytes or a view of them. A file of torch has hundreds: they are not gone through
    one by one for each file that is laid out like it."""
    slices = [slice(begin, end) for begin, end in spans]
    return itemgetter(*slices) if len(slices) > 1 else lambda data: tuple(data[one] for one in slices)


def around(holes: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The spans of `size` bytes that lie between `holes`, which are in order: what a file has in common with the next of its kind."""
    return list(zip((0, *(end for _begin, end in holes)), (*(begin for begin, _end in holes), size), strict=True))


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file; where it stands does not change."""
    at = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(at)
    return end


def _descriptor(path: Path) -> tuple[int, int]:
    """(descriptor, bytes) of the plain file `path`, opened for reading. Raises Unsound."""
    try:
        entry = look(path)
        if entry.kind != "file":
            raise not_a_file(entry)
        handle = open_plain_file(path, os.O_RDONLY)
        return handle, os.fstat(handle).st_size
    except OSError as error:
        raise unreadable(path.name, error) from error


def _content(handle: int, size: int, name: str) -> bytes:
    """The first `size` bytes of an open file, which is closed. Raises Unsound."""
    try:
        data = os.read(handle, size)
        while len(data) < size and (more := os.read(handle, size - len(data))):
            data += more
        return data
    except OSError as error:
        raise unreadable(name, error) from error
    finally:
        os.close(handle)


def not_a_file(entry: Entry) -> Unsound:
    """The problem of a name that should be a plain file."""
    what = {
        "folder": _("{name} is a folder where a file belongs."),
        "link": _("{name} is a link; links are not followed, since what they point to can change."),
        "special": _("{name} is a pipe, socket or device where a file belongs; it was not opened."),
    }[entry.kind].format(name=entry.name)
    fix = _("Copy the checkpoint with links resolved (cp -rL) and continue from the copy.") if entry.kind == "link" else ""
    return Unsound("link" if entry.kind == "link" else "not_a_file", what, fix)


def unreadable(name: str, error: OSError) -> Unsound:
    """The problem of a file the system does not hand out."""
    return Unsound(
        "unreadable",
        _("{name} cannot be read: {error}.").format(name=name, error=error.strerror or type(error).__name__),
        _("Check its permissions and the disk."),
    )


def refuse_pointer(name: str, start: bytes) -> None:
    """Raise Unsound where a Git LFS pointer stands in the place of the file."""
    if start.startswith(LFS_POINTER):
        raise Unsound(
            "lfs_pointer",
            _("{name} is a Git LFS pointer, not the file itself.").format(name=name),
            _("Fetch the file with `git lfs pull`."),
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, strictly read. Raises Unsound."""
    return parse_json(read_bounded(path), path.name)


def read_bounded(path: Path) -> bytes:
    """The content of `path`, which is to be parsed. Raises Unsound where it has more than MAX_JSON_BYTES."""
    with open_plain(path) as file:
        size = size_of(file)
        if size > MAX_JSON_BYTES:
            raise Unsound(
                "too_large",
                _("{name} has {size} MB; more than {limit} MB are not read.").format(
                    name=path.name, size=size // 10**6, limit=MAX_JSON_BYTES // 10**6
                ),
            )
        return file.read(MAX_JSON_BYTES + 1)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object that `data` holds. NaN and Infinity, which Trainer writes, become float nan and inf. Raises Unsound."""
    refuse_pointer(name, data)
    if not data.strip(b"\0 \t\r\n"):
        raise Unsound(
            "empty", _("{name} is empty or holds only zero bytes: its content never reached the disk.").format(name=name)
        )
    try:
        with _PARSING:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_each_key_once)
    except RecursionError:
        raise Unsound("not_json", _("{name} is nested too deeply to be read.").format(name=name)) from None
    except ValueError as error:
        raise Unsound(
            "not_json",
            _("{name} is not valid JSON: {error}.").format(name=name, error=str(error)[:200]),
            _("It was torn while being written, or changed since; take an earlier checkpoint."),
        ) from None
    if not isinstance(value, dict):
        raise Unsound("not_json", _("{name} does not hold a JSON object.").format(name=name))
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _value in pairs:
            if key in seen:
                raise ValueError(_("the key {key} stands twice").format(key=repr(key[:60])))
            seen.add(key)
    return found


def number(value: Any) -> float | None:
    """`value` as a finite float; None for everything else, bools and digits in quotes included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def count(value: Any) -> int | None:
    """`value` where it is a whole number >= 0 written as one; else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
