"""`lora-tui watch [OUT]`: the training screen on any run, at work or ended; without a terminal, the same as lines or JSON.

The run is looked at through its folder (engine/watch.py), so it may be anybody's: another terminal's, a detached one, one on another
machine that shares the folder. Leaving costs the run nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.events import RunFailed
from engine.folder import OUT_ROOT, last_run
from engine.i18n import _
from engine.paths import is_file, is_folder
from engine.submit import beside
from engine.watch import LOOK, Told, follow, is_run
from tui.plain import visible
from tui.show import Show
from tui.streams import duplicate


def run_watch(out: Path | None, *, read_only: bool, as_json: bool) -> int:
    """Watch the run in `out` until it ends or the person leaves; the exit code: 0, or that of a run that failed (1: it died without a
    word). One that a batch script beside its folder is to begin is waited for. Raises ConfigError where there is no run."""
    folder = out if out is not None else last_run()
    if folder is None:
        raise ConfigError(
            _("there is no run under {root}").format(root=OUT_ROOT), fix=_("Name its folder: lora-tui watch OUT")
        )
    if not is_run(folder) and is_file(beside(folder)):
        _await(folder)
    if not is_run(folder):
        words = _("{folder}: no run was begun here") if is_folder(folder) else _("{folder}: there is no such folder")
        raise ConfigError(words.format(folder=folder), fix=_("lora-tui runs ROOT lists what there is."))
    if not as_json and sys.stdin.isatty() and sys.stderr.isatty():
        from tui.watcher import run_watcher

        return run_watcher(folder, read_only)
    return _lines(folder, as_json)


def _await(folder: Path) -> None:
    """Come back once the run in `folder` has begun: its job may stand in the cluster's queue for hours. Or once its script is gone."""
    words = _("{folder}: not begun yet; waiting for the job of {script} (Ctrl-C leaves)")
    sys.stderr.write(visible(words.format(folder=folder, script=beside(folder))) + "\n")
    while not is_run(folder) and is_file(beside(folder)):
        time.sleep(LOOK)


def _lines(folder: Path, as_json: bool) -> int:
    with Show(duplicate(2 if as_json else 1)) as show:

        def tell(batch: Sequence[Told]) -> None:
            attempt = max(int(record.get("attempt") or 0) for _event, record in batch)
            for event, record in batch:
                if as_json:
                    with contextlib.suppress(ValueError):  # a number that JSON does not know: no run of ours wrote that
                        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
                elif record.get("attempt") in (attempt, 0):
                    show.event(event)
            sys.stdout.flush()

        ended = follow(folder, tell, lambda: False)
    return ended.exit_code if isinstance(ended, RunFailed) else 0
