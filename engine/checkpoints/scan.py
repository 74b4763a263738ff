"""What is in an output folder: its checkpoints, judged and sorted into runs, and what only looks like one.

A checkpoint is a folder named exactly `checkpoint-<number>`, as every trainer names it. Backups, links and look-alikes are not
guessed at but named with the reason, so that nobody wonders why theirs is missing.
"""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.inspect import glimpse, inspect_folder
from engine.checkpoints.lineage import assign_runs
from engine.checkpoints.manifest import MANIFEST_NAME
from engine.errors import ConfigError
from engine.i18n import _

EXACT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})", re.ASCII)
THREADS = 1
"""Beside the caller's. More wait for each other's interpreter lock: small files take more looking than reading."""
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
    unverified: frozenset[str] = frozenset()
    """Names of checkpoints that were only glanced at: what they say of themselves is known, not whether it is so."""


def scan(output_dir: Path, verify: bool = True) -> Scan:
    """Look through `output_dir` and judge every checkpoint. Raises ConfigError where it is no folder that can be read."""
    found, ignored = _listed(output_dir)
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="inspect") as pool:
        checkpoints = tuple(pool.map(lambda name: inspect_folder(output_dir / name, verify), found))
    return Scan(output_dir, assign_runs(checkpoints), ignored)


def glance(output_dir: Path) -> Scan:
    """Look through `output_dir` without judging what need not be judged yet: a thousand checkpoints in a fraction of a second.

    What says nothing of itself is judged at once. Raises ConfigError as `scan`.
    """
    found, ignored = _listed(output_dir)
    # Only where some have no manifest do the logged losses tell whose they are (lineage.py).
    foreign = any(not (output_dir / name / MANIFEST_NAME).is_file() for name in found)
    seen = {name: glimpse(output_dir / name, history=foreign) for name in found}
    checkpoints = tuple(seen[name] or inspect_folder(output_dir / name) for name in found)
    return Scan(
        output_dir, assign_runs(checkpoints), ignored, frozenset(name for name, one in seen.items() if one is not None)
    )


def verify(found: Scan, name: str) -> Scan:
    """`found` with the checkpoint `name` judged. It stays with its run."""
    return verified(found, inspect_folder(found.output_dir / name))


def verified(found: Scan, judged: Checkpoint) -> Scan:
    """`found` with `judged` in the place of what was glanced at."""
    checkpoints = tuple(replace(judged, run=one.run) if one.name == judged.name else one for one in found.checkpoints)
    return replace(found, checkpoints=checkpoints, unverified=found.unverified - {judged.name})


def _listed(output_dir: Path) -> tuple[list[str], tuple[Ignored, ...]]:
    """The names of checkpoints in order of their number, and what only looks like one."""
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
    return found, tuple(sorted(ignored, key=lambda one: one.name))


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
