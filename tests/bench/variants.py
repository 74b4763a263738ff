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
    """The command, as a person starts it."""
    from engine.journal import read_journal

    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("lora-tui")), "--yes", "--dataset", str(folder / "chats.jsonl"), "--model",
        str(folder / "model"), "--output", str(folder / "run"), "--batch-size", str(BATCH), "--max-steps", str(STEPS),
        "--save-steps", "20",
    ]  # fmt: skip
    started(command, r"^step 1/")
    steps = [record for record in read_journal(folder / "run") if record["type"] == "step"]
    return (steps[-1]["t"] - steps[0]["t"]) * STEPS / (STEPS - 1), steps[-1]["loss"]


def started(command: list[str], first: str) -> str:
    """Run `command`; what it printed. The seconds until a line matched `first`, the first step, are printed beside them."""
    begun, printed, seen = time.monotonic(), [], None
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            if seen is None and re.search(first, line):
                seen = time.monotonic() - begun
    if process.returncode or seen is None:
        raise SystemExit("".join(printed)[-2000:])
    print(json.dumps({"first": seen}))
    return "".join(printed)


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
    printed = started(command, r"'loss'")
    state = json.loads((folder / "trl" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    (seconds,) = {float(found) for found in re.findall(r"'train_runtime': '?([0-9.]+)", printed)}
    return seconds, [row["loss"] for row in state["log_history"] if "loss" in row][-1]


def llama_factory(folder: Path) -> tuple[float, float]:
    """LLaMA-Factory as it comes (activation checkpointing, answers learned), from the environment that LLAMA_FACTORY names."""
    where = {"file_name": "chats.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    (folder / "dataset_info.json").write_text(json.dumps({"chats": {**where, "tags": tags}}))
    settings = {
        "model_name_or_path": str(folder / "model"), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 16,
        "lora_alpha": 32, "lora_target": "all", "dataset": "chats", "dataset_dir": str(folder), "template": "chatml",
        "cutoff_len": 1024, "overwrite_cache": True, "output_dir": str(folder / "llama-factory"), "overwrite_output_dir": True,
        "logging_steps": 1, "save_steps": STEPS // 3, "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1,
        "learning_rate": 2e-4, "max_steps": STEPS, "bf16": False, "use_cpu": True, "report_to": "none",
    }  # fmt: skip
    (folder / "llama-factory.yaml").write_text(json.dumps(settings))
    printed = started(
        [f"{os.environ['LLAMA_FACTORY']}/bin/llamafactory-cli", "train", str(folder / "llama-factory.yaml")], r"'loss'"
    )
    state = json.loads((folder / "llama-factory" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    (seconds,) = {float(found) for found in re.findall(r"'train_runtime': '?([0-9.]+)", printed)}
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
    **({"LLaMA-Factory": llama_factory} if "LLAMA_FACTORY" in os.environ else {}),
}
"""LLaMA-Factory needs older libraries, so an environment of its own: `python -m venv lf; lf/bin/pip install llamafactory`, then
LLAMA_FACTORY=lf."""


if __name__ == "__main__":
    seconds, loss = VARIANTS[sys.argv[1]](Path(sys.argv[2]))
    used = [os.times().user + os.times().system, os.times().children_user + os.times().children_system]
    print(json.dumps({"train": seconds, "last_loss": loss, "cpu": sum(used)}))
