"""Which checkpoint `auto` takes in a folder: the furthest of its run, judged only as far down as the answer needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import Choice, choose
from engine.checkpoints.scan import Scan, verify
from engine.folder import run_id_of


def settle(found: Scan, refuse: Callable[[Checkpoint], str | None] | None = None) -> tuple[Scan, Choice]:
    """`recommend`, with as much judged as the answer needs: from the furthest down to the first that can be continued.

    The answer is the one that judging all would give, since whatever is further along than the chosen one has been judged.
    """
    while True:
        choice = recommend(found, partial(_against_judged, found.unverified, refuse))
        if choice.checkpoint is None or choice.checkpoint.name not in found.unverified:
            return found, choice
        found = verify(found, choice.checkpoint.name)


def _against_judged(
    unjudged: frozenset[str], refuse: Callable[[Checkpoint], str | None] | None, candidate: Checkpoint
) -> str | None:
    """Only what has been judged can be refused."""
    return None if refuse is None or candidate.name in unjudged else refuse(candidate)


def recommend(found: Scan, refuse: Callable[[Checkpoint], str | None] | None = None) -> Choice:
    """What `auto` takes and `check` recommends: the furthest of the run that the folder belongs to by its run.toml.

    A folder whose run has no checkpoint (or without run.toml) belongs to none; then all of them are candidates.
    """
    own = run_id_of(found.output_dir)
    if own is not None and not any(checkpoint.run == own for checkpoint in found.checkpoints):
        own = None
    return choose(found.checkpoints, run=own, refuse=refuse)
