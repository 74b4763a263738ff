"""A step on the processor in float32 and in bfloat16, by the width of the model: where `engine.hardware.WIDE` comes from.

Four layers in the shape of small chat models (heads of 64, feed-forward three times the width), LoRA r 16 on all linear layers, four
rows of 256 tokens, the loss at half of them, as lora-tui computes a step. Alternating order, medians of five.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTHS = (256, 512, 1024)
ROWS, LENGTH, VOCABULARY, STEPS = 4, 256, 32_000, 5


def model_of(folder: Path, precision: str) -> Any:
    """The model as a run loads it, with its adapter, and its optimizer."""
    import torch
    from peft import get_peft_model

    from engine.config import RunConfig
    from engine.hardware import Hardware
    from engine.training.lora_kernel import fuse
    from engine.training.loss import LossAtLabels
    from engine.training.model import load_base
    from engine.training.peft_config import lora_config

    model = get_peft_model(load_base(folder, Hardware("cpu", "", precision, ""), RunConfig()), lora_config(RunConfig()))
    fuse(model)
    if (why := LossAtLabels(model.get_base_model()).differs()) is not None:
        raise SystemExit(why)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model.train(), torch.optim.AdamW(trained, lr=2e-4, fused=True)


def step(model: Any, optimizer: Any, ids: Any, labels: Any) -> tuple[float, float]:
    """(seconds, loss)."""
    started = time.perf_counter()
    loss = model(input_ids=ids, attention_mask=ids.new_ones(ids.shape), labels=labels, label_loss=True)
    loss = loss / (labels[:, 1:] != -100).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started, float(loss)


def main() -> None:
    from engine.hardware import load_libraries

    load_libraries()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if not torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported():
        print("this processor has no bf16 units: what follows is what they would be asked for, not what a run does")
    print("| width | float32 s | bfloat16 s | times as fast | losses |")
    print("|---|---|---|---|---|")
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as name:
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4, head_dim=64,
                num_attention_heads=width // 64, num_key_value_heads=max(1, width // 128), tie_word_embeddings=True,
            )  # fmt: skip
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(name)
            models = {}
            for precision in ("float32", "bfloat16"):
                torch.manual_seed(0)
                models[precision] = model_of(Path(name), precision)
        ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
        labels = torch.where(torch.arange(LENGTH) < LENGTH // 2, -100, ids)
        found: dict[str, list[tuple[float, float]]] = {precision: [] for precision in models}
        for turn in range(STEPS + 1):
            for precision in list(models) if turn % 2 else reversed(list(models)):
                found[precision].append(step(*models[precision], ids, labels))
        seconds = {precision: statistics.median(one[0] for one in steps[1:]) for precision, steps in found.items()}
        losses = ", ".join(f"{steps[-1][1]:.4f}" for steps in found.values())
        times = seconds["float32"] / seconds["bfloat16"]
        print(f"| {width} | {seconds['float32']:.3f} | {seconds['bfloat16']:.3f} | {times:.2f} | {losses} |")
