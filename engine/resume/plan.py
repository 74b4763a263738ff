"""What a run will do before anything is loaded: start fresh, continue, take over weights, or say that it is done.

The plan is data: the headless printer prints it, a screen shows it, `--dry-run` stops at it, a test compares it, and the
trainer carries it out. Everything that can be told without torch is told here: which checkpoint and why, what was passed
over, which settings differ from the saved ones and which side wins, how many steps are left and the learning rate after
the join. What contradicts the checkpoint is refused here (exit 3), before minutes go into loading a model.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from engine.checkpoints.adapter import NOT_TRAINED
from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.choose import Choice, PassedOver
from engine.checkpoints.manifest import Manifest
from engine.checkpoints.scan import EXACT, Scan, glance
from engine.config import RunConfig
from engine.course.steps import Length, Position
from engine.data.dataset import Dataset
from engine.devices import placed
from engine.errors import CannotContinue, ConfigError
from engine.folder import free_sibling, own_start, proposed_output, run_id_of
from engine.i18n import _, with_fix
from engine.lock import busy, is_held
from engine.models.templates import is_named
from engine.paths import as_argument, is_folder, is_there, rooted
from engine.resume.asked import asked_for, inspected, need_checkpoint, need_continuable, problems_of
from engine.resume.contradictions import contradiction
from engine.resume.differences import Difference
from engine.resume.needs import need_answers, need_no_output_layer, need_what_is_named
from engine.resume.off_path import off_path_words
from engine.resume.onwards import onwards
from engine.resume.recommend import need_choice, need_one_to_continue
from engine.resume.unfit import need_own_folder
from engine.resume.whose import is_of_run_beside
from engine.sources import Resolved


@dataclass(frozen=True)
class ResumePlan:
    """What will be done, decided."""

    mode: Literal["fresh", "continue", "weights", "complete"]
    """fresh: from nothing; continue: everything is restored; weights: a new run from an adapter; complete: nothing is left."""
    config: RunConfig
    """The configuration the run will have: what was asked, with the saved side where that wins, and the output named."""
    output_dir: Path
    run_id: str
    parent: str | None
    """`<run id>/<checkpoint>` where this run branches off another one."""
    checkpoint: Checkpoint | None
    reason: str
    passed_over: tuple[PassedOver, ...] = ()
    differences: tuple[Difference, ...] = ()
    position: Position | None = None
    """Where it goes on; None for a run that begins, or where a checkpoint of another tool does not say."""
    length: Length | None = None
    epochs_left: float | None = None
    """From `position` on, as far as it is known."""
    saved_learning_rate: float | None = None
    """The rate the saved schedule would have gone on with."""
    next_learning_rate: float | None = None
    """The rate of the first step after the join."""
    dataset: Dataset | None = field(default=None, repr=False, compare=False)
    """The rows, where they were read to compare them; the run takes them from here."""
    reached: bool = False
    """Whether it is complete for its loss alone (--stop-at-loss)."""

    @property
    def done_by(self) -> Literal["epochs", "max_steps", "stop_at_loss"] | None:
        """The setting by which nothing is left: with another value it goes on. None where something is left."""
        if self.mode != "complete":
            return None
        if self.reached:
            return "stop_at_loss"
        return "epochs" if self.config.max_steps is None else "max_steps"

    @property
    def refused(self) -> bool:
        """Whether it is known already that the receipt will refuse this run as it is asked for."""
        return any(difference.winner == "neither" for difference in self.differences)

    @property
    def saved_precision(self) -> str | None:
        """The number format that the run which goes on was trained in; None where none goes on, or it does not say."""
        return self._saved.precision if self._saved is not None else None

    @property
    def saved_batch_size(self) -> int | None:
        """The rows at a time that it was trained with last; None as above."""
        return self._saved.geometry.batch_size if self._saved is not None else None

    @property
    def _saved(self) -> Manifest | None:
        return self.checkpoint.manifest if self.checkpoint is not None and self.mode == "continue" else None


def plan_run(resolved: Resolved, found: Scan | None = None) -> ResumePlan:
    """Decide what a run with these answers does. `found`: a scan of its folder, where one was just made.

    Raises ConfigError (2) where an answer is missing, CannotContinue (3) where no checkpoint can be continued as asked, ModelError or
    DatasetError (4) where what a setting names is not in the model, or is no dataset, OutputError (5) where no run can go there.
    """
    plan = _planned(resolved, found)
    need_what_is_named(plan.config, plan.mode)
    return plan


def _planned(resolved: Resolved, found: Scan | None) -> ResumePlan:
    resolved = replace(resolved, config=placed(_rooted(resolved.config)))
    config = resolved.config
    named = Path(config.resume) if config.resume not in ("auto", "never") else None
    _need_one_beginning(config, named)
    if config.dataset is None or config.model is None:
        _need_nobody_at_work(config)
        need_answers(resolved, _begun_in(config, named, found))
    if resolved.asked("target_modules"):
        need_no_output_layer(config)
    assert config.dataset is not None and config.model is not None
    asked = Path(config.output) if config.output else None
    if named is not None:
        if asked is not None:  # else it goes where the checkpoint lies, or beside that
            need_own_folder(asked, config)
        return _from_path(resolved, asked, named)
    output_dir = asked or proposed_output(config.dataset, config.model)
    need_own_folder(output_dir, config)
    if config.init_from is not None:
        return _weights_plan(config, free_sibling(output_dir), Path(config.init_from), new_run_id())
    if config.resume == "never":
        return _fresh(config, free_sibling(output_dir), _("as asked"))
    return _from_folder(resolved, output_dir, found)


def _need_one_beginning(config: RunConfig, named: Path | None) -> None:
    """Raise ConfigError where two are named, CannotContinue where what is `named` is no checkpoint."""
    if config.init_from is not None and named is not None:
        raise ConfigError(
            _("--resume PATH and --init-from exclude each other"),
            fix=_("--resume continues a run; --init-from starts a new one from its weights."),
        )
    for path in (config.init_from, named):
        if path is not None:
            need_checkpoint(Path(path), config.output)


def _need_nobody_at_work(config: RunConfig) -> None:
    """Raise OutputError where the run that would go on is just beginning: what it was started with is not in its folder yet, and to
    name that is not what is missing."""
    goes_on = config.resume == "auto" and config.init_from is None and config.node_rank == 0
    if goes_on and config.output is not None and is_held(Path(config.output)):
        raise busy(Path(config.output))


def _begun_in(config: RunConfig, named: Path | None, found: Scan | None) -> Path | None:
    """Of answers without a dataset or model: the folder of the run of ours that would go on, if one would. Raises CannotContinue where
    nothing can: that is told before what is missing, since a sound run may have told it."""
    if config.init_from is not None:
        _weights_of(Path(config.init_from))
    elif named is not None:
        need_continuable(inspected(named))
    elif config.resume == "auto" and config.output is not None and is_folder(Path(config.output)):
        found = found or glance(Path(config.output))
        need_one_to_continue(found)
        return found.output_dir if any(one.manifest is not None for one in found.checkpoints) else None
    return None


def _from_folder(resolved: Resolved, output_dir: Path, found: Scan | None) -> ResumePlan:
    """The plan of `auto`: the run in `output_dir` goes on, or begins there."""
    config = resolved.config
    if not is_folder(output_dir):
        return _fresh(config, output_dir, _("nothing is there yet"))
    found = found if found is not None and found.output_dir == output_dir else glance(output_dir)
    if not found.checkpoints:
        begun = _begun_from(resolved, output_dir)
        return begun or _fresh(config, output_dir, _("no checkpoint is there yet"), run_id_of(output_dir))
    choice = need_choice(found, config)
    assert choice.checkpoint is not None
    run_id = run_id_of(output_dir) or _id_of(choice.checkpoint)
    return _continue(resolved, output_dir, run_id, None, choice)


def _rooted(config: RunConfig) -> RunConfig:
    """Local paths made absolute, so that run.toml and the adapter's own configuration hold from any folder."""
    local = {
        name: str(rooted(Path(value)))
        for name in ("dataset", "model", "eval_dataset", "chat_template")
        if (value := getattr(config, name)) is not None
        and is_there(Path(value))
        and not (name == "eval_dataset" and value.isidentifier())  # a bare name is a split, whatever lies here
        and not (name == "chat_template" and is_named(value))
    }
    return config.model_copy(update=local)


def _fresh(config: RunConfig, output_dir: Path, reason: str, run_id: str | None = None) -> ResumePlan:
    return ResumePlan("fresh", _at(config, output_dir), output_dir, run_id or new_run_id(), None, None, reason)


def _begun_from(resolved: Resolved, output_dir: Path) -> ResumePlan | None:
    """The plan of the run in `output_dir` where it began from another's checkpoint and ended before it had saved one of its own: begin
    there once more. To start fresh would silently be another run."""
    own = own_start(output_dir)
    if own is None:
        return None
    run_id = run_id_of(output_dir) or new_run_id()
    if own.init_from is not None:
        _need_source(output_dir, Path(own.init_from))
        return _weights_plan(resolved.config, output_dir, Path(own.init_from), run_id)
    if own.resume not in ("auto", "never") and Path(own.resume).parent.resolve() != output_dir.resolve():
        _need_source(output_dir, Path(own.resume))
        began_at, _furthest = asked_for(resolved.config, Path(own.resume))
        reason = _("the run in {folder} began from it and had saved nothing yet").format(folder=output_dir)
        resolved = replace(resolved, config=resolved.config.model_copy(update={"resume": own.resume}))
        return _continue(resolved, output_dir, run_id, f"{began_at.run}/{began_at.name}", _as_asked(began_at, reason))
    return None


def _need_source(output_dir: Path, path: Path) -> None:
    if not is_folder(path):
        raise CannotContinue(
            _("{folder}: its run began from {path} and had saved nothing yet, and that is no longer there").format(
                folder=output_dir, path=path
            ),
            fix=_("Ways on: {ways}.").format(
                ways="; ".join(
                    (
                        _("bring it back"),
                        _("start a new run from sound weights: --init-from {path}").format(path="PATH"),
                        _("start fresh in a new folder: --resume never"),
                    )
                )
            ),
        )


def _weights_of(path: Path) -> Checkpoint:
    """The checkpoint at `path`. Raises CannotContinue where its adapter is not sound."""
    checkpoint = inspected(path)
    if checkpoint.grade is Grade.BROKEN or checkpoint.adapter is None:
        raise CannotContinue(
            _("{path}: holds no sound adapter").format(path=path),
            problems_of(checkpoint),
            _("Choose another checkpoint; lora-tui check {folder} lists them.").format(folder=as_argument(path.parent)),
        )
    return checkpoint


def _weights_plan(config: RunConfig, output_dir: Path, path: Path, run_id: str) -> ResumePlan:
    checkpoint = _weights_of(path)
    unfit = (problem.message for problem in checkpoint.problems if problem.code in NOT_TRAINED)
    against = next(unfit, None) or contradiction(checkpoint, config)
    if against:
        raise CannotContinue(_("{path}: cannot start this run from its weights").format(path=path), against)
    return ResumePlan(
        mode="weights",
        config=_at(config, output_dir).model_copy(update={"init_from": str(rooted(checkpoint.path))}),
        output_dir=output_dir,
        run_id=run_id,
        parent=f"{checkpoint.run}/{checkpoint.name}",
        checkpoint=checkpoint,
        reason=_("a new run from these weights, as asked"),
    )


def _from_path(resolved: Resolved, asked: Path | None, path: Path) -> ResumePlan:
    checkpoint, furthest = asked_for(resolved.config, path)
    here = checkpoint.path.parent
    # A copy under another name lies anywhere; beside that no run has its place.
    beside = (
        here
        if EXACT.fullmatch(checkpoint.name)
        else proposed_output(str(resolved.config.dataset), str(resolved.config.model))
    )
    resolved = replace(resolved, config=resolved.config.model_copy(update={"resume": str(rooted(checkpoint.path))}))
    own = is_of_run_beside(checkpoint)
    if furthest and own and (asked is None or asked.resolve() == here.resolve()):
        choice = _as_asked(checkpoint, _("as asked; it is the furthest of its run"))
        output_dir = asked or here
        return _continue(resolved, output_dir, run_id_of(output_dir) or _id_of(checkpoint), None, choice)
    output_dir = free_sibling(asked or beside)
    words = _("as asked; the run branches off here into {folder}")
    if furthest and not own:
        words = _("as asked; the folder it lies in is another run's, so it goes on in {folder}")
    choice = _as_asked(checkpoint, words.format(folder=output_dir))
    branch = _continue(resolved, output_dir, new_run_id(), f"{checkpoint.run}/{checkpoint.name}", choice)
    if branch.mode == "complete":  # its folder would hold a result and no run
        raise CannotContinue(
            _("{path}: nothing is left to train from it").format(path=checkpoint.path),
            _("It stands at epoch {epoch:.2f}, step {step}, and that is all that is asked for.").format(
                epoch=checkpoint.epoch or 0.0, step=checkpoint.step
            ),
            _("Name a larger --epochs (or --max-steps) to go on from it."),
        )
    return branch


def _as_asked(checkpoint: Checkpoint, reason: str) -> Choice:
    return Choice(checkpoint, " · ".join(filter(None, (reason, off_path_words(checkpoint)))), ())


def _continue(resolved: Resolved, output_dir: Path, run_id: str, parent: str | None, choice: Choice) -> ResumePlan:
    checkpoint = choice.checkpoint
    assert checkpoint is not None
    ahead = onwards(replace(resolved, config=_at(resolved.config, output_dir)), checkpoint)
    if ahead.complete:
        _need_same(output_dir, ahead.differences)
    return ResumePlan(
        mode="complete" if ahead.complete else "continue",
        config=ahead.config,
        output_dir=output_dir,
        run_id=run_id,
        parent=parent,
        checkpoint=checkpoint,
        reason=choice.reason,
        passed_over=choice.passed_over,
        differences=ahead.differences,
        position=ahead.position,
        length=ahead.length,
        epochs_left=ahead.epochs_left,
        saved_learning_rate=ahead.saved_learning_rate,
        next_learning_rate=ahead.next_learning_rate,
        dataset=ahead.dataset,
        reached=ahead.reached,
    )


def _need_same(output_dir: Path, differences: tuple[Difference, ...]) -> None:
    """Raise CannotContinue where a finished run is asked for with other rows than its own: no receipt will say so."""
    against = [one for one in differences if one.winner == "neither"]
    if against:
        raise CannotContinue(
            _("{folder}: its run is complete, and was another one").format(folder=output_dir),
            "\n".join(with_fix(f"{one.item}: {one.saved} → {one.asked}", one.reason) for one in against),
            _("Leave the setting out to see what the run came to, or begin a new one with --resume never."),
        )


def roll_back(plan: ResumePlan, good: str | None) -> ResumePlan:
    """What a run does after its loss left its path: go on from `good`, a checkpoint in its folder, with half the learning rate;
    without one go back to where `plan` began. Raises CannotContinue where that checkpoint is no longer sound, or there."""
    config = plan.config.model_copy(update={"learning_rate": plan.config.learning_rate / 2})
    reason = _("the last good one before the loss left its path")
    if good is not None:
        path, run, parent = plan.output_dir / good, plan.run_id, None
    elif plan.mode == "continue" and plan.checkpoint is not None:
        path, run, parent = plan.checkpoint.path, plan.checkpoint.run, plan.parent
    else:
        return replace(plan, config=config)
    checkpoint = replace(inspected(path), run=run)
    need_continuable(checkpoint)
    return _continue(Resolved(config, {}), plan.output_dir, plan.run_id, parent, Choice(checkpoint, reason, ()))


def resumed(plan: ResumePlan) -> ResumePlan:
    """`plan` after all its processes were lost: from the furthest that the run has saved since, or once more from where it began.
    Raises CannotContinue."""
    saved = [one for one in glance(plan.output_dir).checkpoints if one.manifest is not None and one.run == plan.run_id]
    if not saved:
        return plan
    config = plan.config.model_copy(update={"resume": "auto", "init_from": None, "output": str(plan.output_dir)})
    return plan_run(Resolved(config, {}))


def _at(config: RunConfig, output_dir: Path) -> RunConfig:
    return config.model_copy(update={"output": str(output_dir)})


def _id_of(checkpoint: Checkpoint) -> str:
    """The id of the run that goes on from it: its own where it was recorded. What lineage calls one is good for a list, and every
    folder has its run-1."""
    return checkpoint.run if checkpoint.manifest is not None else new_run_id()


def new_run_id() -> str:
    """An id for a run: 12 random hexadecimal digits."""
    return uuid.uuid4().hex[:12]
