"""A real vocabulary: a step of 8 rows with half of the tokens masked, by the loss at labels, TRL's own loss and all logits.

152k tokens, 8 layers of 512. Each way is a process of its own, in alternating order, so that its peak memory is its own; the model
and the batch are the same, and so must the loss be.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

WAYS = ("labels", "TRL", "all logits")
VOCABULARY, ROWS, TOKENS, STEPS, REPEATS = 151_936, 8, 128, 3, 3


def one(way: str) -> dict[str, float]:
    """Median seconds of a forward and backward, loss and peak memory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from engine.training.loss import LossAtLabels

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
                         num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=True)  # fmt: skip
    base = LlamaForCausalLM(config)
    if way == "TRL":
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
    if way == "labels":
        LossAtLabels(model.get_base_model()).differs()
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
    labels = ids.clone()
    labels[:, : TOKENS // 2] = -100
    count = int((labels[:, 1:] != -100).sum())
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    seconds = []
    for _step in range(STEPS):
        begin = time.perf_counter()
        if way == "labels":
            loss = model(**inputs, label_loss=True) / count
        elif way == "TRL":
            loss = -model(**inputs, fused_lm_head=True).log_probs.sum() / count
        else:
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        model.zero_grad()
        seconds.append(time.perf_counter() - begin)
    used = os.times()
    return {"step": statistics.median(seconds), "loss": float(loss.detach()), "cpu": used.user + used.system,
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}  # fmt: skip


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for turn in range(REPEATS):
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            command = [sys.executable, "-m", "tests.bench.vocabulary", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()}
    ours = medians["labels"]
    print(f"{'':12}{'step s':>8}{'':>8}{'peak MB':>9}{'':>8}{'CPU s':>8}{'loss':>9}")
    for way, row in medians.items():
        print(f"{way:12}{row['step']:8.2f}{row['step'] / ours['step']:7.2f}x{row['peak MB']:9.0f}"
              f"{row['peak MB'] / ours['peak MB']:7.2f}x{row['cpu']:8.1f}{row['loss']:9.4f}")  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(one(sys.argv[1])))
