"""An output folder before a run: whether it can be written to, what lies there, and what would be continued."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from engine.checkpoints.choose import Choice
from engine.checkpoints.scan import Scan, glance
from engine.config import RunConfig
from engine.errors import LoraTuiError
from engine.folder import Place, look_at
from engine.lock import is_held
from engine.resume.recommend import settle, settle_for
from engine.resume.unfit import need_own_folder


@dataclass(frozen=True)
class Seen:
    """An output folder and what is in it."""

    place: Place
    found: Scan | None
    """None: it is not there yet, or no run can go there."""
    choice: Choice | None
    """None: it holds no checkpoint."""
    held: bool = False
    """Whether a run is at work in it."""


def see(folder: Path, config: RunConfig | None = None) -> Seen:
    """Look at an output folder. `config`: of the run that is to go on there, where it is known already. Raises ConfigError where it
    cannot be looked through."""
    place = look_at(folder)
    if place.problem is None:
        try:
            need_own_folder(folder, config)
        except LoraTuiError as error:
            place = replace(place, problem=error)
    if place.problem is not None or not folder.is_dir():
        return Seen(place, None, None)
    found, held = glance(folder), is_held(folder)
    if not found.checkpoints:
        return Seen(place, found, None, held)
    return Seen(place, *(settle(found) if config is None else settle_for(found, config)), held)
