"""Which checkpoint `auto` takes in a folder: the furthest of its run, judged only as far down as the answer needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import EQUALLY_FAR, Choice, choose, distance
from engine.checkpoints.scan import Scan, verify
from engine.config import RunConfig
from engine.errors import CannotContinue, LoraTuiError
from engine.folder import run_id_of
from engine.i18n import _, sentences
from engine.resume.asked import ways_on
from engine.resume.contradictions import base_was_changed, contradiction
from engine.resume.off_path import off_path_words


def settle(found: Scan, refuse: Callable[[Checkpoint], str | None] | None = None) -> tuple[Scan, Choice]:
    """`recommend`, with as much judged as the answer needs: from the furthest down to the first that can be continued.

    The answer is the one that judging all would give, since whatever is as far along as the chosen one, or further, has been judged.
    """
    while True:
        choice = recommend(found, partial(_against_judged, found.unverified, refuse))
        if choice.checkpoint is None:
            return found, choice
        far = distance(choice.checkpoint)[:EQUALLY_FAR]
        unjudged = [
            one.name for one in found.checkpoints if one.name in found.unverified and distance(one)[:EQUALLY_FAR] == far
        ]
        if not unjudged:
            return found, choice
        for name in unjudged:
            found = verify(found, name)


def settle_over_rows(
    found: Scan, config: RunConfig, refuse: Callable[[Checkpoint], str | None] = lambda one: None
) -> tuple[Scan, Choice]:
    """`settle` for a run over the dataset of `config`. One whose steps an epoch its rows do not make gives way to one that fits:
    folders hold runs over other datasets. Where none fits, rows may have been packed or held back; that is told as a changed batch
    geometry."""
    from engine.data.dataset import read_dataset
    from engine.resume.logged import misfit

    refuse = _once(refuse)

    @cache
    def rows() -> int | None:
        try:
            return len(read_dataset(config).train)
        except LoraTuiError:  # told by whoever needs them
            return None

    def against(candidate: Checkpoint) -> str | None:
        if (why := refuse(candidate)) is not None or candidate.manifest is not None or config.dataset is None:
            return why
        count = rows()
        return misfit(candidate, count) if count is not None else None

    scanned, choice = settle(found, _once(against))
    return (scanned, choice) if choice.checkpoint is not None else settle(scanned, refuse)


def settle_for(found: Scan, config: RunConfig) -> tuple[Scan, Choice]:
    """What `auto` takes of `found` for a run with `config`."""
    return settle_over_rows(found, config, lambda candidate: contradiction(candidate, config))


def need_choice(found: Scan, config: RunConfig) -> Choice:
    """`settle_for`'s choice. Raises CannotContinue where there is none: never a silent new start."""
    found, choice = settle_for(found, config)
    if choice.checkpoint is None:
        raise _nothing_to_continue(found, choice, config)
    return replace(choice, reason=choice.reason + _misnamed(found, choice.checkpoint))


def need_one_to_continue(found: Scan) -> None:
    """Raise CannotContinue where there are checkpoints and all of them are damaged, whatever run is asked for."""
    if found.checkpoints:
        found, choice = settle(found)
        if choice.checkpoint is None:
            raise _nothing_to_continue(found, choice, None)


def _misnamed(found: Scan, chosen: Checkpoint) -> str:
    """Names that promise more than the chosen one and do not keep it: whoever goes by the number would take them."""
    odd = [
        f" {one.name}: {problem.message}"
        for one in found.checkpoints
        for problem in one.problems
        if problem.code == "step_mismatch" and one.name != chosen.name
    ]
    return "".join(odd[:3])


def _nothing_to_continue(found: Scan, choice: Choice, config: RunConfig | None) -> CannotContinue:
    """Either the settings speak against what is there, or what is there is damaged."""
    told = "\n".join(f"{passed.checkpoint.name}: {passed.reason}" for passed in choice.passed_over)
    as_it_was = settle(found)[1].checkpoint
    if as_it_was is None:
        return CannotContinue(
            _("{folder}: none of its checkpoints can be continued").format(folder=found.output_dir),
            told,
            ways_on(found.checkpoints),
        )
    if config is not None and base_was_changed(as_it_was, config):
        return CannotContinue(
            _("{folder}: the base model is no longer what was trained there").format(folder=found.output_dir),
            told,
            _("Bring the files of {model} back as they were, or begin a new run with --resume never.").format(
                model=config.model
            ),
        )
    return CannotContinue(
        _("{folder}: these settings contradict what was trained there").format(folder=found.output_dir),
        told,
        _("Leave the setting out to go on from {name} as it was started, or begin a new run with --resume never.").format(
            name=as_it_was.name
        ),
    )


def _once(refuse: Callable[[Checkpoint], str | None]) -> Callable[[Checkpoint], str | None]:
    """`refuse`, asked but once of each checkpoint that was judged: for each one more that is, all of them are gone through again, and
    to hold a base model against what was saved takes its files."""
    told: dict[Path, str | None] = {}

    def asked(candidate: Checkpoint) -> str | None:
        if candidate.path not in told:
            told[candidate.path] = refuse(candidate)
        return told[candidate.path]

    return asked


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
    choice = choose(found.checkpoints, run=own, refuse=refuse)
    if choice.checkpoint is None or choice.checkpoint.name in found.unverified:
        return choice
    return replace(choice, reason=sentences(choice.reason, off_path_words(choice.checkpoint, found.checkpoints)))
