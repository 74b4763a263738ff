"""`make bench`, or `python -m tests.bench NAME ...` for some of it (NAMES below).

Nothing here is part of the test suite: a timed test fails on a busy machine and proves nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from importlib import import_module

NAMES = (
    "training",
    "vocabulary",
    "overhead",
    "check",
    "terminal",
    "chart",
    "monitor",
    "table",
    "memory",
    "save",
    "cluster",
    "steps",
    "parts",
    "precision",
    "threads",
    "large",
)


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    if unknown := set(chosen) - set(NAMES):
        raise SystemExit(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    # Else this program alone would be compiled anew at each start: pip has compiled the others.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today()} · {machine} · Python {platform.python_version()}")
    for name in chosen:
        print(f"\n{name}")
        import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
