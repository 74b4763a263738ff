"""How long a save holds the training loop: ours against stock Trainer's, of the same trainer in the same run, in alternating order.

Ours hashes, proves and syncs what it writes; stock does none of it. A save that comes before the one before it is committed waits for
that; here they are far enough apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = ((256, 4, 16), (1024, 8, 64))
"""(hidden size, layers, LoRA rank): a tiny adapter, and one that with its optimizer is above 100 MB."""
SAVES = 6


def build(folder: Path, hidden: int, layers: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.bench.variants import prepare

    prepare(folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(
        folder / "model", hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, head_dim=hidden // 8,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")


def stalls(folder: Path, rank: int) -> tuple[list[float], list[float], float]:
    """(seconds of each stock save, of each of ours, megabytes of one of ours)."""
    from trl import SFTTrainer

    from engine.training.sft import ExactTrainer
    from tests.engine.runs import train

    found: dict[str, list[float]] = {"stock": [], "ours": []}
    ours = ExactTrainer._save_checkpoint

    def timed(name: str, save: Any, *arguments: Any) -> None:
        begun = time.perf_counter()
        save(*arguments)
        found[name].append(time.perf_counter() - begun)

    def both(self: Any, model: Any, trial: Any) -> None:
        def stock() -> None:
            out, self.args.output_dir = self.args.output_dir, str(folder / "stock")
            try:
                timed("stock", SFTTrainer._save_checkpoint, self, model, trial)
            finally:
                self.args.output_dir = out

        first = len(found["ours"]) % 2 == 0
        if first:
            stock()
        timed("ours", ours, self, model, trial)
        if not first:
            self.saver.settle()  # else both write to the disk at once
            stock()

    ExactTrainer._save_checkpoint = both  # type: ignore[method-assign]
    try:
        _outcome, events = train(
            dataset=folder / "chats.jsonl", model=folder / "model", output=folder / "run", batch_size=2, lora_r=rank,
            max_steps=4 * SAVES, save_steps=4,
        )  # fmt: skip
    finally:
        ExactTrainer._save_checkpoint = ours  # type: ignore[method-assign]
    sizes = [event.bytes for event in events if event.type == "checkpoint_saved"]
    return found["stock"], found["ours"], statistics.median(sizes) / 1e6


def main() -> None:
    print("| a checkpoint | stock save, median (most) | ours | ours, x stock |\n|---|---|---|---|")
    for hidden, layers, rank in SHAPES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            build(folder, hidden, layers)
            stock, ours, size = stalls(folder, rank)
        middle = [statistics.median(one) for one in (stock, ours)]
        print(f"| {size:.1f} MB | {middle[0]:.3f} s ({max(stock):.3f}) | {middle[1]:.3f} s ({max(ours):.3f}) | "
              f"{middle[1] / middle[0]:.2f} |")  # fmt: skip
