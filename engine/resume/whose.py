"""Whether a checkpoint belongs to the run whose run.toml stands beside it. Folders hold several runs (lineage.py), and that file is of
one of them: another's checkpoint has other settings, and goes on elsewhere."""

from __future__ import annotations

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.scan import glance
from engine.folder import FINAL, run_id_of, source_of_run
from engine.sources import Source


def is_of_run_beside(checkpoint: Checkpoint) -> bool:
    """Whether it is of the run of its folder; also where the folder names none. Another tool's is, where that run went on from it, as
    its losses tell, or has saved nothing yet: it may just have begun there."""
    folder = checkpoint.path.resolve().parent
    run = run_id_of(folder)
    if run is None:
        return True
    if checkpoint.manifest is not None:
        return checkpoint.manifest.run_id == run
    if checkpoint.path.resolve().name == FINAL:  # how that run ended
        return True
    found = glance(folder).checkpoints
    saved = any(one.manifest is not None and one.manifest.run_id == run for one in found)
    return not saved or any(one.name == checkpoint.name and one.run == run for one in found)


def settings_beside(checkpoint: Checkpoint) -> Source | None:
    """What its run was started with; None where no run.toml of it is there. Raises ConfigError for a damaged one."""
    own = source_of_run(checkpoint.path.resolve().parent)
    return own if own is not None and is_of_run_beside(checkpoint) else None
