"""TRL's SFTTrainer with what is changed to make continuing exact (1 to 4), its numbers too (5), and fast (6).

1. *Rows, not steps.* Batches come from RowBatches, which starts at a cursor; the Trainer's own skipping (recomputed from the
   current arguments, so another batch size lands elsewhere) is never used. Several processes cut each batch among themselves;
   accelerate, which would give them batches in turn and fill up the last ones with rows twice, is not asked.
2. *The loader leaves the random state alone.* torch's DataLoader draws a seed from the global generator whenever it is iterated;
   a generator of its own keeps dropout the same whether an epoch was entered or continued.
3. *Saving is staged.* `_save_checkpoint` hands over to the run's saver; the stock one writes straight into checkpoint-N and
   rotates by modification time.
4. *The schedule is computed, not remembered.* After loading, the rate is what the schedule of now says for this step, so an
   extended run starts at the rate its plan showed. At an unchanged schedule this is the saved number, bit for bit.
5. *The eval loss is that of the eval rows*: the mean over all their labels. Stock takes the mean of the batches' means, which changes
   with the batch size, and counts rows twice that fill up the last batch of several processes. Its loader leaves the random state
   alone too.
6. *The loss is computed where labels are* (loss.py), and entropy and accuracy, which take a pass over all logits, are not.

And an adapter on a base model in 4 bit stays in float32, as every other: TRL would make it bfloat16, in which small steps are lost
and for which float16's loss scaling has no kernel.

This module imports torch and trl at its top: import it only where training starts.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy._core import multiarray
from torch.utils.data import DataLoader
from trl import SFTTrainer

from engine.checkpoints.files import count, number
from engine.checkpoints.inspect import SCHEDULER
from engine.checkpoints.rates import saved_step
from engine.course.steps import Length, Position
from engine.data.tokens import IGNORED
from engine.errors import first_line
from engine.i18n import _
from engine.training.batches import RowBatches, in_order
from engine.training.fitting import is_out_of_memory
from engine.training.loss import LossAtLabels

OLD_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
]
"""What NumPy called them before 2, as random states that were saved with it do; they build an array and a number."""


class Saver(Protocol):
    """Takes over when a checkpoint is due."""

    def __call__(self, trainer: ExactTrainer) -> None: ...


class ExactTrainer(SFTTrainer):
    """SFTTrainer whose continuing is exact. `position` is where the run stands, after each step."""

    def __init__(
        self, *, rows: Any, eval_rows: Any, batches: RowBatches, start: Position, length: Length, saver: Saver, at_labels: bool,
        in_parts: bool, **options: Any,
    ) -> None:  # fmt: skip
        """`rows`, `eval_rows`: sequences of {"input_ids", "labels"}; `start`: Position(0, 0, 0) for a fresh run; `at_labels`: logits
        there only; `in_parts`: the base model is shared out among the processes (parts.py)."""
        super().__init__(**options)
        if getattr(self.model, "is_loaded_in_4bit", False):
            keep_float32(self.model)
        self.at_labels, self.why_not_at_labels = self._loss_at_labels() if at_labels else (None, None)
        self.rows, self.batches, self.position, self.length, self.saver = rows, batches, start, length, saver
        # Else it would be wrapped in DDP. transformers says so of its own way only.
        self.is_distributed_loading_by_transformers = in_parts
        self.eval_rows = eval_rows
        self._evaluated = [0.0, 0]
        """Loss in nats, summed, and labels of the evaluation under way."""
        self._taken = 0
        self._parameters: int | None = None
        self._replicated: tuple[torch.nn.Parameter, ...] = ()
        """Trained parameters that each process of several has whole while the base model is shared out among them."""
        self.not_loaded: str | None = None
        """Why the saved optimizer or scheduler was not taken, in the library's words. The receipt decides what follows."""
        self.rng_not_loaded: str | None = None
        """The same of the random states."""

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the running one."""
        return self.position.epochs(len(self.rows))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A loader over `batches`. Not prepared by accelerate: rows are cut here."""
        return DataLoader(
            self.rows,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """A loader over `eval_rows` as they come, cut among the processes as `batches` are."""
        batches = in_order(len(self.eval_rows), self.batches.each, self.batches.rank, self.batches.world)
        return DataLoader(
            self.eval_rows,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator(),
        )

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As Trainer's, but the loss is the mean over the labels of all rows."""
        self._evaluated = [0.0, 0]
        found = super().evaluation_loop(*args, **options)
        together = torch.tensor(self._evaluated, dtype=torch.float64)
        if self.batches.world > 1:
            torch.distributed.all_reduce(together)
        total, labels = together.tolist()
        found.metrics[f"{options.get('metric_key_prefix', 'eval')}_loss"] = total / max(labels, 1)
        return found

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """As TRL's; what it comes to is added up."""
        found = super().prediction_step(model, inputs, *args, **options)
        labels = int((inputs["labels"][:, 1:] != IGNORED).sum())
        if labels:  # the stock mean over none is no number
            self._evaluated[0] += float(found[0]) * labels
            self._evaluated[1] += labels
        return found

    def set_initial_training_values(self, args: Any, dataloader: DataLoader[Any]) -> tuple[Any, ...]:
        """The run's length as counted from its position (steps.run_length), in the shape Trainer expects."""
        rows = len(self.rows)
        batches = math.ceil(rows / self.batches.batch_size)
        per_step = self.batches.batch_size * args.gradient_accumulation_steps
        epochs = max(1, math.ceil(round(self.length.total_epochs, 9)))
        total = self.length.total_steps
        return epochs, self.length.steps_per_epoch, rows, rows * epochs, per_step, batches, total

    def _init_training_state(self, *args: Any, **options: Any) -> tuple[int, int]:
        super()._init_training_state(*args, **options)
        # Loading put the saved intervals in place of the asked ones, silently (transformers 28867).
        self.state.compute_steps(self.args, self.length.total_steps)
        self.state.train_batch_size = self.batches.batch_size
        return self.position.epoch, 0

    def _run_epoch(self, **options: Any) -> None:
        begun = options["epoch"] == self.position.epoch
        self.batches.at(options["epoch"], self.position.rows_consumed if begun else 0)
        options["steps_in_epoch"] = len(self.batches)
        options["num_update_steps_per_epoch"] = math.ceil(len(self.batches) / self.args.gradient_accumulation_steps)
        options["model"].train()  # the whole of it: a model comes loaded in evaluation mode, its wrapper says otherwise
        super()._run_epoch(**options)

    def _loss_at_labels(self) -> tuple[LossAtLabels | None, str | None]:
        """The loss at labels, or why this model is trained the stock way although it was asked for."""
        if self.aux_loss_enabled:
            return None, _("its experts are balanced by a part of the loss that only its own forward computes")
        found = LossAtLabels(self.model.get_base_model())
        if (why := found.differs()) is not None:
            found.detach()
            return None, why
        return found, None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of a label, over the whole step where `num_items_in_batch` counts its labels, as stock TRL's."""
        if self.at_labels is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total = model(**inputs, label_loss=True)
        # DDP takes the mean of the processes' gradients, and the labels counted are those of all of them.
        shares = self.accelerator.num_processes if num_items_in_batch is not None else 1
        self._metrics["train" if model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
        labels = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return total * shares / torch.as_tensor(labels, device=total.device).clamp(min=1)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch, as Trainer's; the mode is set where it differs only, since setting it walks over every
        module of the model."""
        if self.at_labels is None or num_items_in_batch is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            if not model.training:
                model.train()
            with self.maybe_activation_offload_context, self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
                self.accelerator.backward(loss)
        if self._replicated and self.accelerator.sync_gradients:
            self._average_gradients()
        detached: torch.Tensor = loss.detach()
        return detached

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Begin with rank 0's adapter in all processes. Trainer's own would then average each parameter's gradient by itself, with an
        operation that gloo does not have."""
        self._replicated = tuple(parameter for parameter in model.parameters() if parameter.requires_grad)
        with torch.no_grad():
            for parameter in self._replicated:
                torch.distributed.broadcast(parameter.data, src=0)

    def _average_gradients(self) -> None:
        """The mean of the processes' gradients, as DDP takes it, of all trained parameters at once."""
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._replicated]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(together)
        together /= self.accelerator.num_processes
        begin = 0
        for parameter in self._replicated:
            parameter.grad = together[begin : begin + parameter.numel()].view_as(parameter)
            begin += parameter.numel()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As the model's own estimate (6 a parameter and token), but the parameters are counted once and not every step."""
        if self._parameters is None:
            self._parameters = int(self.model.num_parameters(exclude_embeddings=True))
        return 6 * int(inputs["input_ids"].numel()) * self._parameters

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """As Trainer's; counts the rows of the coming optimizer step."""
        samples, items = super().get_batch_samples(*args, **options)
        begun, order = self.position.rows_consumed, self.batches.order(self.position.epoch)
        rows = order[begun : begun + len(samples) * self.batches.batch_size]  # of all processes
        self._taken = len(rows)
        if self.at_labels is not None:  # stock's compute_loss counts for itself
            self._total_train_tokens += int(self.batches.lengths[rows].sum())
        return samples, items

    def advance(self) -> None:
        """Move `position` past the rows of the step that was just done. Called once, when the step has ended."""
        done = self.position.rows_consumed + self._taken
        if done >= len(self.rows):
            self.position = replace(
                self.position, step=self.state.global_step, epoch=self.position.epoch + 1, rows_consumed=0
            )
        else:
            self.position = replace(self.position, step=self.state.global_step, rows_consumed=done)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        fresh = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        scheduler, own = self.lr_scheduler, dict(vars(self.lr_scheduler))
        own_optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        hook = own_optimizer.register_load_state_dict_pre_hook(_in_two_groups)
        step = None
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ArithmeticError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):  # for whoever makes the batch smaller; the checkpoint is not to blame
                raise
            self.not_loaded = first_line(error)
            # Of another kind of scheduler only where it stands is needed, and an optimizer that does not fit says nothing against it.
            step = saved_step(Path(checkpoint) / SCHEDULER) if checkpoint is not None else None
        finally:
            hook.remove()
        if checkpoint is None:
            return
        # torch takes whatever stands there, methods too; the receipt tells of what is not the saved run's.
        for one in [one for one, kept in self.optimizer.state.items() if not isinstance(kept, Mapping)]:
            del self.optimizer.state[one]
        stands = {name: vars(scheduler)[name] for name in ("last_epoch", "_step_count")}
        if step is not None:
            stands = {"last_epoch": step, "_step_count": step + 1}
        scheduler.__dict__ = own | (stands if all(count(one) is not None for one in stands.values()) else {})
        scheduler.base_lrs = [group["initial_lr"] for group in fresh]
        scheduler._last_lr = [
            base * multiplier(scheduler.last_epoch)
            for base, multiplier in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, asked, rate in zip(self.optimizer.param_groups, fresh, scheduler._last_lr, strict=True):
            group.update({**asked, **_of_adam(group)}, lr=rate)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        try:
            with torch.serialization.safe_globals(OLD_NUMPY):
                super()._load_rng_state(checkpoint)
        except (pickle.UnpicklingError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            self.rng_not_loaded = first_line(error)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.store_flos()
        self.saver(self)


def _in_two_groups(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """`saved`, with the empty second group that Trainer makes where all that is trained stands in one, in the same order."""
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        return saved
    if [bool(group["params"]) for group in optimizer.param_groups] != [True, False]:
        return saved
    return {**saved, "param_groups": [groups[0], {**groups[0], "params": []}]}


def _of_adam(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What no setting here says of Adam, as another tool's run had it; nothing where it is not what Adam could have."""
    betas, eps = saved.get("betas"), number(saved.get("eps"))
    known = [number(one) for one in betas] if isinstance(betas, list | tuple) else []
    if len(known) != 2 or not all(one is not None and 0 <= one < 1 for one in known) or eps is None or not 0 <= eps <= 1:
        return {}
    flags = {name: saved[name] for name in ("amsgrad", "maximize") if isinstance(saved.get(name), bool)}
    return {"betas": tuple(known), "eps": eps, **flags}


def keep_float32(model: Any) -> None:
    """Put what is trained of `model` into float32. To be called before an optimizer is made for it."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
