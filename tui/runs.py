"""`lora-tui runs [ROOT]`: what runs and what ended under a folder, how and where. The engine finds out (engine/watch.py); here it is
printed, as a table or as JSON."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.clock import moment
from engine.errors import ConfigError
from engine.folder import OUT_ROOT
from engine.i18n import _
from engine.sizes import loss_words
from engine.watch import Standing, runs_under
from tui import breaking
from tui.event_text import stop_words
from tui.plain import visible

WIDE = 120
"""Columns from which on the runs are a table, and below which each has two lines."""
STYLES = {"running": "bold green", "failed": "red", "died": "bold red", "stopped": "yellow", "empty": "dim"}


def run_runs(named: Path | None, as_json: bool) -> int:
    """Print the runs under the folder that was `named`, else under ./out; 0. Raises ConfigError where there is no such folder: a
    named one must be there, ./out comes with the first run."""
    root = named if named is not None else OUT_ROOT
    try:
        found = runs_under(root) if named is not None or os.path.lexists(root) else []
    except OSError as error:
        raise ConfigError(_("{folder}: cannot be listed").format(folder=root), error.strerror or str(error)) from error
    if as_json:
        document = {"schema": 1, "root": str(root), "runs": [_record(one) for one in found]}
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    elif found:
        _print(found)
    else:
        sys.stdout.write(visible(_("there is no run under {root}").format(root=root)) + "\n")
        if named is None:
            sys.stdout.write(_("Runs that lie elsewhere: lora-tui runs ROOT") + "\n")
    return 0


def _record(one: Standing) -> dict[str, Any]:
    fields = asdict(one)
    fields.pop("folder"), fields.pop("holder")
    holder = asdict(one.holder) if one.holder is not None else None
    return {"name": one.folder.name or str(one.folder), "path": str(one.folder), **fields, "holder": holder}


def _print(found: list[Standing]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = breaking.console()
    if console.width < WIDE:  # beside so much a name would have no room
        for one in found:
            console.print(Text(visible(str(one.folder)), style="bold"), soft_wrap=True)
            console.print(
                Text(visible("  " + " · ".join(standing_words(one))), style=STYLES.get(one.state, "")), soft_wrap=True
            )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(_("run"), overflow="fold")
    table.add_column(_("state"), no_wrap=True)
    for title in (_("step"), _("epoch"), _("loss")):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(_("last word"), no_wrap=True)
    table.add_column(_("how and where"), overflow="fold")
    for one in found:
        cells = (
            str(one.folder),
            state_words(one),
            _step(one),
            f"{one.epoch:.2f}" if one.epoch is not None else "-",
            loss_words(one.loss),
            _moment(one.told),
            _why(one),
        )
        table.add_row(*(Text(visible(cell)) for cell in cells), style=STYLES.get(one.state, ""))
    console.print(table)


def standing_words(one: Standing) -> list[str]:
    """How it stands, what is not known left out."""
    words = [state_words(one)]
    if one.step is not None:
        words.append(_("step {step}").format(step=_step(one)))
    if one.epoch is not None:
        words.append(_("epoch {epoch:.2f}").format(epoch=one.epoch))
    if one.loss is not None:
        words.append(_("loss {loss}").format(loss=loss_words(one.loss)))
    return [*words, *(part for part in (_moment(one.told) if one.told is not None else "", _why(one)) if part)]


def _step(one: Standing) -> str:
    return f"{one.step if one.step is not None else '-'}/{one.total_steps if one.total_steps is not None else '-'}"


def state_words(one: Standing) -> str:
    """How it stands, in a word or two."""
    return {
        "running": _("running"),
        "finished": _("finished"),
        "stopped": _("stopped"),
        "failed": _("failed"),
        "died": _("died without a word"),
        "empty": _("nothing told"),
    }[one.state]


def _why(one: Standing) -> str:
    if one.holder is not None:
        return _("process {pid} on {host}").format(pid=one.holder.pid, host=one.holder.host)
    how = stop_words(one.why)
    if one.state == "failed":
        how = _("exit code {code}").format(code=one.exit_code) + f" · {one.why}"
    elsewhere = one.host is not None and one.host != socket.gethostname()
    return " · ".join(part for part in (how, _("on {host}").format(host=one.host) if elsewhere else "") if part)


def _moment(seconds: float | None) -> str:
    told = moment(seconds)
    return told.isoformat(sep=" ", timespec="seconds") if told is not None else "-"
