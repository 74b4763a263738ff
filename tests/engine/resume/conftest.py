"""Runs to go on with: one of ours, and one of another tool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import chats, write_jsonl
from tests.engine.runs import train

FLAGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 4}


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run stopped in the middle of its first epoch, at step 5 of 14. Copy it before continuing it."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(stop_at=5, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory, taught_model: Path) -> Path:
    """A folder that plain transformers.Trainer with a PEFT model wrote: checkpoints 7 and 14 of 21 steps, losses logged at each."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("plain")
    data = write_jsonl(folder / "data.jsonl", chats(28))
    tokenizer = AutoTokenizer.from_pretrained(taught_model)
    rows = [json.loads(line)["messages"] for line in data.read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    encoded = [tokenizer(text)["input_ids"] for text in texts]

    def collate(batch: list[list[int]]) -> dict[str, Any]:
        longest = max(map(len, batch))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.float32)
    shape = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        str(folder / "run"), per_device_train_batch_size=4, num_train_epochs=3, max_steps=-1, learning_rate=5e-3, logging_steps=1,
        save_steps=7, use_cpu=True, report_to=[], disable_tqdm=True, remove_unused_columns=False, seed=1,
    )  # fmt: skip
    trainer = Trainer(get_peft_model(base, shape), arguments, data_collator=collate, train_dataset=encoded)  # type: ignore[arg-type]
    trainer.train()
    shutil.rmtree(folder / "run" / "checkpoint-21")
    return folder


@pytest.fixture
def run(trainers: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trainers / "run", tmp_path / "run"))
