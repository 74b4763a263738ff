"""What the system refused to a run: which file it was, and whose, so that nobody looks into the output folder for the fault of a
cache whose disk is full.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from engine.cache import cache_root
from engine.config import RunConfig
from engine.errors import DatasetError, LoraTuiError, ModelError, OutputError
from engine.i18n import _, sentences
from engine.lock import unwritable
from engine.paths import is_folder, path_of

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
NO_ROOM = 2**20
"""Bytes that are free on a disk that counts as full: what a write that failed has left of it."""


def is_refusal(error: OSError, out: Path, config: RunConfig) -> bool:
    """Whether `error` is about a disk, or a file that a run in the folder `out` works with: no fault of ours."""
    at = _place_of(error, out)
    return error.errno in DISK or (at is not None and bool(_whose(at, out, config)))


def refused(error: OSError, out: Path, config: RunConfig) -> LoraTuiError:
    """The error for what the system refused to a run in the folder `out`: of a file that is not its own, which and whose."""
    at = _place_of(error, out)
    whose = _whose(at, out, config) if at is not None else "run"
    why, check = error.strerror or str(error), _("Check its permissions and the free space there.")
    match whose:
        case "run":
            return unwritable(out, error)
        case "model":
            return ModelError(_("{path}: this file of the model cannot be used").format(path=at), why, check)
        case "dataset":
            return DatasetError(_("{path}: this file of the dataset cannot be used").format(path=at), why, check)
        case "cache":
            where = _("lora-tui's cache is there; LORA_TUI_CACHE names another folder for it.")
        case "temporary":
            where = _("Temporary files go there; TMPDIR names another folder for them.")
        case _:
            where = ""
    return OutputError(_("{path}: cannot be read or written").format(path=at), why, sentences(check, where))


def _whose(at: Path, out: Path, config: RunConfig) -> str:
    """What the file `at` is of: run, model, dataset, cache or temporary; empty where it is of none of them."""
    if at.is_relative_to(out.absolute()):
        return "run"
    if _is_of(at, config.model, "models"):
        return "model"
    if _is_of(at, config.dataset, "datasets") or _is_of(at, config.eval_dataset, "datasets"):
        return "dataset"
    if at.is_relative_to(cache_root()):
        return "cache"
    return "temporary" if at.is_relative_to(_temporary_folder()) else ""


def _place_of(error: OSError, out: Path) -> Path | None:
    """What `error` is about: the file it names, else a folder beside `out` whose disk is full; None where neither is known."""
    if isinstance(error.filename, str | bytes):
        return Path(os.fsdecode(error.filename)).absolute()
    # What is written to says so without its name; who finds no folder for a temporary file found them all full, or closed.
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT) or _is_full(out):
        return None
    return next((folder for folder in (_temporary_folder(), cache_root()) if _is_full(folder)), None)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < NO_ROOM
    except OSError:  # it is not there
        return False


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir()).absolute()
    except OSError:  # nothing could be written to any of those it knows
        return Path(os.environ.get("TMPDIR") or "/tmp").absolute()


def _is_of(at: Path, named: str | None, kind: str) -> bool:
    """Whether `at` is of what was named, a path or a hub id: `kind` is what the hub's cache calls that."""
    if named is None:
        return False
    path = path_of(named).absolute()
    return at == path or (is_folder(path) and path in at.parents) or f"{kind}--{named.replace('/', '--')}" in at.parts
