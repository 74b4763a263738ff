"""What `make bench` measures: 60 steps of LoRA r 16 on all linear layers of a 3M-parameter Llama, 480 short chats, batch 8."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.conftest import WORDS, build_tiny_model, write_jsonl

STEPS, BATCH = 60, 8


def prepare(folder: Path) -> None:
    """A dataset and a model, made here."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = []
    for index in range(480):
        words = " ".join(WORDS[(index * 7 + step * 3) % len(WORDS)] for step in range(5 + index * 13 % 60))
        rows.append(
            {"messages": [{"role": "user", "content": f"question {index}"}, {"role": "assistant", "content": words}]}
        )
    write_jsonl(folder / "chats.jsonl", rows)
    build_tiny_model(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder / "model", hidden_size=256, intermediate_size=704, num_hidden_layers=4)
    LlamaForCausalLM(config).save_pretrained(folder / "model")


def ours(folder: Path) -> tuple[float, float]:
    from tests.engine.runs import losses, train

    shutil.rmtree(folder / "run", ignore_errors=True)
    flags = {"dataset": folder / "chats.jsonl", "model": folder / "model", "output": folder / "run", "batch_size": BATCH}
    moments: list[float] = []
    train(
        **flags,
        max_steps=STEPS,
        save_steps=20,
        watch=lambda event: moments.append(time.monotonic()) if event.type == "step" else None,
    )
    return (moments[-1] - moments[0]) * STEPS / (STEPS - 1), losses(folder / "run")[-1][1]


def table(folder: Path) -> Any:
    from engine.config import RunConfig
    from engine.training.material import load_material

    return load_material(RunConfig(dataset=str(folder / "chats.jsonl"), model=str(folder / "model")))


def stock(folder: Path) -> tuple[float, float]:
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from engine.config import RunConfig
    from engine.training.peft_config import lora_config

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            moments.append(time.monotonic())

    material = table(folder)
    arguments = SFTConfig(
        output_dir=str(folder / "stock"), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=2e-4, save_steps=20,
        logging_steps=1, bf16=False, use_cpu=True, report_to=[], disable_tqdm=True, activation_checkpointing=False,
        max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32"), args=arguments,
        train_dataset=material.train.to_dataset(), processing_class=material.tokenizer, peft_config=lora_config(RunConfig()),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    last = [row["loss"] for row in trainer.state.log_history if "loss" in row][-1]
    return (moments[-1] - moments[0]) * STEPS / (STEPS - 1), last


def trl_sft(folder: Path) -> tuple[float, float]:
    """`trl sft` as it comes: its own defaults (all tokens learned, activation checkpointing), the same model, rows and LoRA."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    shutil.copy(folder / "chats.jsonl", data / "train.jsonl")
    command = [
        str(Path(sys.executable).with_name("trl")), "sft", "--model_name_or_path", str(folder / "model"), "--dataset_name", str(data),
        "--output_dir", str(folder / "trl"), "--use_peft", "--lora_r", "16", "--lora_alpha", "32", "--lora_target_modules",
        "all-linear", "--max_steps", str(STEPS), "--per_device_train_batch_size", str(BATCH), "--save_steps", "20",
        "--logging_steps", "1", "--bf16", "False", "--use_cpu", "True", "--report_to", "none", "--learning_rate", "2e-4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    state = json.loads((folder / "trl" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    (seconds,) = {float(found) for found in re.findall(r"'train_runtime': '?([0-9.]+)", done.stdout + done.stderr)}
    return seconds, [row["loss"] for row in state["log_history"] if "loss" in row][-1]


def raw_same(folder: Path) -> tuple[float, float]:
    """The raw loop fed the very batches that lora-tui trains on: what its own work beside the model costs."""
    return raw(folder, same=True)


def raw(folder: Path, same: bool = False) -> tuple[float, float]:
    """The floor: padded random batches, forward, backward, step, nothing else."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from engine.config import RunConfig
    from engine.training.peft_config import lora_config

    material = table(folder)
    torch.manual_seed(42)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32"), lora_config(RunConfig()))
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=2e-4, weight_decay=0.0)
    collate = DataCollatorForLanguageModeling(material.tokenizer.pad_token_id)
    if same:
        from engine.data.order import row_order

        order = row_order(RunConfig().seed, 0, material.train.lengths).tolist()
    else:
        order = torch.randperm(len(material.train)).tolist()
    batches = [[material.train.row(row) for row in order[begin : begin + BATCH]] for begin in range(0, STEPS * BATCH, BATCH)]
    model.train()
    started = time.monotonic()
    for rows in batches:
        loss = model(**collate(rows), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = float(loss)
    return time.monotonic() - started, last


VARIANTS = {
    "lora-tui": ours,
    "trl sft": trl_sft,
    "TRL's trainer": stock,
    "raw loop, padded": raw,
    "raw loop, same": raw_same,
}


if __name__ == "__main__":
    seconds, loss = VARIANTS[sys.argv[1]](Path(sys.argv[2]))
    used = [os.times().user + os.times().system, os.times().children_user + os.times().children_system]
    print(json.dumps({"train": seconds, "last_loss": loss, "cpu": sum(used)}))
