"""One training session: the model is built, what was saved is loaded and proven, and the steps are done.

trainer.py owns the folder, the data and the Journal, proving.py holds what is loaded against what was saved; this file owns the model.
It wires TRL's trainer (sft.py), the listener in its loop (callback.py) and the saver together, and it is the only place that knows
all three.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.commit import Committer, made_in, need_room_to_begin
from engine.checkpoints.retain import Kept, good
from engine.checkpoints.scan import scan
from engine.checkpoints.verified import private_copy
from engine.course.advice import advise_by
from engine.course.jumps import monitor_of
from engine.course.monitor import LossMonitor
from engine.data.tokens import IGNORED
from engine.durable import STAGING_PREFIX
from engine.errors import ConfigError, ModelError, first_line
from engine.events import Event, RunFinished, RunStopped, Warned
from engine.folder import FINAL, write_run_toml
from engine.i18n import _
from engine.paths import is_folder
from engine.resume.receipt import Item
from engine.training.arguments import training_arguments
from engine.training.attempt import Attempt, Outcome, ShouldStop
from engine.training.proving import Proof
from engine.training.ranks import Ranks
from engine.training.trackers import guard


class Session:
    """One model, loaded, proven and trained. Used once."""

    def __init__(
        self, attempt: Attempt, known: Sequence[Item], ranks: Ranks, tell: Callable[[Event], None], should_stop: ShouldStop
    ) -> None:
        """`known`: the items of the receipt that need no model."""
        self.attempt, self.ranks, self.tell, self.should_stop = attempt, ranks, tell, should_stop
        self.plan, self.config, self.material = attempt.plan, attempt.config, attempt.material
        self.proof = Proof(attempt, ranks, tell, known)
        self.begun = time.monotonic()
        self._private = contextlib.ExitStack()
        self.all_loaded = False
        """Whether the first step was about to be computed."""
        self.source: Path | None = None
        """What is loaded of the checkpoint: a private copy of it that was judged after it was made."""

    def run(self) -> Outcome:
        from engine.training.callback import RunCallback
        from engine.training.saving import Saver, WeightsNotFinite

        continued = self.attempt.continued
        monitor = monitor_of(self.plan.checkpoint) if continued and self.plan.checkpoint is not None else LossMonitor()
        committer = Committer(self.plan.output_dir, self.config.keep, self._kept() if self.ranks.first else [])
        self.listener = RunCallback(self.config, self.tell, self.should_stop, monitor, continued, self._begin)
        self.saver = Saver(self.attempt, committer, self.tell, monitor, self.ranks)
        self.listener.saver = self.saver
        if continued:
            self._take_up(monitor)
        try:
            if self.plan.checkpoint is not None:
                self.source = self._copied(self.plan.checkpoint)
            trainer = self.trainer = self._build()
            self.listener.loaded = self._loaded
            trainer.train(resume_from_checkpoint=str(self.source) if continued else None)
            self.saver.settle()
        except _NotBegun as stopped:
            start = self.attempt.start
            self.tell(RunStopped(start.step, start.epochs(len(self.material.train)), stopped.reason, self.saver.last_name))
            return Outcome("stopped", start.step, self.saver.last_loss)
        except WeightsNotFinite:
            if self.config.on_jump == "warn":
                raise
            self.saver.settle()
            return self._left(monitor.good)
        finally:
            self._private.close()
            committer.close()
            # An error left a commit under way, which has ended by now; one that failed too is not what a person must hear of.
            with contextlib.suppress(Exception):
                self.saver.poll()
        position = trainer.position
        if self.listener.jump is not None:
            return self._left(self.listener.jump.good_until)
        if self.listener.stopped_by and position.step < self.attempt.length.total_steps:
            left = max(0.0, self.attempt.length.total_epochs - trainer.epochs)
            self.tell(
                RunStopped(
                    position.step,
                    trainer.epochs,
                    self.listener.stopped_by,
                    self.saver.last_name,
                    left,
                    self.saver.last_loss,
                    self._advice(),
                )
            )
            return Outcome("stopped", position.step, self.saver.last_loss)
        return self._finish(trainer)

    def _copied(self, checkpoint: Checkpoint) -> Path:
        """The private copy of `checkpoint`, made by rank 0 for all."""
        from engine.training.hf_files import make_readable

        mine = self._private.enter_context(private_copy(checkpoint, self.plan.output_dir)) if self.ranks.first else None
        if mine is not None and self.attempt.continued:
            make_readable(mine, self.attempt.batch_size)
        return cast(Path, self.ranks.share(mine))

    def _loaded(self) -> None:
        """Nothing of the checkpoint will be read any more, by any process. Asked before each step; done once."""
        if not self.all_loaded:
            self.all_loaded = True
            self.ranks.meet()
            self._private.close()

    def _left(self, good_until: int | None) -> Outcome:
        """The loss left its path: what was saved since is put into the trash, so that nothing goes on from it unasked. Where nothing
        that was good is left, what this attempt saved; where it began is all that there is to go back to."""
        from engine.checkpoints.trash import to_trash

        trainer, out = self.trainer, self.plan.output_dir
        kept = [one for one in self.saver.committer.kept if is_folder(out / one.name)]  # a person may have taken some away
        last = good(kept, good_until)
        after = [one.name for one in kept if one.step > (last.step if last is not None else self.attempt.start.step)]
        for name in after if self.ranks.first else ():
            to_trash(out / name)
        back_to = last.name if last is not None else None
        aside = (*after, *self.saver.set_aside)
        return Outcome("jumped", trainer.state.global_step, self.saver.last_loss, back_to, aside, trainer.epochs)

    def _take_up(self, monitor: LossMonitor) -> None:
        """What the saved run knew besides its weights: its last loss, its newest checkpoint, its eval losses. `monitor`: as it was."""
        checkpoint = self.plan.checkpoint
        assert checkpoint is not None
        self.saver.last_loss = checkpoint.loss
        self.saver.last_name, self.saver.last_bytes = checkpoint.name, checkpoint.bytes
        self.listener.losses = [row.loss for row in checkpoint.history if row.loss is not None]
        if self._measured_on_the_same(checkpoint):
            self.listener.eval_losses = [row.eval_loss for row in checkpoint.history if row.eval_loss is not None]
        else:
            words = _("other rows are measured on than before: eval losses cannot be compared, the best is looked for anew")
            self.tell(Warned("eval_rows", words))
        self.listener.last_rate = next(
            (row.learning_rate for row in reversed(checkpoint.history) if row.learning_rate), None
        )
        if self.proof.restarted:
            monitor.new_rows()

    def _kept(self) -> list[Kept]:
        """The sound checkpoints of this very run that retention may count and remove."""
        return [
            Kept(
                checkpoint.name,
                checkpoint.step,
                checkpoint.manifest.eval_loss if self._measured_on_the_same(checkpoint) else None,
            )
            for checkpoint in scan(self.plan.output_dir).checkpoints
            if checkpoint.manifest is not None
            and checkpoint.step is not None
            and checkpoint.continuable
            and checkpoint.manifest.run_id == self.plan.run_id
        ]

    def _measured_on_the_same(self, checkpoint: Checkpoint) -> bool:
        """Whether an eval loss of `checkpoint` may be compared with this attempt's. Another tool's: as far as is known."""
        manifest = checkpoint.manifest
        before, now = (manifest.identities.eval_dataset if manifest else None), self.material.identities.eval_dataset
        return before is None or now is None or before == now

    def _build(self) -> Any:
        """Base model, adapter and trainer, nothing restored yet except the weights of --init-from."""
        from engine.training.batches import RowBatches
        from engine.training.lora_kernel import fuse
        from engine.training.model import load_base
        from engine.training.parts import Parts
        from engine.training.peft_config import lora_config, lora_config_of, need_plain, need_targets, need_to_go_on
        from engine.training.sft import ExactTrainer

        checkpoint, attempt = self.plan.checkpoint, self.attempt
        adapter = lora_config(self.config) if checkpoint is None else lora_config_of(checkpoint, self.config)
        parts = None
        if attempt.parallel != "ddp":
            need_plain(adapter, attempt.parallel)
            parts = Parts(attempt.parallel, self.ranks.world)
        base = load_base(
            self.material.folder,
            attempt.hardware,
            self.config,
            parts,
            lambda words: self.tell(Warned("weights_unused", words)),
        )
        if checkpoint is None:
            need_targets(base, self.config)
        try:
            trainer = ExactTrainer(
                rows=_Rows(self.material.train),
                eval_rows=_Rows(self.material.eval) if self.material.eval is not None else None,
                batches=RowBatches(
                    self.material.train.lengths, self.config.seed, attempt.batch_size, self.ranks.rank, self.ranks.world
                ),
                start=attempt.start,
                length=attempt.length,
                saver=self.saver,
                at_labels=attempt.at_labels,
                in_parts=attempt.sharded,
                model=base,
                args=training_arguments(attempt, several=not self.ranks.alone),
                train_dataset=self.material.train.to_dataset(),
                eval_dataset=self.material.eval.to_dataset() if self.material.eval is not None else None,
                processing_class=self.material.tokenizer,
                peft_config=adapter,
                callbacks=[self.listener],
            )
        except ValueError as error:
            if "target" in str(error).lower():
                raise ModelError(
                    _("--target-modules {names}: no adapter can be put there").format(names=self.config.target_modules),
                    first_line(error),
                    _("all-linear takes every linear layer but the output layer."),
                ) from error
            raise
        if checkpoint is None:
            need_to_go_on(trainer.model, self.config)
        if attempt.fused:
            fuse(trainer.model)
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        guard(trainer, self.tell)
        self._need_its_loss(trainer)
        self.listener.trainer = trainer
        if self.source is not None:
            self.proof.check_adapter(trainer, self.source)
        return trainer

    def _need_its_loss(self, trainer: Any) -> None:
        """Tell where logits are computed for all tokens though labels alone were meant. Raises ConfigError where that cannot be."""
        if self.attempt.parallel == "deepspeed" and trainer.at_labels is None:
            raise ConfigError(
                _("--parallel deepspeed needs the loss at labels only"),
                trainer.why_not_at_labels or "",
                _("Use --parallel fsdp2 or ddp."),
            )
        if trainer.why_not_at_labels is not None:
            words = _("logits are computed for all tokens: {why}").format(why=trainer.why_not_at_labels)
            self.tell(Warned("logits", words))

    # -- before the first step -----------------------------------------------------------------------------------------

    def _begin(self, trainer: Any) -> None:
        """Everything is loaded: prove it, or measure what a later run will be proven by."""
        from transformers import set_seed

        from engine.training.hf_files import constant_files
        from engine.training.open_logs import restore_logs
        from engine.training.saving import needed_bytes

        manifest = self.proof.manifest if self.attempt.continued else None
        if self.ranks.first:
            each = needed_bytes(trainer.model, self.material.folder)
            need_room_to_begin(self.plan.output_dir, each)
            self.saver.last_bytes = self.saver.last_bytes or each
            self.saver.constants = constant_files(trainer)
        self.proof.choose_probe(trainer)
        self.saver.probe_rows, self.saver.probe_base = self.proof.rows, self.proof.base
        if self.attempt.continued and self.source is not None:
            self.listener.verdicts = self.proof.check_memory(trainer, self.source)
        if manifest is not None:
            restore_logs(trainer, manifest, self.ranks)
        if not self.ranks.first and (manifest is None or manifest.geometry.world_size != self.ranks.world):
            set_seed(self.config.seed + self.ranks.rank)  # else all of them would drop the same units
        if self.ranks.first:
            write_run_toml(self.plan.output_dir, self.config, self.plan.run_id)
        if reason := self.should_stop():
            raise _NotBegun(reason)

    # -- after the last step -------------------------------------------------------------------------------------------

    def _finish(self, trainer: Any) -> Outcome:
        from engine.training.memory import adapter_in_memory

        adapter = adapter_in_memory(trainer.model)
        final = cast(Path, self.ranks.share(self._write_final(adapter) if self.ranks.first else None))
        evals = self.listener.eval_losses
        self.tell(
            RunFinished(
                trainer.position.step,
                trainer.epochs,
                self.saver.last_loss,
                evals[-1] if evals else None,
                round(time.monotonic() - self.begun, 1),
                str(final),
                self._advice(),
            )
        )
        return Outcome("finished", trainer.position.step, self.saver.last_loss)

    def _advice(self) -> dict[str, str]:
        advice = advise_by(self.config, self.listener.losses, self.listener.eval_losses, self.listener.monitor.off)
        return {"state": advice.state, "message": advice.message}

    def _write_final(self, adapter: Mapping[str, Any]) -> Path:
        from engine.training.hf_files import write_adapter
        from engine.training.saving import SAVING_FAILS

        out = self.plan.output_dir
        try:
            with made_in(out / f"{STAGING_PREFIX}final-{os.getpid()}", out / FINAL) as staging:
                write_adapter(staging, self.saver.constants, self.saver.copies.adapter(adapter))
            return out / FINAL
        except SAVING_FAILS as error:
            raise self.saver.unsaved(_("the final adapter could not be saved"), error) from error


class _NotBegun(Exception):
    """Stopped while everything was loading: there is no step to finish and nothing to save."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Rows:
    """A TokenTable as torch's DataLoader wants it; row `~index` is row `index` without labels."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row: dict[str, list[int]] = self.table.row(max(index, ~index))
        return row if index >= 0 else {**row, "labels": [IGNORED] * len(row["labels"])}
