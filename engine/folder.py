"""A run's folder (contract C2): which run it belongs to, and where a new run goes when it is taken. Who holds it: lock.py."""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import RunConfig
from engine.durable import write_durably
from engine.errors import ConfigError, LoraTuiError, OutputError
from engine.i18n import _
from engine.journal import JOURNAL_NAME, read_journal
from engine.lock import LOCK_FILES, unwritable
from engine.paths import is_file, is_folder, with_its_name
from engine.sources import Source, read_toml, resolve, to_toml, toml_text

RUN_TOML = "run.toml"
FINAL = "final"
RUN_LOG = "run.log"
TRASH = ".trash"
"""Where what is replaced or put away goes (checkpoints/trash.py)."""
OUT_ROOT = Path("out")

LONGEST = 220
"""Bytes of a name that is made here: file systems take 255, behind it stand a sibling's number and the end of a log's name."""

NOT_INHERITED = ("resume", "init_from", "accept", "output", "nnodes", "node_rank", "rendezvous")
"""Answers about one start of a run, not about the run: they are kept in run.toml but never taken up from it."""


def need_plain_trash(output_dir: Path) -> None:
    """Raise OutputError where nothing could be put into the folder's trash: told before a run that would need it at its end."""
    trash = output_dir / TRASH
    if os.path.lexists(trash) and (trash.is_symlink() or not trash.is_dir()):
        raise OutputError(
            _("{path}: is no plain folder").format(path=trash),
            _("What a run replaces goes there; a link is not followed."),
            _("Take it away."),
        )


def need_folder(output_dir: Path) -> Path:
    """The nearest to `output_dir` that is there: itself, or a folder above it. Raises OutputError where that is no folder."""
    nearest = next((one for one in (output_dir, *output_dir.absolute().parents) if os.path.lexists(one)), Path("/"))
    if is_folder(nearest):
        return nearest
    raise OutputError(
        (_("{path}: is a file, not a folder") if is_file(nearest) else _("{path}: is no folder")).format(path=nearest),
        fix=_("Name the folder that the run is to go to with --output."),
    )


def run_id_of(output_dir: Path) -> str | None:
    """The id of the run that `output_dir` belongs to, by its run.toml; None where there is none or it cannot be read."""
    import tomllib

    try:
        found = tomllib.loads(toml_text(output_dir / RUN_TOML, follow=False)).get("run_id")
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, str) and re.fullmatch(r"[0-9A-Za-z._-]{1,64}", found) else None


def source_of_run(output_dir: Path) -> Source | None:
    """What the run in `output_dir` was started with. None without a run.toml; raises ConfigError for a damaged one."""
    path = output_dir / RUN_TOML
    if not os.path.lexists(path):
        return None
    source = read_toml(path, "run")
    return replace(source, values={key: value for key, value in source.values.items() if key not in NOT_INHERITED})


def own_start(output_dir: Path) -> RunConfig | None:
    """All of the run.toml in `output_dir`, also how that very start was asked for. None and raises as `source_of_run`."""
    path = output_dir / RUN_TOML
    return resolve([read_toml(path, "run")]).config if os.path.lexists(path) else None


def write_run_toml(output_dir: Path, config: RunConfig, run_id: str) -> None:
    """Record what this run is started with. Raises OSError."""
    write_durably(output_dir / RUN_TOML, to_toml(config, run_id).encode())


def named(output_dir: Path) -> Path:
    """`output_dir`, if this file system can have such a name at all. Raises OutputError: too long, or not of its characters."""
    try:
        output_dir.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # told with more knowledge by whoever goes there
    except (OSError, ValueError) as error:
        raise unwritable(output_dir, error) from error
    return output_dir


def occupied(output_dir: Path) -> bool:
    """Whether anything a person could miss lies in `output_dir`. A lock or an empty folder does not count, nor does the log of a start
    that was killed before its run began. Raises OutputError where it may not be looked into."""
    if os.path.islink(output_dir) or is_file(output_dir):  # noqa: PTH114 - Path.is_symlink raises below a folder not to be entered
        return True
    if not is_folder(output_dir):
        return False
    none = (*LOCK_FILES, RUN_LOG, ".gitkeep")
    try:
        return any(entry.name not in none for entry in output_dir.iterdir())
    except OSError as error:
        raise unwritable(output_dir, error) from error


@dataclass(frozen=True)
class Place:
    """Where a run would go, looked at without touching it."""

    folder: Path
    occupied: bool
    free: int
    """Bytes that may still be written there."""
    problem: LoraTuiError | None
    """Why nothing can be written there; None: nothing is known against it."""


def look_at(folder: Path) -> Place:
    """Whether `folder` can hold a run."""
    try:
        nearest, taken = need_folder(folder), occupied(folder)
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
        need_plain_trash(folder)
        free = shutil.disk_usage(nearest).free
        if not free:  # a full disk, or a file system that holds no files, such as /proc
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(nearest))
        return Place(folder, taken, free, None)
    except OutputError as error:
        return Place(folder, True, 0, error)
    except (OSError, ValueError) as error:
        return Place(folder, False, 0, unwritable(folder, error))


def free_sibling(output_dir: Path) -> Path:
    """`output_dir` if it is free, else the first of OUT-2, OUT-3, ... that is."""
    if not occupied(named(output_dir)):
        return output_dir
    output_dir = with_its_name(output_dir)
    number = 2
    while occupied(sibling := named(output_dir.with_name(f"{output_dir.name}-{number}"))):
        number += 1
    return sibling


def last_run(root: Path = OUT_ROOT, to_go_on: bool = False) -> Path | None:
    """The run under `root` whose journal spoke last (by what it says, not by file times); None where there is none. `to_go_on`: of
    those that hold settings or a checkpoint, which one that ended before its first step for what it was asked does not."""
    spoken: list[tuple[float, str, Path]] = []
    try:
        folders = list(root.iterdir())
    except OSError:  # none, or one whose names may not be read: then none is known
        return None
    for folder in folders:
        if not is_file(folder / JOURNAL_NAME) or (to_go_on and not _holds_a_run(folder)):
            continue
        times = [record["t"] for record in read_journal(folder) if isinstance(record.get("t"), int | float)]
        if times:
            spoken.append((max(times), folder.name, folder))
    return max(spoken)[2] if spoken else None


def _holds_a_run(folder: Path) -> bool:
    try:
        return is_file(folder / RUN_TOML) or any(folder.glob("checkpoint-*"))
    except OSError:  # told by whoever goes on there
        return True


def proposed_output(dataset: str, model: str, root: Path = OUT_ROOT) -> Path:
    """`out/<dataset>-<model>`, from the last parts of both names, with only characters that every file system takes."""

    def short(name: str) -> str:
        stem = Path(name.rstrip("/\\")).name or name
        for ending in (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"):
            stem = stem.removesuffix(ending)
        return re.sub(r"[^\w.-]+", "_", stem).strip("._-")[:80]

    parts = [part for part in (short(dataset), short(model)) if part]
    name = "-".join(parts)
    if len(name.encode()) > LONGEST:  # not each part of any name: a run is found again by it
        name = "-".join(part.encode()[: (LONGEST - 1) // 2].decode(errors="ignore") for part in parts)
    if not name:
        raise ConfigError(_("no folder name can be made of these names"), fix=_("Name one with --output."))
    return root / name
