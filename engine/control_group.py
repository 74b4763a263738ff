"""The memory that a container or a batch job may take: what the control groups of this process are limited to (Linux).

Beyond it the system kills a process without a word, however much the machine still has free.
https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

OF_THIS_PROCESS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def memory_limits() -> list[tuple[int, int]]:
    """(free, limit), in bytes, of each control group that this process is in and whose memory is limited. Version 1 tells of a limit
    that none has reached as of one beyond all memory."""
    return [found for folder, names in _groups() if (found := _limit(folder, *names)) is not None]


def _groups() -> Iterator[tuple[Path, tuple[str, str]]]:
    """The folders of this process's groups, from the innermost outwards, and what limit and use are called there."""
    try:
        lines = OF_THIS_PROCESS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _colon, path = line.partition(":")[2].partition(":")
        if not controllers:
            root, names = MOUNTED, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = MOUNTED / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # A container may be told the path that its machine has for it, and sees its own group as the root.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth]), names


def _limit(folder: Path, limit: str, used: str) -> tuple[int, int] | None:
    try:
        most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
        told = (folder / "memory.stat").read_text()
    except (OSError, ValueError):  # not there, or "max"
        return None
    # What was read from files is given up before anybody is killed. Version 1 has the sum with all groups below as total_*.
    cache = dict(re.findall(r"^(?:total_)?(inactive_file|active_file) (\d+)$", told, re.MULTILINE))
    return min(most, max(0, most - taken + sum(map(int, cache.values())))), most
