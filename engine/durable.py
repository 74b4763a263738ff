"""The few file-system steps that make a write survive a power cut: fsync the file, fsync the folder, rename.

A rename is atomic but not durable until its folder is synced; a file is not durable until it is synced itself (FAILURES C,
LevelDB and etcd do the same). A failed fsync is never retried on the same file: the kernel may have dropped the pages.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from pathlib import Path

STAGING_PREFIX = ".staging-"
"""Of everything that is still being made; whatever a kill leaves under it is swept away by the next start."""
LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What says that something was not written, rather than that there is no such step."""


def open_plain_file(path: Path, flags: int, follow: bool = False) -> int:
    """A descriptor of `path`, only where it is a plain file: a folder may come from a stranger, and a link in the place of a file
    that is written to would write elsewhere, a pipe would wait for ever. Raises OSError. `follow`: a link may lead to it."""
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | extra | (0 if follow else getattr(os, "O_NOFOLLOW", 0)), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    return descriptor


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file `path`, in hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(descriptor: int) -> None:
    """Make what was written to `descriptor` durable. Raises OSError. On macOS fsync leaves it in the drive's own memory, and only
    F_FULLFSYNC has it written; not every file system there has that."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno in LOST:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make creations and renames in `folder` durable. Systems that cannot open folders (Windows) have no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        # Some file systems have no such step for folders and say so in these words (PostgreSQL's fsync_fname takes them the same).
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of `path` durable, with the mode that the umask gave its folder: safetensors makes its files 0600 whatever the
    umask says. Raises OSError (ENOSPC and EIO often show only here)."""
    wanted = path.parent.stat().st_mode & 0o666
    descriptor = os.open(path, os.O_RDWR)
    try:
        if hasattr(os, "fchmod") and os.fstat(descriptor).st_mode & 0o777 != wanted:
            with contextlib.suppress(PermissionError):  # FAT has one mode for all
                os.fchmod(descriptor, wanted)
        sync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a crash leaves the old or the new one, whole. Raises OSError."""
    temporary = path.with_name(f"{STAGING_PREFIX}{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what a person must hear of
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
