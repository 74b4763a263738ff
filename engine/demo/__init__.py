"""The embedded default, `--demo`: a tiny model and a small dataset, built on this machine, and answers that go with them.

Light to import: torch and transformers are loaded only when something has to be built.
"""

from __future__ import annotations

from engine.demo.build import DATASET, MODEL, Demo, demo_folder, ensure_demo

__all__ = ["Demo", "demo_answers", "ensure_demo"]


def demo_answers() -> dict[str, object]:
    """The demo's own answers, field of RunConfig -> value. The paths are valid once `ensure_demo` has returned.

    The learning rate is far above what a real model takes: the base is a thousand times smaller than one, and the demo shows in
    seconds what takes hours there.
    """
    folder = demo_folder()
    return {
        "dataset": str(folder / DATASET),
        "model": str(folder / MODEL),
        "output": "out/demo",
        "epochs": 3.0,
        "learning_rate": 5e-3,
        "scheduler": "cosine",
        "warmup": 0.03,
        "batch_size": 4,
        "grad_accum": 1,
        "max_length": 256,
        "train_on": "assistant",
        "lora_r": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "precision": "float32",
        "logging_steps": 1,
        "save_steps": 25,
        "keep": 3,
    }
