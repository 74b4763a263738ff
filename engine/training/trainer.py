"""Carries out a plan: one blocking call from the lock on the folder to the final adapter.

It reads top to bottom as a run goes: hold the folder, read the data, check what can be checked without the model, load, check
what was loaded, train, finish. Everything that happens is told twice, to the Journal and to `emit`; nothing is printed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from engine.checkpoints.commit import sweep
from engine.config import RunConfig
from engine.course.steps import warmup_note
from engine.errors import ConfigError, DatasetError, LoraTuiError, ModelError, first_line
from engine.events import LOSS_JUMPED, RolledBack, RowsTokenised, RunStarted, RunStopped, Warned
from engine.extras import need_extras
from engine.folder import RUN_LOG, RUN_TOML, TRASH, need_plain_trash, write_run_toml
from engine.hardware import prepare_process
from engine.i18n import _
from engine.journal import Journal
from engine.lock import locked, stop_asked
from engine.paths import is_folder, is_there
from engine.resume.meanwhile import need_as_planned
from engine.resume.plan import ResumePlan, resumed, roll_back
from engine.resume.receipt import Item, Receipt, accepted, check_material, versions_item
from engine.training.attempt import Attempt, CountedOtherTokens, Outcome, ShouldStop
from engine.training.deciding import decide
from engine.training.facts import facts_of_plan, versions
from engine.training.fitting import is_out_of_memory, let_go, replanned, smaller, used_up
from engine.training.library_output import library_output_to
from engine.training.material import Material, load_material
from engine.training.ranks import Ranks
from engine.training.refused import refused
from engine.training.session import Session
from engine.training.telling import Emit, Telling
from engine.training.trackers import tracked

ROLLBACKS = 3
"""After so many, the cause is not the learning rate."""


class Trainer:
    """One run, as planned. Used once."""

    def __init__(self, plan: ResumePlan) -> None:
        """`plan`: fresh, continue or weights; a complete one has nothing to run."""
        assert plan.mode != "complete", "a finished run has nothing left to train"
        self.plan = plan
        """As it stands: another attempt is planned anew."""
        self.ranks = Ranks.of_environment(self.config.world)
        self._tell = Telling(lambda event, record: None)
        self._attempt: Attempt | None = None
        """The one that is under way."""
        self._notes: list[Warned] = []
        """What is to be told once there is a Journal."""
        self._automatic = plan.config.batch_size == "auto"

    @property
    def config(self) -> RunConfig:
        """What the plan of now says."""
        return self.plan.config

    def run(self, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Train. Blocks until all steps are done or `should_stop` gives a reason, and a checkpoint is saved then.

        Raises LoraTuiError with the exit code of the contract; whatever else escapes is a fault and told as run_failed. As one of
        several processes it raises PeerLost where another of them is gone: nothing of this run can go on then but all of it.
        """
        prepare_process()
        if not self.ranks.first:
            return self._follow(emit, should_stop)
        self._tell = Telling(emit)
        out = self.plan.output_dir
        with (
            self._tell.ends(out, self.ranks, self.config),
            self.ranks.joined(self.config.ddp_timeout),
            locked(out, launcher=self.ranks.launcher) as notes,
            self._tell.ends(out, self.ranks, self.config),
            _own_folder(out),
            library_output_to(_log(out)),
            _faults_logged(),
        ):
            need_extras(self.config)
            need_plain_trash(out)
            if not self.ranks.restarts:  # then it is planned anew
                need_as_planned(self.plan)
            self._agree_on_the_plan()
            if self.plan.mode == "complete":  # only its end was lost
                return self._conclude(out)
            swept = sweep(out)
            material = self._material()
            self.ranks.said("material")
            self._tell.journal = Journal(out)
            try:
                for warned in (*notes, *self._notes, *_cut_off(self._tell.journal)):
                    self._tell(warned)
                if swept:
                    self._tell(
                        Warned("swept", _("cleaned up after a run that was cut off: {names}").format(names=", ".join(swept)))
                    )
                for note in material.notes[:20]:
                    self._tell(Warned("data", note))
                with tracked(self.config, self.plan.run_id, out):
                    return self._train(material, self.ranks.agreed(lambda: should_stop() or stop_asked(out)))
            except (LoraTuiError, ConnectionError):  # the other side of a socket is not the output folder
                raise
            except OSError as error:
                raise refused(error, out, self.config) from error

    def _follow(self, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """The same as one of the other processes: what rank 0 has decided, on the rows that are this one's. Only `emit` is told of it,
        without a Journal."""
        self._tell = Telling(emit)
        self.ranks.failed = self._tell.failed
        with self.ranks.joined(self.config.ddp_timeout):
            self._agree_on_the_plan()
            if self.plan.mode == "complete":
                return self._conclude(self.plan.output_dir)
            with library_output_to(_log(self.plan.output_dir)):
                self.ranks.wait_for_first("material")
                try:
                    return self._train(load_material(self.config), self.ranks.agreed(should_stop))
                except Exception:
                    logging.getLogger(__name__).exception("process %d failed", self.ranks.rank)
                    raise

    def _material(self) -> Material:
        """The rows as tokens; how far they have come is told."""
        return load_material(self.config, self.plan.dataset, lambda *done: self._tell(RowsTokenised(*done)))

    def _agree_on_the_plan(self) -> None:
        """Every machine has planned; what rank 0 has planned is done, once it is known that all were asked for the same."""
        if not self.ranks.alone:
            self.ranks.agree(facts_of_plan(self.plan))
        plan = self._planned_anew() if self.ranks.first and self.ranks.restarts else self.plan
        self.plan = replace(
            self.ranks.share(replace(plan, dataset=None)), dataset=plan.dataset if self.ranks.first else None
        )

    def _planned_anew(self) -> ResumePlan:
        """The plan after a restart: from the furthest that was saved, with fewer rows at a time where one could not hold them."""
        found = self.ranks.too_many_before()
        if found is None:
            return resumed(self.plan)
        self._notes.append(_fewer(*found))
        return replanned(self.plan, *found[1:])

    def _conclude(self, out: Path) -> Outcome:
        """Nothing is left to train: all steps had been done when the processes were lost, or what the run went back to after a jump
        has the loss that --stop-at-loss wants. What is missing is made from the checkpoint."""
        from engine.training.complete import conclude

        if not self.ranks.first:
            return Outcome("finished", self.plan.checkpoint.step or 0 if self.plan.checkpoint is not None else 0, None)
        self._tell.journal = self._tell.journal or Journal(out)
        finished = conclude(self.plan, held=True)
        self._tell(finished)
        return Outcome("finished", finished.step, finished.loss)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _attempt_what_fits(self, material: Material, should_stop: ShouldStop) -> Outcome:
        """One attempt; with `--batch-size auto`, again with fewer rows at a time where they do not fit into the memory."""
        while True:
            try:
                return self._once(material, should_stop)
            except Exception as error:
                words = first_line(error)
                if not is_out_of_memory(error):
                    raise
                size, times = (self._attempt.batch_size, self._attempt.config.grad_accum) if self._attempt else (1, 1)
                found = smaller(size, times) if self._automatic else None
                if found is None:
                    longest, hardware = int(material.train.lengths.max()), self._attempt.hardware if self._attempt else None
                    raise used_up(self.config, hardware, size, longest, words) from error
                if not self.ranks.alone:
                    raise self.ranks.too_many(size, *found, words) from error
            # Here the error and all that it held of the failed attempt are gone.
            let_go()
            self._tell(_fewer(size, *found))
            self.plan = replanned(self.plan, *found)

    def _attempt_as_trained(self, material: Material, should_stop: ShouldStop) -> tuple[Outcome, Material]:
        """One attempt, on the tokens that another tool's run was trained on: which those are shows only once the model is loaded. With
        the rows as they became tokens for it."""
        try:
            return self._attempt_what_fits(material, should_stop), material
        except CountedOtherTokens as found:
            train_on, why = found.train_on, found.why
        # Here the exception and all that it held of the model are gone.
        let_go()
        words = _("{why} It goes on with --train-on {train_on}, as it was trained.").format(why=why, train_on=train_on)
        self._tell(Warned("train_on", words))
        self.plan = replace(self.plan, config=self.config.model_copy(update={"train_on": train_on}))
        material = self._material()
        return self._attempt_what_fits(material, should_stop), material

    def _train(self, material: Material, should_stop: ShouldStop) -> Outcome:
        """Attempt after attempt: one, unless the loss leaves its path and --on-jump says to go back (C2 numbers them)."""
        before = self._tell.journal.rolled_back if self._tell.journal is not None else 0
        # Those of an attempt that was killed, or sent again by a cluster, count too.
        for number in range(min(self.ranks.share(before), ROLLBACKS) + 1, ROLLBACKS + 2):
            outcome, material = self._attempt_as_trained(material, should_stop)
            if outcome.state != "jumped":
                return outcome
            if self.config.on_jump == "stop" or number > ROLLBACKS:
                break
            self._go_back(outcome, number)
            if self.plan.mode == "complete":
                return self._conclude(self.plan.output_dir)
        if outcome.set_aside:
            self._tell(Warned("set_aside", _(
                "saved after the loss left its path, and put into {folder} so that nothing goes on from it unasked: {names}").format(
                    folder=TRASH, names=", ".join(outcome.set_aside))))  # fmt: skip
        begun = self.plan.checkpoint if self.plan.mode == "continue" else None
        from_here = begun.name if begun is not None and is_folder(begun.path) else None
        self._tell(RunStopped(outcome.step, outcome.epoch, LOSS_JUMPED, outcome.good or from_here))
        return outcome

    def _go_back(self, outcome: Outcome, number: int) -> None:
        """Plan the next attempt: from the last good checkpoint, or from where this one began, at half the rate."""
        self.plan = self.ranks.share(roll_back(self.plan, outcome.good) if self.ranks.first else None)
        if self.ranks.first:  # a run that is killed now goes on at the rate that is told
            write_run_toml(self.plan.output_dir, self.config, self.plan.run_id)
        checkpoint = self.plan.checkpoint if self.plan.mode in ("continue", "complete") else None
        self._tell(
            RolledBack(
                outcome.step,
                checkpoint.name if checkpoint is not None else None,
                (checkpoint.step or 0) if checkpoint is not None else 0,
                self.config.learning_rate,
                number,
                outcome.set_aside,
            )
        )

    def _once(self, material: Material, should_stop: ShouldStop) -> Outcome:
        plan, self._attempt = self.plan, None
        assert plan.mode != "complete", "nothing is left to train, and to train would be to begin anew"
        attempt = self._attempt = decide(plan, material, self.ranks)
        start, length, rows = attempt.start, attempt.length, len(material.train)
        name = plan.checkpoint.name if plan.checkpoint is not None and plan.mode == "continue" else None
        # Before it is told of: who hears that it began may end it at once.
        written = self.ranks.first and self._write_run_toml_early(attempt)
        self._tell(
            RunStarted(
                plan.run_id,
                str(plan.output_dir),
                name,
                start.step,
                start.epochs(rows),
                length.total_steps,
                length.total_epochs,
                rows,
                material.trained_tokens,
                attempt.choices,
                attempt.config.model_dump(mode="json"),
            )
        )
        if warmup := warmup_note(attempt.config, length.total_steps):
            self._tell(Warned("warmup", warmup))
        early = self._check_early(material)
        if reason := should_stop():
            self._tell(RunStopped(start.step, start.epochs(rows), reason, name))
            return Outcome("stopped", start.step, None)
        session = Session(attempt, early, self.ranks, self._tell, should_stop)
        try:
            return cast(Outcome, self.ranks.share(session.run()))
        except (ConfigError, DatasetError, ModelError):
            if written and plan.mode == "fresh" and not session.all_loaded:
                # Settings that no step was done with are not this run's: the next start would take the wrong one from there.
                (plan.output_dir / RUN_TOML).unlink(missing_ok=True)
            raise

    def _write_run_toml_early(self, attempt: Attempt) -> bool:
        """What is there is replaced once the receipt has passed; where nothing is, a run that is killed before could not be gone on
        with. Returns whether nothing was."""
        out = self.plan.output_dir
        if is_there(out / RUN_TOML):
            return False
        write_run_toml(out, attempt.config, self.plan.run_id)
        return True

    def _check_early(self, material: Material) -> list[Item]:
        """The half of the receipt that needs no model. Refuses at once where an item fails."""
        plan = self.plan
        if plan.mode != "continue" or plan.checkpoint is None:
            return []
        manifest, shape = plan.checkpoint.manifest, plan.checkpoint.adapter
        named = shape.base_model if shape else None
        items = [
            *check_material(manifest, material.identities, material.dataset.train_digests, named),
            versions_item(manifest, versions()),
        ]
        receipt = Receipt(plan.checkpoint.path, accepted(items, self.config.accept))
        if receipt.failed:
            self._tell(receipt.event())
            receipt.refuse()
        return list(receipt.items)


def _fewer(rows: int, fewer: int, times: int) -> Warned:
    words = _("{rows} rows at a time do not fit into the memory; going on with {fewer}, and {times} of them for a step")
    return Warned("batch_size", words.format(rows=rows, fewer=fewer, times=times))


@contextlib.contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    """Leave nothing behind where a run failed before it began: a folder that only we have touched goes again. Of a fault the log
    stays, since what is told of it says to look there."""
    before = {entry.name for entry in out.iterdir()} - {RUN_LOG}
    try:
        yield
    except BaseException as error:
        after = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
        expected = isinstance(error, LoraTuiError | KeyboardInterrupt)
        if expected and not any(not name.startswith(".") for name in before) and after <= before | {RUN_LOG}:
            (out / RUN_LOG).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _faults_logged() -> Iterator[None]:
    """What ends a run and is no error that is told in full stands in run.log with its traceback."""
    try:
        yield
    except LoraTuiError:
        raise
    except Exception:
        logging.getLogger(__name__).exception("the run failed")
        raise


def _log(out: Path) -> Path:
    return out / RUN_LOG


def _cut_off(journal: Journal) -> list[Warned]:
    """What the journal tells of the attempt before, where that ended without a word."""
    if journal.cut_off is None:
        return []
    words = _("the attempt before ended without a word at step {step}: it was killed, perhaps for want of memory, or the machine "
              "went down. What it did after its last checkpoint is done again.")  # fmt: skip
    return [Warned("cut_off", words.format(step=journal.cut_off))]
