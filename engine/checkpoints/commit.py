"""A checkpoint is there or it is not: staging, fsync, manifest, rename (contract C3).

The training loop writes the small files of a checkpoint into a staging folder and goes on; the large ones it leaves to the thread with
a copy of what goes into them. What makes them a checkpoint happens beside it, in one thread and in order: these are written, every
file is hashed and synced, the manifest is written last, the folder is renamed and the rename is
synced. Only then may older ones go. A kill at any point leaves whole checkpoints and perhaps a staging or trash folder, which no scan
ever takes for one and the next run sweeps away; one that was being replaced has its name again then.

Errors do not vanish in the thread: they are kept and raised in the training loop at its next look.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpoints.manifest import MANIFEST_NAME, FileRecord, Manifest, dump_manifest
from engine.checkpoints.retain import Kept, surplus
from engine.checkpoints.trash import move, place_in_trash
from engine.durable import STAGING_PREFIX, sync, sync_file, sync_folder
from engine.errors import OutputError
from engine.i18n import _

TRASH_PREFIX = ".trash-"
REPLACED_PREFIX = ".replaced-"
"""Of what another is about to stand in the place of, until that is there."""

Complete = Callable[[dict[str, FileRecord]], Manifest]
"""Makes the manifest once every file's size and digest are known."""


@dataclass(frozen=True)
class Staged:
    """What is to become a checkpoint."""

    folder: Path
    """Of `Committer.stage`."""
    step: int
    eval_loss: float | None
    write: Callable[[], None]
    """Writes what the loop has left to be written there."""
    complete: Complete
    aside: bool = False
    """Into the trash, where nothing goes on from it unasked, without ever having its name in the output folder."""


@dataclass(frozen=True)
class Committed:
    """A checkpoint that is durable."""

    name: str
    path: Path
    step: int
    bytes: int
    seconds: float
    removed: tuple[str, ...]
    unremoved: OSError | None = None
    """Why retention could not take an older one away. The checkpoint itself is safe then, and the next save tries again."""
    replaced: Path | None = None
    """The place in the trash of what stood there under its name."""
    aside: bool = False
    """It lies in the trash itself, as was asked."""


@dataclass
class Committer:
    """Commits the checkpoints of one run, in order, beside the training. Holds what retention must know of the run."""

    output_dir: Path
    keep: int
    kept: list[Kept] = field(default_factory=list)
    """The run's sound checkpoints so far; those of other runs in the folder are never touched."""
    good_until: tuple[int | None, ...] = ()
    """Steps that a run may have to go back to: of each the furthest checkpoint up to it stays."""

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._pending: Future[Committed] | None = None
        self._count = 0

    def stage(self) -> Path:
        """A new empty staging folder on the output folder's own file system. Raises OSError."""
        self._count += 1
        staging = self.output_dir / f"{STAGING_PREFIX}{os.getpid()}-{self._count}"
        staging.mkdir()
        return staging

    def commit(self, staged: Staged) -> None:
        """Turn `staged` into `checkpoint-<step>` in the background. `wait` must have been called since the last commit."""
        assert self._pending is None, "one commit at a time: wait() first"
        self._pending = self._pool.submit(self._commit, staged, time.monotonic())

    def poll(self) -> Committed | None:
        """The commit that has ended since the last look, if one has. Raises what went wrong in it."""
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self) -> Committed | None:
        """Wait for the commit under way; None where there is none. Raises what went wrong in it (OSError, mostly)."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        """End the thread. What is still pending is finished first."""
        self._pool.shutdown(wait=True)

    def _commit(self, staged: Staged, started: float) -> Committed:
        name = f"checkpoint-{staged.step}"
        final = self.output_dir / name
        try:
            staged.write()
            total = seal(staged.folder, staged.complete)
            if staged.aside:
                final = place_in_trash(final)
            replaced = place(staged.folder, final)
        except BaseException:
            shutil.rmtree(staged.folder, ignore_errors=True)
            raise
        if staged.aside:  # it is none of those that retention counts
            return Committed(name, final, staged.step, total, time.monotonic() - started, (), aside=True)
        self.kept = [kept for kept in self.kept if kept.name != name] + [Kept(name, staged.step, staged.eval_loss)]
        removed, unremoved = self._retain()
        return Committed(name, final, staged.step, total, time.monotonic() - started, removed, unremoved, replaced)

    def _retain(self) -> tuple[tuple[str, ...], OSError | None]:
        """Remove what retention gives up. What cannot be removed must not make a save that is durable look like one that failed."""
        removed: list[str] = []
        for old in surplus(self.kept, self.keep, self.good_until):
            try:
                remove(self.output_dir / old)
            except FileNotFoundError:  # a person was quicker
                pass
            except OSError as error:
                return tuple(removed), error
            removed.append(old)
            self.kept = [kept for kept in self.kept if kept.name != old]
        return tuple(removed), None


def seal(staging: Path, complete: Complete) -> int:
    """Hash and sync every file of `staging`, then write and sync its manifest. Returns the bytes. Raises OSError."""
    records: dict[str, FileRecord] = {}
    for path in sorted(staging.iterdir()):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        sync_file(path)
        records[path.name] = FileRecord(size=size, sha256=digest)
    content = dump_manifest(complete(records))
    with open(staging / MANIFEST_NAME, "wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())
    sync_folder(staging)
    return sum(record.size for record in records.values()) + len(content)


def place(staging: Path, final: Path) -> Path | None:
    """Rename `staging` to `final` and make that durable. What stands there already is put into the trash, not deleted, and put
    back where the rename fails. Returns its place there; None where nothing stood there. Raises OSError.

    No folder takes the place of another in one step, so between two renames nothing has the name. A kill there leaves what stood there
    as `.replaced-*`, and the next start brings it back (`sweep`): in the trash it would look like something put away for good.
    """
    if not os.path.lexists(final):
        move(staging, final)
        return None
    kept = place_in_trash(final)  # before anything is moved: it may fail
    earlier = final.with_name(REPLACED_PREFIX + kept.name)
    move(final, earlier)
    try:
        staging.rename(final)
    except OSError:
        move(earlier, final)
        raise
    sync_folder(final.parent)
    try:
        move(earlier, kept)
    except OSError:  # what was to be saved is; the next start puts the other one away
        return kept if os.path.lexists(kept) else earlier
    return kept


def _bring_back(earlier: Path) -> None:
    """End what a kill in `place` left half done: what was being replaced has its name again, or goes into the trash where another has
    the name by now. Raises OSError."""
    kept = earlier.name.removeprefix(REPLACED_PREFIX)
    final = earlier.with_name(kept.rpartition(".")[0] or kept)
    move(earlier, place_in_trash(final) if os.path.lexists(final) else final)


@contextlib.contextmanager
def made_in(staging: Path, final: Path) -> Iterator[Path]:
    """A new folder `staging` to write into, which takes the place `final` once the block has ended well and everything is on the disk;
    nothing of it stays otherwise. Raises OSError."""
    staging.mkdir()
    try:
        yield staging
        for path in sorted(staging.iterdir()):
            sync_file(path)
        sync_folder(staging)
        place(staging, final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Delete a folder so that no torn one is ever seen under its name: rename it away first. Raises OSError."""
    doomed = path.parent / f"{TRASH_PREFIX}{path.name}-{time.time_ns()}"
    path.rename(doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed)


def sweep(output_dir: Path) -> tuple[str, ...]:
    """Delete what a killed run left half made or half removed, and bring back what it was replacing. Only under the run's lock.
    Returns the names. Raises OSError.

    All that is deleted carries our own prefixes and was never a checkpoint, or was already given up by retention. A link is taken away
    itself, never what it points to.
    """
    left = leftovers(output_dir)
    for entry in left:
        if entry.name.startswith(REPLACED_PREFIX):
            _bring_back(entry)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return tuple(entry.name for entry in left)


def leftovers(output_dir: Path) -> list[Path]:
    """What `sweep` would see to. Raises OSError."""
    ours = (STAGING_PREFIX, TRASH_PREFIX, REPLACED_PREFIX)
    return sorted(entry for entry in output_dir.iterdir() if entry.name.startswith(ours))


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written under `folder`. Raises OSError."""
    return shutil.disk_usage(folder).free


FILES_OF_A_CHECKPOINT = 32


def need_room(folder: Path, size: int) -> None:
    """Raise OSError (ENOSPC) where a checkpoint of `size` bytes cannot be written under `folder` any more, or its files cannot be
    named because the file system's table of files (inodes) is full."""
    if hasattr(os, "statvfs"):
        found = os.statvfs(folder)
        if found.f_files > 0 and found.f_favail < FILES_OF_A_CHECKPOINT:  # f_files is 0 where there is no such table
            raise OSError(errno.ENOSPC, _("no room for more files (inodes) on this file system"))
    if free_bytes(folder) < size:
        raise OSError(errno.ENOSPC, _("no space left for another {size:.0f} MB").format(size=size / 1e6))


def need_room_to_begin(output_dir: Path, each: int) -> None:
    """Raise OutputError where two checkpoints of `each` bytes, as many as there are while one replaces another, have no room."""
    need_room(output_dir, 0)
    free = free_bytes(output_dir)
    if free < 2 * each:
        raise OutputError(
            _("{folder}: the disk is too full to save checkpoints").format(folder=output_dir),
            _("One takes about {each:.0f} MB and two must fit; {free:.0f} MB are free.").format(
                each=each / 1e6, free=free / 1e6
            ),
            _("Make room, or choose another --output."),
        )
