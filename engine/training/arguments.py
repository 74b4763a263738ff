"""What TRL is told of a run: every argument that matters is set here, so that a changed default of the library changes nothing."""

from __future__ import annotations

from typing import Any

from engine.course.steps import save_interval, warmup_steps
from engine.extras import trackers
from engine.training.attempt import Attempt
from engine.training.trackers import tracker_name


def training_arguments(attempt: Attempt, several: bool = False) -> Any:
    """The SFTConfig of one attempt. `several`: whether this is one of several processes."""
    from trl import SFTConfig

    plan, config, hardware, length = attempt.plan, attempt.config, attempt.hardware, attempt.length
    evaluates = attempt.material.eval is not None
    interval = save_interval(config, length.steps_per_epoch)
    return SFTConfig(
        output_dir=str(plan.output_dir),
        per_device_train_batch_size=attempt.batch_size,
        per_device_eval_batch_size=attempt.batch_size,
        gradient_accumulation_steps=config.grad_accum,
        max_steps=length.total_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        warmup_steps=warmup_steps(config, length.total_steps),
        optim="adamw_torch_fused",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=hardware.precision == "bfloat16" and hardware.device == "cuda",
        fp16=hardware.precision == "float16",
        use_cpu=hardware.device == "cpu",
        activation_checkpointing=config.activation_checkpointing,
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=None,
        save_only_model=attempt.sharded,  # else Trainer refuses: its own way of saving cannot; ours writes what each process has whole
        eval_strategy="steps" if evaluates else "no",
        eval_steps=interval if evaluates else None,
        report_to=trackers(config),
        run_name=tracker_name(plan.run_id, plan.output_dir),
        project="lora-tui",
        disable_tqdm=True,
        ddp_timeout=int(config.ddp_timeout),
        ddp_backend=("gloo" if hardware.device == "cpu" else "nccl") if several else None,
        # Otherwise DDP puts its buckets into another order after the first step, and three processes or more add up in another one
        # than they did: a continued run would differ in its last bits. It also allows for experts that no token went to.
        ddp_find_unused_parameters=several or None,
        ddp_broadcast_buffers=False if several else None,
        dataloader_pin_memory=hardware.device == "cuda",
        dataset_kwargs={"skip_prepare_dataset": True},
        loss_type="nll",
        average_tokens_across_devices=True,  # sft.py divides by the labels of all processes
        max_length=None,
        packing=False,
    )
