"""The same numbers as the libraries it stands on, and checkpoints that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.training.material import load_material
from tests.engine.runs import losses, plan, train

FLAGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 3}


def stock(folder: Path, model: Path, **options: Any) -> Any:
    """SFTConfig as a person would write it for the same run."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=4, learning_rate=1e-2, max_steps=7, lr_scheduler_type="cosine",
        warmup_steps=1, logging_steps=1, bf16=False, use_cpu=True, report_to=[], disable_tqdm=True, seed=42, max_length=None,
        save_steps=3, activation_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True}, **options,
    )  # fmt: skip


def stock_trainer(folder: Path, model: Path, data: Path, in_our_order: bool = False) -> Any:
    """TRL's trainer with a new adapter, over the tokens of a run here: as it draws them, or in the order of the run's first epoch."""
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    from engine.data.order import row_order
    from engine.training.peft_config import lora_config

    config = RunConfig(dataset=str(data), model=str(model))
    material = load_material(config)
    rows, options = material.train.to_dataset(), {}
    if in_our_order:
        rows = rows.select(row_order(config.seed, 0, material.train.lengths))
        options["train_sampling_strategy"] = "sequential"
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=stock(folder, model, **options),
        train_dataset=rows,
        processing_class=material.tokenizer,
        peft_config=lora_config(config),
    )


def test_the_losses_are_stock_trls_on_the_same_batches(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    trainer = stock_trainer(tmp_path / "stock", tiny_model, chat_file, in_our_order=True)
    trainer.train()
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    ours = [loss for _step, loss in losses(tmp_path / "run")]
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_what_makes_a_step_is_told_to_the_library_and_not_left_to_its_defaults(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl

    told: dict[str, Any] = {}
    known = trl.SFTConfig

    def config(**options: Any) -> Any:
        told.update(options)
        return known(**options)

    monkeypatch.setattr(trl, "SFTConfig", config)
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", max_steps=1)
    expected = {"optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "loss_type": "nll",
                "average_tokens_across_devices": True}  # fmt: skip
    assert {name: told.get(name) for name in expected} == expected
    now = stock(tmp_path / "stock", tiny_model)
    assert {name: getattr(now, name) for name in expected} == expected


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Path, chat_file: Path) -> Path:
    """Of step 3 of 7."""
    train(stop_at=3, dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    return tmp_path / "run" / "checkpoint-3"


def test_peft_loads_the_adapter_of_a_checkpoint_as_it_was_saved(checkpoint: Path, tiny_model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from engine.training.memory import adapter_in_file, adapter_in_memory

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    loaded = adapter_in_memory(PeftModel.from_pretrained(base, checkpoint))
    saved = adapter_in_file(checkpoint)
    assert saved and all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_plain_trainer_goes_on_from_a_checkpoint(
    checkpoint: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    trainer = stock_trainer(tmp_path / "stock", tiny_model, chat_file)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    logged = [row["step"] for row in trainer.state.log_history if "loss" in row]
    assert trainer.state.global_step == 7
    assert logged == [1, 2, 3, 4, 5, 6, 7]


def test_a_checkpoint_of_plain_trl_is_continued_where_it_stood(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    from tests.engine.runs import receipt

    trainer = stock_trainer(tmp_path / "stock", tiny_model, chat_file)
    trainer.train()
    out = tmp_path / "stock"
    assert plan(output=out, dataset=chat_file, model=tiny_model).mode == "complete"
    _outcome, events = train(output=out, dataset=chat_file, model=tiny_model, epochs=2, batch_size=4)
    verdicts = receipt(events)
    assert {verdicts[item] for item in ("adapter_keys", "adapter_values", "adapter_config", "optimizer", "scheduler")} == {
        "ok"
    }
    assert next(event.step for event in events if event.type == "step") == 8  # type: ignore[attr-defined]


def test_the_planned_learning_rates_are_the_schedulers(tmp_path: Path) -> None:
    import torch
    from transformers import get_scheduler

    from engine.course.steps import learning_rate_at, warmup_steps

    for name in ("cosine", "linear", "constant"):
        config = RunConfig(scheduler=name, learning_rate=3e-4, warmup=0.1)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
        kind = "constant_with_warmup" if name == "constant" else name
        scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup_steps(config, 37), num_training_steps=37)
        for step in range(38):
            assert learning_rate_at(config, 37, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-18)
            optimizer.step()
            scheduler.step()
