"""Carries out a plan: one blocking call from the lock on the folder to the final adapter.

It reads top to bottom as a run goes: hold the folder, read the data, check what can be checked without the model, load, check
what was loaded, train, finish. Everything that happens is told twice, to the Journal and to `emit`; nothing is printed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from engine.checkpoints.commit import TRASH, sweep
from engine.errors import CannotContinue, LoraTuiError
from engine.events import (
    JOURNAL_NAME,
    LOSS_JUMPED,
    Event,
    Journal,
    RolledBack,
    RowsTokenised,
    RunFailed,
    RunStarted,
    RunStopped,
    Warned,
    as_record,
)  # fmt: skip
from engine.folder import RUN_LOG, locked, stop_asked, unwritable
from engine.hardware import Hardware, choose_hardware, free_memory, prepare_process
from engine.i18n import _
from engine.models.report import model_report
from engine.resume.plan import ResumePlan, resumed, roll_back
from engine.resume.receipt import Item, Receipt, accepted, check_material, versions_item
from engine.training.attempt import Attempt, Outcome, ShouldStop
from engine.training.estimate import Fitted, fit_batch
from engine.training.facts import facts_of_material, facts_of_plan
from engine.training.fitting import is_out_of_memory, let_go, replanned, smaller, used_up
from engine.training.library_output import library_output_to
from engine.training.material import Material, load_material
from engine.training.ranks import PeerLost, Ranks, TooManyRows
from engine.training.session import Session
from engine.training.steps import Position, run_length
from engine.training.trackers import need_trackers, tracked

ROLLBACKS = 3
"""After so many, the cause is not the learning rate."""

Emit = Callable[[Event, Mapping[str, Any]], None]
"""Told each event and its record as it stands in the Journal."""


class Trainer:
    """One run, as planned. Used once."""

    def __init__(self, plan: ResumePlan) -> None:
        """`plan`: fresh, continue or weights; a complete one has nothing to run."""
        assert plan.mode != "complete", "a finished run has nothing left to train"
        self.plan, self.config = plan, plan.config
        self.ranks = Ranks.of_environment(self.config.world)
        self._journal: Journal | None = None
        self._emit: Emit = lambda event, record: None
        self._step: int | None = None
        self._hardware: Hardware | None = None
        self._batch_size, self._grad_accum = 1, 1
        self._notes: list[Warned] = []
        """What is to be told once there is a Journal."""
        self._automatic = plan.config.batch_size == "auto"
        self._failing = threading.Lock()

    def run(self, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Train. Blocks until all steps are done or `should_stop` gives a reason, and a checkpoint is saved then.

        Raises LoraTuiError with the exit code of the contract; whatever else escapes is a fault and told as run_failed. As one of
        several processes it raises PeerLost where another of them is gone: nothing of this run can go on then but all of it.
        """
        prepare_process()
        if not self.ranks.first:
            return self._follow(emit, should_stop)
        self._emit = emit
        out = self.plan.output_dir
        with (
            self._failures_told(),
            self.ranks.joined(self.config.ddp_timeout),
            locked(out) as notes,
            _own_folder(out),
            library_output_to(_log(out)),
        ):
            need_trackers(self.config)
            self._agree_on_the_plan()
            if self.plan.mode == "complete":  # only its end was lost
                return self._conclude(out)
            swept = sweep(out)
            material = load_material(self.config, self.plan.dataset, lambda *done: self._tell(RowsTokenised(*done)))
            self.ranks.said("material")
            self._journal = Journal(out)
            try:
                for warned in (*notes, *self._notes, *_cut_off(self._journal)):
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
                raise unwritable(out, error) from error
            except Exception:
                logging.getLogger(__name__).exception("the run failed")  # to run.log, with its traceback
                raise

    def _follow(self, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """The same as one of the other processes: what rank 0 has decided, on the rows that are this one's. Only `emit` is told of it,
        without a Journal."""
        self._emit, self.ranks.failed = emit, self._tell_failed
        with self.ranks.joined(self.config.ddp_timeout):
            self._agree_on_the_plan()
            if self.plan.mode == "complete":
                return Outcome("finished", self.plan.checkpoint.step or 0 if self.plan.checkpoint is not None else 0, None)
            with library_output_to(_log(self.plan.output_dir)):
                self.ranks.wait_for_first("material")
                try:
                    return self._train(load_material(self.config), self.ranks.agreed(should_stop))
                except Exception:
                    logging.getLogger(__name__).exception("process %d failed", self.ranks.rank)
                    raise

    def _agree_on_the_plan(self) -> None:
        """Every machine has planned; what rank 0 has planned is done, once it is known that all were asked for the same."""
        if not self.ranks.alone:
            from engine.training.saving import versions

            self.ranks.agree(facts_of_plan(self.plan, versions()))
        plan = self._planned_anew() if self.ranks.first and self.ranks.restarts else self.plan
        self.plan = replace(
            self.ranks.share(replace(plan, dataset=None)), dataset=plan.dataset if self.ranks.first else None
        )
        self.config = self.plan.config

    def _planned_anew(self) -> ResumePlan:
        """The plan after a restart: from the furthest that was saved, with fewer rows at a time where one could not hold them."""
        found = self.ranks.too_many_before()
        if found is None:
            return resumed(self.plan)
        self._notes.append(_fewer(*found))
        return replanned(self.plan, *found[1:])

    def _conclude(self, out: Path) -> Outcome:
        """All steps had been done when the processes were lost: what is missing is made from the last checkpoint."""
        from engine.training.complete import conclude

        self._journal = Journal(out)
        finished = conclude(self.plan, held=True)
        self._tell(finished)
        return Outcome("finished", finished.step, finished.loss)

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if self._journal is None:
            self._emit(event, as_record(event, 0, time.time()))
            return
        known = self._journal.problem
        self._emit(event, self._journal.write(event))
        if self._journal.problem is not None and known is None:
            self._tell_lost(self._journal.problem)
        if event.type == "step":
            self._step = event.step  # type: ignore[attr-defined]

    def _tell_lost(self, error: OSError) -> None:
        """The journal cannot be written: said to whoever looks, since it cannot be said there."""
        words = _("{file} cannot be written: {why}. The run goes on; what it tells is not kept.").format(
            file=JOURNAL_NAME, why=error.strerror or error
        )
        warned = Warned("journal_failed", words)
        self._emit(warned, as_record(warned, self._journal.attempt if self._journal else 0, time.time()))

    def _tell_failed(self, error: LoraTuiError) -> None:
        if self._failing.acquire(blocking=False):  # rank 0's word may come while this process has its own
            self._tell(RunFailed(self._step, error.title, error.detail, error.fix, error.exit_code))

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:  # whoever raised it leaves at once, and nothing has begun (headless.Leave)
            self.ranks.over()
            raise
        except TooManyRows:  # told by whoever starts again
            raise
        except PeerLost as lost:
            self._tell(Warned("peer_lost", _(
                "another process of this run is gone: {words}. All of them start again from the last checkpoint.").format(
                    words=lost)))  # fmt: skip
            raise
        except BaseException as error:
            known = error if isinstance(error, LoraTuiError) else _as_known(error, self.plan.output_dir)
            self._tell_failed(known)
            self.ranks.over(known)
            if known is not error:
                raise known from error
            raise
        finally:
            if self._journal is not None:
                known_before = self._journal.problem
                self._journal.close()
                if self._journal.problem is not None and known_before is None:
                    self._tell_lost(self._journal.problem)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _attempt_what_fits(self, material: Material, should_stop: ShouldStop) -> Outcome:
        """One attempt; with `--batch-size auto`, again with fewer rows at a time where they do not fit into the memory."""
        while True:
            try:
                return self._attempt(material, should_stop)
            except Exception as error:
                words = str(error).splitlines()[0] if str(error) else type(error).__name__
                if not is_out_of_memory(error):
                    raise
                found = smaller(self._batch_size, self._grad_accum) if self._automatic else None
                if found is None:
                    longest = int(material.train.lengths.max())
                    raise used_up(self.config, self._hardware, self._batch_size, longest, words) from error
                if not self.ranks.alone:
                    raise self.ranks.too_many(self._batch_size, *found, words) from error
            # Here the error and all that it held of the failed attempt are gone.
            let_go()
            self._tell(_fewer(self._batch_size, *found))
            self.plan = replanned(self.plan, *found)
            self.config = self.plan.config

    def _train(self, material: Material, should_stop: ShouldStop) -> Outcome:
        """Attempt after attempt: one, unless the loss leaves its path and --on-jump says to go back (C2 numbers them)."""
        for number in range(1, ROLLBACKS + 2):
            outcome = self._attempt_what_fits(material, should_stop)
            if outcome.state != "jumped":
                return outcome
            if self.config.on_jump == "stop" or number > ROLLBACKS:
                break
            self._go_back(outcome, number)
        if outcome.set_aside:
            self._tell(Warned("set_aside", _(
                "saved after the loss left its path, and put into {folder} so that nothing goes on from it unasked: {names}").format(
                    folder=TRASH, names=", ".join(outcome.set_aside))))  # fmt: skip
        from_here = self.plan.checkpoint.name if self.plan.mode == "continue" and self.plan.checkpoint is not None else None
        self._tell(RunStopped(outcome.step, outcome.epoch, LOSS_JUMPED, outcome.good or from_here))
        return outcome

    def _go_back(self, outcome: Outcome, number: int) -> None:
        """Plan the next attempt: from the last good checkpoint, or from where this one began, at half the rate."""
        self.plan = self.ranks.share(roll_back(self.plan, outcome.good) if self.ranks.first else None)
        self.config = self.plan.config
        checkpoint = self.plan.checkpoint if self.plan.mode == "continue" else None
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
        if self._journal is not None:
            self._journal.next_attempt()

    def _attempt(self, material: Material, should_stop: ShouldStop) -> Outcome:
        config, plan = self.config, self.plan
        assert plan.mode != "complete", "nothing is left to train, and to train would be to begin anew"
        from engine.training.lora_kernel import choose_kernel
        from engine.training.loss import choose_logits

        hardware = self._hardware = choose_hardware(config)
        self.ranks.agree({**facts_of_material(material), "device": hardware.device, "precision": hardware.precision})
        manifest = plan.checkpoint.manifest if plan.checkpoint is not None and plan.mode == "continue" else None
        rows = len(material.train)
        fitted = self.ranks.share(self._fit(material, hardware, manifest.geometry.batch_size if manifest else None))
        batch_size = self._batch_size = fitted.batch_size
        config = config.model_copy(update={"activation_checkpointing": fitted.checkpointing, **fitted.kept_rows(config)})
        self._grad_accum = config.grad_accum
        plan = replace(plan, config=config)
        start = _start(plan, material, accepted_dataset="dataset" in config.accept)
        length = run_length(config, rows, batch_size * config.grad_accum * self.ranks.world, start)
        at_labels, logits = choose_logits(config, hardware, material.trained_tokens, int(material.train.lengths.sum()))
        saved = plan.checkpoint.adapter.raw if plan.checkpoint is not None and plan.checkpoint.adapter is not None else {}
        fused, kernel = choose_kernel(config, hardware, saved)
        choices = {
            **hardware.reasons(),
            "batch_size": f"{batch_size} · {fitted.batch_reason}",
            "logits": logits,
            "lora_kernel": kernel,
        }
        if fitted.checkpointing:
            choices["activation_checkpointing"] = f"on · {fitted.checkpointing_reason}"
        if not self.ranks.alone:
            choices["processes"] = _("{count} · {rows} rows for a step").format(
                count=self.ranks.world, rows=batch_size * config.grad_accum * self.ranks.world
            )
            choices["parallel"] = " · ".join(filter(None, (fitted.parallel, fitted.parallel_reason)))
        elif config.parallel not in ("auto", "ddp"):
            choices["parallel"] = _("whole · there is one process (--nproc)")
        name = plan.checkpoint.name if plan.checkpoint is not None and plan.mode == "continue" else None
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
                choices,
                config.model_dump(mode="json"),
            )
        )
        early = self._check_early(material)
        if reason := should_stop():
            self._tell(RunStopped(start.step, start.epochs(rows), reason, name))
            return Outcome("stopped", start.step, None)
        attempt = Attempt(plan, material, hardware, start, length, batch_size, at_labels, fused, fitted.parallel)
        return cast(Outcome, self.ranks.share(Session(attempt, early, self.ranks, self._tell, should_stop).run()))

    def _fit(self, material: Material, hardware: Hardware, saved: int | None) -> Fitted:
        model = model_report(str(material.folder))
        longest = int(material.train.lengths.max())
        free = free_memory(hardware.device)[0] // (1 if hardware.device == "cuda" else self.ranks.here)
        return fit_batch(model, self.config, hardware.precision, len(material.train), longest, free, saved, self.ranks.world)

    def _check_early(self, material: Material) -> list[Item]:
        """The half of the receipt that needs no model. Refuses at once where an item fails."""
        plan = self.plan
        if plan.mode != "continue" or plan.checkpoint is None:
            return []
        from engine.training.saving import versions

        shape = plan.checkpoint.adapter
        items = [
            *check_material(plan.checkpoint.manifest, material, shape.base_model if shape else None),
            versions_item(plan.checkpoint.manifest, versions()),
        ]
        receipt = Receipt(plan.checkpoint.path, accepted(items, self.config.accept))
        if receipt.failed:
            self._tell(receipt.event())
            receipt.refuse()
        return list(receipt.items)


def _fewer(rows: int, fewer: int, times: int) -> Warned:
    words = _("{rows} rows at a time do not fit into the memory; going on with {fewer}, and {times} of them for a step")
    return Warned("batch_size", words.format(rows=rows, fewer=fewer, times=times))


def _start(plan: ResumePlan, material: Material, accepted_dataset: bool) -> Position:
    """Where the run goes on, now that the rows are known."""
    if plan.mode != "continue" or plan.checkpoint is None:
        return Position(0, 0, 0)
    rows = len(material.train)
    manifest = plan.checkpoint.manifest
    if manifest is not None:
        saved = manifest.identities
        changed = (saved.dataset, saved.data_settings) != (material.identities.dataset, material.identities.data_settings)
        if (changed and accepted_dataset) or manifest.cursor.rows != rows:
            return Position(manifest.step, manifest.cursor.epoch, 0)
        assert plan.position is not None
        return plan.position
    step, epoch = plan.checkpoint.step, plan.checkpoint.epoch
    if step is None or epoch is None:
        raise CannotContinue(_("{path}: says neither step nor epoch").format(path=plan.checkpoint.path))
    whole = math.floor(epoch + 1e-9)
    consumed = min(rows, round((epoch - whole) * rows))
    return Position(step, whole + 1, 0) if consumed == rows else Position(step, whole, consumed)


@contextlib.contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    """Leave nothing behind where a run failed before it began: a folder that only we have touched goes again."""
    before = {entry.name for entry in out.iterdir()} - {RUN_LOG}
    try:
        yield
    except BaseException:
        after = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
        if not any(not name.startswith(".") for name in before) and after <= before | {RUN_LOG}:
            (out / RUN_LOG).unlink(missing_ok=True)
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


DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def _as_known(error: BaseException, out: Path) -> LoraTuiError:
    """An error of the outside world in our words; a fault of ours keeps its own."""
    if isinstance(error, OSError) and (error.errno in DISK or str(error.filename or "").startswith(str(out))):
        return unwritable(out, error)
    words = str(error).splitlines()[0] if str(error) else ""
    return LoraTuiError(
        _("{kind}: {words}").format(kind=type(error).__name__, words=words),
        fix=_(
            "This is a fault of lora-tui or of a library; run.log has the details. "
            "What was saved can be continued with --resume auto."
        ),
    )
