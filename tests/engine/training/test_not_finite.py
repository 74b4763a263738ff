"""A loss that is no number: where it comes from is said, and what is saved with it can still be read and continued."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.proof import read_manifest
from engine.errors import ModelError
from engine.training.open_logs import restore_logs
from engine.training.saving import WeightsNotFinite
from engine.training.sft import ExactTrainer
from tests.conftest import build_tiny_model
from tests.engine.runs import train


def test_a_base_model_that_computes_no_number_is_refused_before_the_first_step(tmp_path: Path, chat_file: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="no finite loss"):
        train(dataset=chat_file, model=model, output=tmp_path / "run", max_steps=2)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_weights_that_are_finite_and_of_no_use_are_not_saved(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = ExactTrainer.advance

    def explode(trainer: ExactTrainer) -> None:
        advance(trainer)
        if trainer.state.global_step == 4:
            with torch.no_grad():
                for name, parameter in trainer.model.named_parameters():
                    if "lora_" in name:
                        parameter.fill_(1e30)

    monkeypatch.setattr(ExactTrainer, "advance", explode)
    with pytest.raises(WeightsNotFinite, match="no longer computes a finite loss at step 4") as told:
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", max_steps=6, save_steps=2, max_grad_norm=0)
    assert "checkpoint-2" in told.value.detail
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_logging_window_that_is_no_number_goes_on_as_none(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As float16 has it, which skips a step whose gradients overflow."""
    advance = ExactTrainer.advance
    seen: list[Any] = []

    def overflow(trainer: ExactTrainer) -> None:
        advance(trainer)
        trainer._tr_loss.fill_(math.nan)
        seen[:] = [trainer]

    monkeypatch.setattr(ExactTrainer, "advance", overflow)
    out = tmp_path / "run"
    train(stop_at=3, dataset=chat_file, model=tiny_model, output=out, max_steps=6, save_steps=3, logging_steps=5)
    saved = read_manifest(out / "checkpoint-3")
    assert saved.logs.loss_sum is None
    (trainer,) = seen
    trainer._tr_loss.zero_()
    restore_logs(trainer, saved, trainer.saver.ranks)
    assert math.isnan(float(trainer._tr_loss))
