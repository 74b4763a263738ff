"""What is in an output folder: its checkpoints, judged and sorted into runs, and what only looks like one.

A checkpoint is a folder named exactly `checkpoint-<number>`, as every trainer names it. Backups, links and look-alikes are not
guessed at but named with the reason, so that nobody wonders why theirs is missing.
"""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.lineage import assign_runs
from engine.errors import ConfigError
from engine.i18n import _

EXACT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})", re.ASCII)
THREADS = 4
"""Enough to keep a disk busy; hashing lets go of the interpreter's lock."""
MAX_IGNORED = 1_000
"""Look-alikes that are listed one by one."""


@dataclass(frozen=True)
class Ignored:
    """A name that begins like a checkpoint and is none."""

    name: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """An output folder, looked through."""

    output_dir: Path
    checkpoints: tuple[Checkpoint, ...]
    """By the number in the name. `run` is filled in."""
    ignored: tuple[Ignored, ...]


def scan(output_dir: Path, verify: bool = True) -> Scan:
    """Look through `output_dir`. Raises ConfigError where it is no folder that can be read."""
    found: list[str] = []
    ignored: list[Ignored] = []
    try:
        with os.scandir(output_dir) as entries:
            for entry in entries:
                if not entry.name.casefold().startswith("checkpoint"):
                    continue
                reason = _why_not(entry)
                if reason is None:
                    found.append(entry.name)
                elif len(ignored) < MAX_IGNORED:
                    ignored.append(Ignored(entry.name, reason))
    except OSError as error:
        raise ConfigError(
            _("{folder}: cannot be looked through").format(folder=output_dir),
            error.strerror or type(error).__name__,
            _("Name the folder that holds the checkpoint-<number> folders."),
        ) from error
    found.sort(key=lambda name: int(name.removeprefix("checkpoint-")))
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="inspect") as pool:
        checkpoints = tuple(pool.map(lambda name: inspect_folder(output_dir / name, verify), found))
    return Scan(output_dir, assign_runs(checkpoints), tuple(sorted(ignored, key=lambda one: one.name)))


def _why_not(entry: os.DirEntry[str]) -> str | None:
    """Why this entry is no checkpoint; None where it is one."""
    if not EXACT.fullmatch(entry.name):
        return _("Its name is not exactly checkpoint-<number>, with plain digits and no leading zero.")
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        return None
    if stat.S_ISLNK(mode):
        return _("It is a link, and links are not followed; name the folder it points to instead.")
    return _("It is a file, not a folder.") if stat.S_ISREG(mode) else _("It is a pipe, socket or device, not a folder.")
