"""The proof of one attempt: what was loaded is held against what was saved before the first step (C5), and what a later run will be
held against is chosen.

The items themselves are computed in memory.py; here they come together, in the order in which they can be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.course.steps import warmup_steps
from engine.errors import ModelError
from engine.events import Event
from engine.i18n import _
from engine.resume.differences import RESTARTING, geometry_words
from engine.resume.logged import against_log, schedule_words
from engine.resume.receipt import Item, Receipt, accepted, next_batch_item
from engine.training.attempt import Attempt, CountedOtherTokens
from engine.training.ranks import Ranks

if TYPE_CHECKING:
    from engine.training.probe import ProbeRow


class Proof:
    """The receipt of one attempt as it comes together, and its probe. Of a fresh run only the probe."""

    def __init__(self, attempt: Attempt, ranks: Ranks, tell: Callable[[Event], None], known: Sequence[Item]) -> None:
        """`known`: the items that need no model (receipt.check_material)."""
        self.attempt, self.ranks, self.tell, self.items = attempt, ranks, tell, tuple(known)
        self.checkpoint = attempt.plan.checkpoint
        self.manifest = self.checkpoint.manifest if self.checkpoint is not None else None
        self.rows: tuple[ProbeRow, ...] = ()
        """What the probe scores."""
        self.base = 0.0
        """The probe's loss with the adapter switched off."""
        self._comparable = False

    @property
    def restarted(self) -> bool:
        """Whether the rows are others than the saved ones, so that their epoch begins anew."""
        return any(item.item in RESTARTING and item.verdict == "changed" for item in self.items)

    def check_adapter(self, trainer: Any, source: Path) -> None:
        """Names and shapes must fit before anything is loaded: PEFT would load what fits and warn of the rest. The weights
        of --init-from are put into the model here. `source`: what is loaded. Raises CannotContinue."""
        from peft import set_peft_model_state_dict

        from engine.training.memory import (
            adapter_config_item,
            adapter_in_file,
            adapter_in_memory,
            keys_item,
            without_base_weights,
        )

        assert self.checkpoint is not None
        saved = without_base_weights(adapter_in_file(source), trainer.model)
        self.items += (
            keys_item(saved, adapter_in_memory(trainer.model)),
            adapter_config_item(self.checkpoint, trainer.model.peft_config["default"]),
        )
        receipt = Receipt(self.checkpoint.path, self.items)
        if receipt.failed:
            if self.attempt.continued:
                self.tell(receipt.event())
            receipt.refuse()
        if not self.attempt.continued:
            set_peft_model_state_dict(trainer.model, saved)

    def choose_probe(self, trainer: Any) -> None:
        """Find `rows` and score them without the adapter. Rank 0's probe is that of all, since their weights are held against its; a
        model of which each holds a part none can score by itself. Raises ModelError where the base model is not in order."""
        from engine.training.probe import affordable, choose_rows, score_base

        sharded, candidates = self.attempt.sharded, self.attempt.material.probe_candidates
        if not self.ranks.first and not sharded:
            return
        known = self._saved_rows(trainer.model, {row.digest: row for row in candidates})
        self.rows = known or affordable(trainer.model, choose_rows(candidates))
        if sharded:  # how many are affordable each has measured by itself
            self.rows = self.ranks.share(self.rows)
        self.base = score_base(trainer.model, self.rows) if self.rows else 0.0
        self._comparable = bool(known) and not self._is_other_text()
        if not math.isfinite(self.base):
            raise ModelError(
                _("{path}: the base model computes no finite loss").format(path=self.attempt.material.folder),
                _("On the rows that are scored it is {loss}, in {precision}.").format(
                    loss=self.base, precision=self.attempt.precision
                ),
                _(
                    "In float16 large models overflow: try --precision float32. Else its weights are damaged; fetch them again."
                ),
            )

    def _saved_rows(self, model: Any, known: Mapping[str, ProbeRow]) -> tuple[ProbeRow, ...]:
        """The rows whose loss was saved, as they were scored then: by their tokens, where the manifest has them, else rows of `known`,
        the dataset's. None where they are not all there, or became other tokens."""
        from engine.training.probe import ProbeRow

        manifest = self.manifest if self.attempt.continued else None
        if manifest is None or manifest.probe is None:
            return ()
        saved, now = manifest.identities, self.attempt.material.identities
        if (saved.tokenizer, saved.chat_template, saved.data_settings) != (
            now.tokenizer,
            now.chat_template,
            now.data_settings,
        ):
            return ()
        probe = manifest.probe
        if probe.scored is not None:
            rows = tuple(ProbeRow.read(*row, probe.tokens) for row in zip(probe.rows, probe.scored, strict=True))
            words = model.config.get_text_config().vocab_size
            return rows if all(max(row.input_ids) < words for row in rows) else ()
        return tuple(known[one].cut(probe.tokens) for one in probe.rows) if known.keys() >= set(probe.rows) else ()

    def _is_other_text(self) -> bool:
        """Whether the saved rows, of which the manifest has no tokens, were rendered on another day by a template that writes the
        date: then the bare base's loss is another one too."""
        from engine.data.rendering import writes_date
        from engine.training.probe import agrees

        saved = self.manifest.probe if self.manifest is not None else None
        if saved is None or saved.scored is not None or not writes_date(self.attempt.material.tokenizer):
            return False
        return not agrees(saved.base_loss, self.base, "float32")

    def _probe_item(self, trainer: Any, steps: int) -> Item | None:
        """probe_loss, where there are rows to score: rank 0 tells it. `steps`: that were done at a rate above zero."""
        from engine.training import memory
        from engine.training.probe import score

        attempt, saved = self.attempt, self.manifest.probe if self.manifest is not None else None
        if saved is not None:
            now = score(trainer.model, self.rows) if self.rows else math.nan
            return memory.probe_item(saved, self._comparable, now, self.base, attempt.precision)
        return self._against_log(trainer, steps) if self.rows else None

    def _against_log(self, trainer: Any, steps: int) -> Item:
        """Held against a logged loss, which is a mean over many rows, it is that of more rows than a save could afford to score. Which
        of their tokens another tool's log counted nothing says: where the loss is not near, it is scored the other way too."""
        from engine.training.logged_probe import ROWS, Scored, judged, logged_losses, near
        from engine.training.material import counted_otherwise
        from engine.training.probe import choose_rows, score, score_base

        attempt, config = self.attempt, self.attempt.config
        assert self.checkpoint is not None

        def scored(train_on: str, rows: Sequence[ProbeRow]) -> Scored:
            return Scored(train_on, score(trainer.model, rows), score_base(trainer.model, rows))

        rows = choose_rows(attempt.material.probe_candidates, ROWS)
        here, logged = scored(config.train_on, rows), logged_losses(self.checkpoint)
        otherwise, other = None, None
        if self.manifest is None and logged is not None and not near(here, logged, attempt.precision):
            otherwise = counted_otherwise(config, attempt.material, rows)
        if attempt.sharded:  # all of them score, or none
            otherwise = self.ranks.share(otherwise)
        if otherwise is not None:
            here, other = replace(here, train_on=otherwise.own), scored(otherwise.other, otherwise.rows)
        return judged(here, other, logged, steps, attempt.precision, asked=config.train_on != "auto")

    def check_memory(self, trainer: Any, source: Path) -> dict[str, str]:
        """The other half of the receipt, told; item -> verdict. Raises CannotContinue where an item failed."""
        from engine.data.order import next_batch_digest
        from engine.training import memory

        attempt, checkpoint, manifest = self.attempt, self.checkpoint, self.manifest
        assert checkpoint is not None
        config, start, length, restarted = attempt.config, attempt.start, attempt.length, self.restarted
        trained = memory.steps_at_a_rate(trainer.optimizer, checkpoint) if manifest is None else 0
        probe = self._probe_item(trainer, trained)
        saved = memory.without_base_weights(memory.adapter_in_file(source), trainer.model)
        order = trainer.batches.order(start.epoch)
        digest = next_batch_digest(order, start.rows_consumed, manifest.geometry.rows if manifest else 0)
        where = _("epoch {epoch}, row {row}").format(epoch=start.epoch, row=start.rows_consumed)
        trainer._load_rng_state(str(source))
        now = {
            "schedule": schedule_words(
                config.scheduler, config.learning_rate, warmup_steps(config, length.total_steps), length.total_steps
            ),
            "batch_geometry": geometry_words(attempt.batch_size, config.grad_accum, self.ranks.world),
        }
        logged = against_log(checkpoint, config, length) if manifest is None else {}
        rescheduled = any(difference.item == "schedule" for difference in attempt.plan.differences)
        position = (
            Item("data_position", "", where, "changed", _("The epoch starts anew over the changed rows."))
            if restarted
            else next_batch_item(manifest, digest, where)
        )
        values = memory.values_item(saved, memory.adapter_in_memory(trainer.model), manifest)
        items = [
            *self.items,
            memory.not_there(values, saved, trained),
            memory.optimizer_item(trainer.model, trainer.optimizer, source, start.step, manifest, trainer.not_loaded),
            memory.scheduler_item(trainer.lr_scheduler, source, start.step, manifest, rescheduled or restarted),
            memory.rng_item(
                source, manifest, self.ranks, attempt.hardware.device, config.lora_dropout, trainer.rng_not_loaded
            ),
            position,
            *memory.plan_items(attempt.plan.differences, manifest, now, logged),
            memory.precision_item(manifest, attempt.precision, attempt.hardware.device),
            memory.scaler_item(source, attempt.hardware.precision, trainer.accelerator.scaler),
        ]
        if self.ranks.first and probe is not None:
            items.append(probe)
        receipt = Receipt(checkpoint.path, accepted(items, config.accept))
        only = receipt.failed[0] if len(receipt.failed) == 1 else None
        if only is not None and only.train_on and self.ranks.alone:
            raise CountedOtherTokens(only.train_on, only.detail)
        self.tell(receipt.event())
        receipt.refuse()
        if not self.ranks.alone:
            self.ranks.agree(memory.restored_facts(trainer))
        return {item.item: item.verdict for item in receipt.items}
