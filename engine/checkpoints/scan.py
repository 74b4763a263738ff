"""What is in an output folder: its checkpoints, judged and sorted into runs, and what only looks like one.

A checkpoint is a folder named exactly `checkpoint-<number>`, as every trainer names it. Backups, links and look-alikes are not
guessed at but named with the reason, so that nobody wonders why theirs is missing.
"""

from __future__ import annotations

import gc
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint, LogRow
from engine.checkpoints.choose import distance
from engine.checkpoints.files import Entry, Unsound, list_folder
from engine.checkpoints.inspect import glimpse, inspect_folder, recall
from engine.checkpoints.lineage import assign_runs
from engine.checkpoints.manifest import MANIFEST_NAME
from engine.checkpoints.state import STATE_NAME, read_state
from engine.checkpoints.verdicts import Verdicts, is_young, seal_of
from engine.collector import collecting_later
from engine.devices import processors
from engine.errors import ConfigError
from engine.i18n import _
from engine.paths import is_file

EXACT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})", re.ASCII)
FOR_A_PROCESS = 32
"""Checkpoints that are worth a process. Threads would wait for each other's interpreter lock: small files take more looking than
reading."""
CHUNK = 32
"""Checkpoints that a process is given at a time: what they have in common is handed back once."""
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


def scan(output_dir: Path) -> Scan:
    """Look through `output_dir` and judge every checkpoint. Raises ConfigError where it is no folder that can be read."""
    found, ignored = _listed(output_dir)
    judged = [inspect_folder(output_dir / name) for name in reversed(found)]
    return Scan(output_dir, assign_runs(_there(judged[::-1])), ignored)


def scan_many(output_dir: Path, full: bool = False) -> Scan:
    """`scan` for a folder of any size: what was judged before and not touched since is not read again, unless `full`, and the rest is
    judged by as many processes as there are processors. Of those not read again only the furthest of each run has its history.

    For a process without threads: it forks. Raises ConfigError as `scan`.
    """
    with collecting_later():
        return _scan_many(output_dir, full)


def _scan_many(output_dir: Path, full: bool) -> Scan:
    found, ignored = _listed(output_dir)
    known = Verdicts(output_dir)
    foreign = _any_foreign(output_dir, found)
    # The furthest first: its log holds all others' (trainer_log.py).
    recalled = {} if full else {name: _recall(output_dir / name, known, foreign) for name in reversed(found)}
    unknown = [output_dir / name for name in reversed(found) if recalled.get(name) is None]
    judged = {one.name: (one, seal) for one, seal in _judge_all(unknown)}
    for checkpoint, seal in judged.values():
        if checkpoint.continuable and not checkpoint.problems and seal is not None:
            known.found_sound(checkpoint.name, seal)
    known.keep()
    checkpoints = assign_runs(_with_losses(_there([recalled.get(name) or judged[name][0] for name in found])))
    furthest: dict[str, Checkpoint] = {}
    for one in sorted(checkpoints, key=distance):
        if one.name not in judged:
            furthest[one.run] = one
    with_history = {one.name: replace(one, history=_history(one)) for one in furthest.values()}
    return Scan(output_dir, tuple(with_history.get(one.name, one) for one in checkpoints), ignored)


def _recall(folder: Path, known: Verdicts, history: bool) -> Checkpoint | None:
    entries = _entries(folder)
    return recall(folder, entries, history) if entries is not None and known.holds(folder, entries) else None


def _history(checkpoint: Checkpoint) -> tuple[LogRow, ...]:
    try:
        return read_state(checkpoint.path / STATE_NAME).history
    except Unsound:
        return checkpoint.history


def _judge_all(folders: list[Path]) -> list[tuple[Checkpoint, str | None]]:
    """Each of `folders` judged, with its seal where nobody wrote to it meanwhile."""
    processes = min(processors(), len(folders) // FOR_A_PROCESS) if sys.platform == "linux" else 1
    if processes < 2:
        return [_judge(folder) for folder in folders]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(processes, mp_context=get_context("fork"), initializer=_begin_process) as pool:
        return list(pool.map(_judge, folders, chunksize=CHUNK))


def _begin_process() -> None:
    """numpy begins as many threads as there are processors, which a look at numbers has no use for."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    gc.enable()


def _judge(folder: Path) -> tuple[Checkpoint, str | None]:
    entries = _entries(folder)
    judged = inspect_folder(folder, entries=entries)
    if entries is None or is_young(entries):
        return judged, None
    seal, after = seal_of(folder, entries), _entries(folder)
    return judged, seal if after is not None and seal_of(folder, after) == seal else None


def _entries(folder: Path) -> Mapping[str, Entry] | None:
    try:
        return list_folder(folder)
    except (OSError, Unsound):
        return None


def glance(output_dir: Path) -> Scan:
    """Look through `output_dir` without judging what need not be judged yet: a thousand checkpoints in a fraction of a second.

    What says nothing of itself is judged at once. Raises ConfigError as `scan`.
    """
    found, ignored = _listed(output_dir)
    foreign = _any_foreign(output_dir, found)
    seen = {name: glimpse(output_dir / name, history=foreign) for name in reversed(found)}
    checkpoints = _there([seen[name] or inspect_folder(output_dir / name) for name in found])
    return Scan(
        output_dir,
        assign_runs(_with_losses(checkpoints)),
        ignored,
        frozenset(name for name, one in seen.items() if one is not None),
    )


def _any_foreign(output_dir: Path, found: list[str]) -> bool:
    """Whether one of `found` has no manifest, or none that may be looked at: only then do the logged losses tell whose they are
    (lineage.py)."""
    return any(not is_file(output_dir / name / MANIFEST_NAME) for name in found)


def _with_losses(found: list[Checkpoint]) -> list[Checkpoint]:
    """`found`, each with its logged losses where one has no manifest that can be read: that is known only once it was tried."""
    if all(one.manifest is not None for one in found):
        return found
    # The furthest first: its log holds all others' (trainer_log.py).
    return [one if one.history else replace(one, history=_history(one)) for one in reversed(found)][::-1]


def _there(judged: list[Checkpoint]) -> list[Checkpoint]:
    """`judged` without those that went while they were looked at, as retention of a run that is going on takes them: whatever they
    were found to lack, they are not damaged but gone."""
    return [one for one in judged if os.path.lexists(one.path)]


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
                try:
                    reason = _why_not(entry)
                except FileNotFoundError:  # a run that is going on has put it away since it was listed
                    continue
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
