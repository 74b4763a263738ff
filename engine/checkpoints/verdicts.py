"""Checkpoints that were judged before and not touched since: a second look at a thousand of them need not read two gigabytes.

Only the best verdict is kept, "nothing is wrong with it", under a seal of the folder: name, size, times and inode of each file.
As with git's index, a file that was changed within the clock's grain of the look could keep its seal; so nothing is kept that
young. A seal says that nobody wrote to the files, not that the disk still holds them: what is loaded is judged anew in any case
(verified.py), and `check --full` judges everything.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import engine
from engine.cache import cache_root
from engine.checkpoints.files import Entry, look
from engine.durable import write_durably

GRAIN = 3.0
"""Seconds: FAT's times have a grain of two."""


@cache
def rules() -> str:
    """Which rules a verdict was found by: those of the files of this very package. Another version of it judges anew; a number that
    somebody had to raise would be forgotten."""
    files = [(path.name, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py"))]
    told = [engine.__version__, *((name, status.st_size, status.st_mtime_ns) for name, status in files)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


class Verdicts:
    """What is known of the checkpoints in one output folder."""

    def __init__(self, output_dir: Path) -> None:
        name = hashlib.sha256(str(output_dir.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self.path = cache_root() / "verdicts" / f"{name}.json"
        self._known: dict[str, str] = _read(self.path)
        self._now: dict[str, str] = {}

    def holds(self, folder: Path, entries: Mapping[str, Entry]) -> bool:
        """Whether nothing was wrong with `folder` when it was last judged, and nobody wrote to it since."""
        seal = seal_of(folder, entries)
        if seal is None or self._known.get(folder.name) != seal:
            return False
        self._now[folder.name] = seal
        return True

    def found_sound(self, name: str, seal: str) -> None:
        """Nothing is wrong with the checkpoint `name`, whose seal was `seal` before and after it was judged."""
        self._now[name] = seal

    def keep(self) -> None:
        """Write down what is known now; a cache that cannot be written is none."""
        if self._now == self._known:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, json.dumps({"rules": rules(), "sound": self._now}).encode())
        except OSError:
            return


def seal_of(folder: Path, entries: Mapping[str, Entry]) -> str | None:
    """A digest of what the system says of `folder` and each file in it; None where a folder is in it, which it would not cover."""
    if any(entry.kind != "file" for entry in entries.values()):
        return None
    try:
        itself = look(folder)
    except OSError:
        return None
    told = [(name, entry.size, entry.identity) for name, entry in sorted(entries.items())]
    return hashlib.sha256(repr((itself.others_write, told)).encode("utf-8", "surrogateescape")).hexdigest()


def is_young(entries: Mapping[str, Entry]) -> bool:
    """Whether a file was changed so lately that it might be changed again without its times telling; of that nothing is kept."""
    youngest = max((entry.changed for entry in entries.values()), default=0.0)
    return abs(time.time() - youngest) <= GRAIN


def _read(path: Path) -> dict[str, str]:
    try:
        kept = json.loads(path.read_bytes())
        if kept["rules"] != rules():
            return {}
        return {str(name): str(seal) for name, seal in kept["sound"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
