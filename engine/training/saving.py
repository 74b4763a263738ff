"""Makes the checkpoints of a run: writes their files, and the manifest that proves them later.

The training loop only copies adapter and moments, scores the probe and writes the small files; the large ones are written from the
copies in the Committer's thread, which hashes, syncs and renames.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.commit import Committed, Committer, Staged, free_bytes, need_room
from engine.checkpoints.files import number
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.manifest import (
    Adapter,
    Cursor,
    FileRecord,
    Geometry,
    Manifest,
    Probe,
    Process,
    Schedule,
)
from engine.checkpoints.retain import good
from engine.course.monitor import LossMonitor
from engine.course.steps import warmup_steps
from engine.data.order import next_batch_digest
from engine.errors import LoraTuiError, OutputError, first_line
from engine.events import CheckpointSaved, Event, Warned
from engine.i18n import _, sentences, with_detail
from engine.paths import as_argument, is_folder
from engine.training.attempt import Attempt
from engine.training.digests import all_finite, rng_digest, state_digest, tensors_digest
from engine.training.facts import versions
from engine.training.hf_files import Copies, random_states, write_adapter, write_small_files
from engine.training.memory import adapter_in_memory
from engine.training.open_logs import kept_logs
from engine.training.probe import ProbeRow, score
from engine.training.ranks import Ranks
from engine.training.sft import ExactTrainer

MIB = 1 << 20
SAVING_FAILS = (OSError, RuntimeError, SafetensorError, MemoryError)
"""What those who write raise: the system's error, torch's of its zip writer, safetensors' own, or no memory. All mean: not saved.
Anything else is a fault, which going on would only repeat."""


class WeightsNotFinite(LoraTuiError):
    """There is nothing left that could be saved."""


@dataclass
class Saver:
    """Saves one run. Called by the trainer when a checkpoint is due."""

    attempt: Attempt
    committer: Committer
    tell: Callable[[Event], None]
    monitor: LossMonitor
    ranks: Ranks
    probe_rows: tuple[ProbeRow, ...] = ()
    probe_base: float = 0.0
    last_loss: float | None = None
    eval_losses: dict[int, float] = field(default_factory=dict)
    """Step -> eval loss of this attempt; a checkpoint carries only the one of its own step."""
    last_name: str | None = None
    """The newest durable checkpoint of the run."""
    last_bytes: int = 0
    """Bytes of the last checkpoint, or what the first is estimated to take."""
    constants: dict[str, bytes] = field(default_factory=dict)
    """`hf_files.constant_files` of the run. Set before the first save."""
    aside: bool = False
    """What is saved from now on is from after the loss left its path, and goes into the trash: a kill must not leave it as the
    furthest checkpoint."""
    set_aside: tuple[str, ...] = ()
    """What was saved so."""
    copies: Copies = field(default_factory=Copies)
    _adapter: dict[str, torch.Tensor] = field(default_factory=dict)
    """`adapter_in_memory`, found once: to go through all names of a model takes as long as to copy its adapter."""
    _due: dict[str, Any] = field(default_factory=dict)
    _others: tuple[Process, ...] = ()
    _random: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, trainer: ExactTrainer) -> None:
        """Write and hand over the checkpoint of the step that just ended. Raises OutputError, or tells and goes on.

        All processes come here; what the others have for their own reaches rank 0 before anything can go wrong with its disk, so
        that none waits for another. Only rank 0 writes: a checkpoint is one act of one process.
        """
        self.settle()
        adapter = self._sound(trainer)
        # A model in parts is scored by all processes.
        probe = score(trainer.model, self.probe_rows) if self.probe_rows else 0.0
        if not math.isfinite(probe):
            raise self._nothing_sound(
                _("the model no longer computes a finite loss at step {step}; it was not saved"), trainer
            )
        if not self.ranks.alone:
            own = self.ranks.gather((random_states(trainer), rng_digest(), float(trainer._tr_loss)))
            if not self.ranks.first:
                return
            self._others = tuple(Process(rng=digest, loss_sum=number(loss)) for _states, digest, loss in own[1:])
            self._random = {name: states for one in own for name, states in one[0].items()}
        try:
            self._save(trainer, adapter, probe)
        except SAVING_FAILS as error:
            self.failed(trainer.state.global_step, error)

    def settle(self) -> None:
        """Wait for the commit under way and tell of it."""
        try:
            self._tell(self.committer.wait())
        except SAVING_FAILS as error:
            self.failed(self._due.get("step"), error)

    def poll(self) -> None:
        """Tell of a commit that has ended meanwhile. Never waits."""
        try:
            self._tell(self.committer.poll())
        except SAVING_FAILS as error:
            self.failed(self._due.get("step"), error)

    def failed(self, step: int | None, error: Exception) -> None:
        """A checkpoint could not be saved: stop with exit 5, or warn and go on, as asked (C3)."""
        title = (
            _("the checkpoint of step {step} could not be saved").format(step=step)
            if step is not None
            else _("a checkpoint could not be saved")
        )
        known = self.unsaved(title, error)
        if self.attempt.config.on_save_error != "continue":
            raise known from error
        self.tell(Warned("save_failed", with_detail(title, known.detail)))

    def unsaved(self, title: str, error: Exception) -> OutputError:
        """The error for something that could not be written: the system's words, what is safe, how much room there is."""
        if not is_folder(self.committer.output_dir):
            return OutputError(
                f"{self.committer.output_dir}: {title}",
                _("The folder is gone: it was moved or removed while the run was at work."),
                _("If it was moved, continue there: --output with its new place, and --resume auto."),
            )
        kept = (
            _("The newest checkpoint is {name}.").format(name=self.last_name)
            if self.last_name
            else _("There is no checkpoint yet.")
        )
        words = getattr(error, "strerror", None) or first_line(error)
        free = _("{free:.0f} MB are free.").format(free=_free(self.committer.output_dir) / 1e6)
        return OutputError(
            f"{self.committer.output_dir}: {title}",
            sentences(f"{words}.", kept, free),
            _("Make room or mend the disk, then continue with --resume auto."),
        )

    def _tell(self, committed: Committed | None) -> None:
        if committed is None:
            return
        self.last_bytes = committed.bytes
        if committed.aside:
            self.set_aside += (committed.name,)
        else:
            self.last_name = committed.name
        if committed.unremoved is not None:
            self.tell(
                Warned(
                    "not_removed",
                    _("{folder}: an older checkpoint could not be removed: {why}").format(
                        folder=self.committer.output_dir, why=committed.unremoved.strerror or committed.unremoved
                    ),
                )
            )
        if committed.replaced is not None and self._is_of_another_run(committed.replaced):
            words = _("{name} of another run lay there and was put into the trash: {place}")
            place = committed.replaced.relative_to(self.committer.output_dir)
            self.tell(Warned("replaced", words.format(name=committed.name, place=place)))
        self.tell(
            CheckpointSaved(
                committed.name,
                **self._due,
                bytes=committed.bytes,
                seconds=round(committed.seconds, 3),
                removed=committed.removed,
            )
        )

    def _is_of_another_run(self, folder: Path) -> bool:
        """Whether a checkpoint that was not made by this run lies in `folder`, as far as can be told without reading its weights."""
        found = inspect_folder(folder, verify=False)
        return found.grade is not Grade.BROKEN and found.run != self.attempt.plan.run_id

    def _sound(self, trainer: ExactTrainer) -> dict[str, torch.Tensor]:
        """The adapter, if its numbers are numbers. Raises WeightsNotFinite: in all processes, since they have the same."""
        self._adapter = self._adapter or adapter_in_memory(trainer.model)
        if not all_finite(self._adapter.values()):
            raise self._nothing_sound(_("the weights are no longer finite at step {step}; they were not saved"), trainer)
        return self._adapter

    def _nothing_sound(self, what: str, trainer: ExactTrainer) -> WeightsNotFinite:
        """Where the loss had left its path before, what was saved since is sound in its numbers and no better for it."""
        title = what.format(step=trainer.state.global_step)
        kept = good(self.committer.kept, self.monitor.good) if self.monitor.off else None
        again = _("Begin again with a lower learning rate; look at the data where the loss rose.")
        if self.last_name is None:
            return WeightsNotFinite(title, _("No checkpoint was saved."), again)
        if self.monitor.off and kept is None:
            return WeightsNotFinite(
                title, _("All checkpoints of this attempt are from after the loss had left its path."), again
            )
        if kept is not None:
            name, detail = kept.name, _("The last checkpoint from before the loss left its path is {name}.")
        else:
            name, detail = self.last_name, _("The newest sound checkpoint is {name}.")
        path = as_argument(self.committer.output_dir / name)
        way = _(
            "Continue from it with a lower learning rate: --resume {path} --learning-rate RATE. Look at the data where the loss rose."
        )
        return WeightsNotFinite(title, detail.format(name=name), way.format(path=path))

    def _save(self, trainer: ExactTrainer, adapter: dict[str, torch.Tensor], probe: float) -> None:
        step = trainer.state.global_step
        need_room(self.committer.output_dir, self.last_bytes + MIB)
        staging = self.committer.stage()
        eval_loss = self.eval_losses.get(step)
        try:
            write_small_files(trainer, staging)
            if self.ranks.alone:
                trainer._save_rng_state(str(staging))
            for name, states in self._random.items():
                (staging / name).write_bytes(states)
            tensors, moments = self.copies.adapter(adapter), self.copies.optimizer(trainer.optimizer.state_dict())
            complete = self._manifest(trainer, tensors, moments["state"], eval_loss, probe)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        self.committer.good_until = self.monitor.good_until, self.monitor.good_before, *self._to_go_back_to()
        self._due = {"step": step, "epoch": trainer.epochs, "loss": self.last_loss, "eval_loss": eval_loss}

        def write() -> None:
            write_adapter(staging, self.constants, tensors)
            torch.save(moments, staging / "optimizer.pt")

        self.committer.commit(Staged(staging, step, eval_loss, write, complete, self.aside))

    def _to_go_back_to(self) -> tuple[int | None, ...]:
        """More steps as in `Committer.good_until`, whose checkpoints are only worth their room where the run itself goes back: a slow
        rise is noticed late, and where no checkpoint is from before a jump, the one that this attempt began from is all there is."""
        if self.attempt.config.on_jump == "warn":
            return ()
        good_until, late = self.monitor.good, self.monitor.good_for_sure
        earliest = min((step for step in (good_until, late) if step is not None), default=None)
        return (late, self.attempt.start.step) if good(self.committer.kept, earliest) is None else (late,)

    def _manifest(
        self,
        trainer: ExactTrainer,
        tensors: dict[str, torch.Tensor],
        moments: Mapping[Any, Any],
        eval_loss: float | None,
        probe_loss: float,
    ) -> Callable[[dict[str, FileRecord]], Manifest]:
        """Everything the manifest says but the files, taken now; digests of tensors are computed later, from these copies."""
        position = trainer.position
        geometry = Geometry(
            batch_size=trainer.batches.each, grad_accum=self.attempt.config.grad_accum, world_size=self.ranks.world
        )
        taken = trainer.lr_scheduler.last_epoch
        draft = partial(
            Manifest,
            schema_version=1,
            run_id=self.attempt.plan.run_id,
            parent=self.attempt.plan.parent,
            saved_at=time.time(),
            step=position.step,
            epoch=trainer.epochs,
            total_epochs=trainer.length.total_epochs,
            loss=self.last_loss,
            eval_loss=eval_loss,
            cursor=self._cursor(trainer, geometry),
            probe=self._probe(probe_loss) if self.probe_rows else None,
            identities=self.attempt.material.identities,
            geometry=geometry,
            others=self._others,
            schedule=self._schedule(trainer),
            logs=kept_logs(trainer),
            steps_taken=taken if taken != position.step else None,
            rng=rng_digest(),
            monitor=self.monitor.state(),
            precision=self.attempt.precision,
            device=self.attempt.hardware.device,
            versions=versions(),
        )
        adapter_config = trainer.model.peft_config["default"]
        shape = f"{adapter_config.r} {adapter_config.lora_alpha} {sorted(adapter_config.target_modules)}"

        def complete(files: dict[str, FileRecord]) -> Manifest:
            return draft(
                files=files,
                optimizer=state_digest(moments),
                adapter=Adapter(
                    tensors=len(tensors),
                    sha256=tensors_digest(tensors),
                    config=hashlib.sha256(shape.encode()).hexdigest(),
                ),
            )

        return complete

    def _cursor(self, trainer: ExactTrainer, geometry: Geometry) -> Cursor:
        position = trainer.position
        order = trainer.batches.order(position.epoch)
        return Cursor(
            epoch=position.epoch,
            rows_consumed=position.rows_consumed,
            rows=len(order),
            seed=self.attempt.config.seed,
            next_batch=next_batch_digest(order, position.rows_consumed, geometry.rows),
            given_up=position.given_up,
        )

    def _schedule(self, trainer: ExactTrainer) -> Schedule:
        config, total = self.attempt.config, trainer.length.total_steps
        return Schedule(
            scheduler=config.scheduler,
            learning_rate=config.learning_rate,
            warmup_steps=warmup_steps(config, total),
            total_steps=total,
            next_learning_rate=float(trainer.lr_scheduler.get_last_lr()[0]),
        )

    def _probe(self, loss: float) -> Probe:
        return Probe(
            rows=tuple(row.digest for row in self.probe_rows),
            loss=loss,
            base_loss=self.probe_base,
            tokens=self.probe_rows[0].tokens,
            precision=self.attempt.precision,
            scored=tuple(row.written() for row in self.probe_rows),
        )


def needed_bytes(model: Any, model_folder: Path) -> int:
    """A checkpoint's size in bytes, estimated: the adapter and two moments of it, the tokenizer, 1 MiB for the rest."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tensors = sum(int(parameter.numel() * parameter.element_size() * 3) for parameter in trainable)
    words = [path for pattern in ("tokenizer*", "vocab*", "merges*", "*.model") for path in model_folder.glob(pattern)]
    return MIB + tensors + sum(path.stat().st_size for path in words if path.is_file())


def _free(folder: Path) -> int:
    try:
        return free_bytes(folder)
    except OSError:
        return 0
