"""A base model in 4 bit needs a GPU. What TRL does to an adapter on one it does by the model's word, and that can be said here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.training import model as loading
from engine.training.sft import ExactTrainer
from tests.engine.runs import receipt, train


def test_an_adapter_on_a_model_in_4_bit_is_trained_saved_and_continued_in_float32(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    load, step, seen = loading.load_base, ExactTrainer.training_step, set()

    def load_as_4_bit(*arguments: Any) -> Any:
        base = load(*arguments)
        base.is_loaded_in_4bit = True
        return base

    def looked_at(self: Any, *arguments: Any) -> Any:
        trained = [one for group in self.optimizer.param_groups for one in group["params"]]
        seen.update(one.dtype for one in trained)
        assert {id(one) for one in trained} == {id(one) for one in self.model.parameters() if one.requires_grad}
        return step(self, *arguments)

    monkeypatch.setattr(loading, "load_base", load_as_4_bit)
    monkeypatch.setattr(ExactTrainer, "training_step", looked_at)
    monkeypatch.setattr(
        ExactTrainer, "floating_point_ops", lambda *_: 0
    )  # transformers counts 4-bit parameters by bitsandbytes
    options = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "out", "save_steps": 1}
    train(**options, max_steps=1)
    _outcome, events = train(**options, max_steps=2)
    assert receipt(events)["adapter_values"] == "ok"
    saved = load_file(tmp_path / "out" / "final" / "adapter_model.safetensors")
    assert seen == {torch.float32} == {tensor.dtype for tensor in saved.values()}
