"""A checkpoint that somebody named: whether it is one, whether it can be gone on from, and whether it is the furthest of its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import base_fallback, can_be_mended, choose, weights_fallback
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.scan import Scan, glance, verify
from engine.config import RunConfig
from engine.errors import CannotContinue
from engine.folder import RUN_TOML
from engine.i18n import _
from engine.paths import as_argument, is_file, is_folder, with_its_name
from engine.resume.contradictions import contradiction


def asked_for(config: RunConfig, path: Path) -> tuple[Checkpoint, bool]:
    """The checkpoint at `path`, with the run it belongs to, and whether it is the furthest of it. Raises CannotContinue."""
    checkpoint = inspected(path)
    need_continuable(checkpoint)
    against = contradiction(checkpoint, config)
    if against:
        raise CannotContinue(
            _("{path}: cannot be continued with these settings").format(path=path),
            against,
            _("Leave the setting out to go on as it was started, or begin a new run with --resume never."),
        )
    found = glance(checkpoint.path.parent)
    run = next((other.run for other in found.checkpoints if other.name == checkpoint.name), checkpoint.run)
    furthest = _furthest_of(found, run)
    return replace(checkpoint, run=run), furthest is not None and furthest.name == checkpoint.name


def _furthest_of(found: Scan, run: str) -> Checkpoint | None:
    while True:
        furthest = choose(found.checkpoints, run=run).checkpoint
        if furthest is None or furthest.name not in found.unverified:
            return furthest
        found = verify(found, furthest.name)


def need_checkpoint(path: Path, output: str | None = None) -> None:
    """Raise CannotContinue where `path` is no folder, or that of a whole run. `output`: the folder of the run, where one is named; a
    checkpoint's bare name is easily taken for one in there."""
    if not is_folder(path):
        fix = _("lora-tui check FOLDER lists what is there.")
        if output is not None and is_folder(Path(output) / path):
            fix = _("Did you mean {path}?").format(path=Path(output) / path)
        raise CannotContinue(_("{path}: there is no such checkpoint").format(path=path), fix=fix)
    if is_file(path / RUN_TOML):
        raise CannotContinue(
            _("{path}: is the folder of a run, not a checkpoint").format(path=path),
            fix=_(
                "Go on with that run by --output {path}, or name one of its checkpoints; lora-tui check lists them."
            ).format(path=path),
        )


def inspected(path: Path) -> Checkpoint:
    """The checkpoint at `path`, judged. Raises CannotContinue where there is none."""
    need_checkpoint(path)
    return inspect_folder(with_its_name(path))


def need_continuable(checkpoint: Checkpoint) -> None:
    """Raise CannotContinue, with what is wrong and the ways on, where it is not."""
    if not checkpoint.continuable:
        raise CannotContinue(
            _("{path}: cannot be continued").format(path=checkpoint.path), problems_of(checkpoint), ways_on((checkpoint,))
        )


def problems_of(checkpoint: Checkpoint) -> str:
    """What is wrong with it, a line each."""
    return "\n".join(problem.message for problem in checkpoint.problems)


def ways_on(checkpoints: tuple[Checkpoint, ...]) -> str:
    """What a person can do where none of them can be gone on from."""
    weights = weights_fallback(checkpoints)
    base = base_fallback(checkpoints)
    ways = [_("mend or restore the checkpoint's files and try again")] if can_be_mended(checkpoints) else []
    if weights is not None:
        ways.append(_("start a new run from sound weights: --init-from {path}").format(path=as_argument(weights.path)))
    if base is not None:
        ways.append(
            _("take the whole model as the base of a new run: --model {path}, with another --output").format(
                path=as_argument(base.path)
            )
        )
    ways.append(_("start fresh in a new folder: --resume never"))
    return _("Ways on: {ways}.").format(ways="; ".join(ways))
