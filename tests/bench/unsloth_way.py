"""Unsloth's trainer on rows and a model that another process made: `unsloth_way.py WORK`, a JSON file (tests/bench/large.py).

Its environment is one of its own and has nothing of this project, so nothing of it is imported here. The last line that is printed
holds the moment of each step's end, the loss of the last step and the peak in bytes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import unsloth  # before torch, transformers and TRL, which it changes


def main() -> None:
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            torch.cuda.synchronize()
            moments.append(time.perf_counter())

    work = json.loads(Path(sys.argv[1]).read_text())
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        work["model"], max_seq_length=work["max_length"], dtype=torch.bfloat16, load_in_4bit=work["bits"] == "4 bit",
        use_gradient_checkpointing=work["checkpointing"],
    )  # fmt: skip
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=work["lora_r"], lora_alpha=work["lora_alpha"], lora_dropout=0, bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing=work["checkpointing"],
    )  # fmt: skip
    # Its own defaults are an 8-bit optimizer, two accumulated batches, a warmup and another seed.
    arguments = SFTConfig(
        output_dir="out", per_device_train_batch_size=work["batch_size"], gradient_accumulation_steps=1, max_steps=work["steps"],
        learning_rate=2e-4, warmup_steps=0, weight_decay=0.0, optim="adamw_torch_fused", seed=42, bf16=True, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, max_length=work["max_length"],
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=arguments, callbacks=[Clock()], train_dataset=Dataset.from_dict(work["rows"]),
        processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(json.dumps({"moments": moments, "loss": losses[-1], "peak": torch.cuda.max_memory_allocated()}))


if __name__ == "__main__":  # the processes that Unsloth begins for the rows import this file again
    main()
