"""Checkpoint folders written by hand: real files in the real formats, as small as they get."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from engine.checkpoints.manifest import MANIFEST_NAME, Manifest, dump_manifest

HEX = "0" * 64


def history(losses: Sequence[float], per_epoch: int = 100, every: int = 1) -> list[dict[str, Any]]:
    """Rows of a log_history with these losses."""
    return [
        {
            "step": (i + 1) * every,
            "epoch": (i + 1) * every / per_epoch,
            "loss": loss,
            "learning_rate": 1e-4,
            "grad_norm": 1.0,
        }
        for i, loss in enumerate(losses)
    ]


def write_json(path: Path, value: Any) -> None:
    """`value` as Trainer would write it."""
    path.write_text(json.dumps(value, indent=2))


def write_state(folder: Path, step: Any, epoch: Any, rows: Sequence[Mapping[str, Any]] = (), **more: Any) -> None:
    """A trainer_state.json."""
    content = {
        "epoch": epoch,
        "global_step": step,
        "log_history": list(rows),
        "max_steps": 339,
        "num_train_epochs": 3,
        **more,
    }
    write_json(folder / "trainer_state.json", content)


def adapter_tensors(rank: int = 4) -> dict[str, numpy.ndarray]:
    """Two LoRA pairs."""
    return {
        f"base_model.model.layers.{layer}.q_proj.lora_{side}.weight": numpy.full(shape, 0.5, numpy.float32)
        for layer in (0, 1)
        for side, shape in (("A", (rank, 8)), ("B", (8, rank)))
    }


def adapter_config(**more: Any) -> dict[str, Any]:
    """An adapter_config.json."""
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "base/tiny",
            "auto_mapping": None, **more}  # fmt: skip


def write_torch_files(folder: Path) -> None:
    """optimizer.pt, scheduler.pt and rng_state.pth as stock Trainer has them."""
    import random

    import numpy as np
    import torch

    weight = torch.nn.Parameter(torch.ones(4, 8))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    weight.grad = torch.ones(4, 8)
    optimizer.step()
    scheduler.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(states, folder / "rng_state.pth")


def write_checkpoint(
    folder: Path,
    step: int,
    epoch: float | None,
    losses: Sequence[float] = (0.5,),
    torch_files: Callable[[Path], None] | None = write_torch_files,
    **state: Any,
) -> Path:
    """A whole stock checkpoint; with `torch_files` None only the weights and the state."""
    folder.mkdir(parents=True)
    write_json(folder / "adapter_config.json", adapter_config())
    save_file(adapter_tensors(), str(folder / "adapter_model.safetensors"))
    if torch_files is not None:
        torch_files(folder)
    write_state(folder, step, epoch, history(losses), **state)
    return folder


def seal(folder: Path, run_id: str = "run-of-ours", **more: Any) -> Path:
    """Add a manifest that says the truth about every file in `folder`."""
    state = json.loads((folder / "trainer_state.json").read_text())
    rows = {"rows": 10, "ordered": HEX, "unordered": HEX}
    content: dict[str, Any] = {
        "schema_version": 1, "run_id": run_id, "parent": None, "saved_at": 1_700_000_000.0, "step": state["global_step"],
        "epoch": float(state["epoch"]), "total_epochs": 3.0, "loss": 0.25, "eval_loss": None,
        "cursor": {"epoch": 2, "rows_consumed": 5, "rows": 10, "seed": 42, "next_batch": HEX}, "probe": None,
        "identities": {"base_model": "tiny", "base_config": HEX, "base_weights": HEX, "tokenizer": HEX, "chat_template": HEX,
                       "dataset": rows, "eval_dataset": None, "data_settings": HEX},
        "geometry": {"batch_size": 1, "grad_accum": 1, "world_size": 1},
        "schedule": {"scheduler": "cosine", "learning_rate": 1e-4, "warmup_steps": 0, "total_steps": 339,
                     "next_learning_rate": 1e-5},
        "adapter": {"tensors": 4, "sha256": HEX, "config": HEX},
        "logs": {"loss_sum": 0.0, "last_logged_step": state["global_step"], "metrics": {}, "tokens": 0},
        "optimizer": HEX, "rng": HEX, "monitor": {}, "precision": "float32", "device": "cpu", "versions": {},
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in folder.iterdir()
        },
        **more,
    }  # fmt: skip
    (folder / MANIFEST_NAME).write_bytes(dump_manifest(Manifest.model_validate_json(json.dumps(content))))
    return folder


def codes(checkpoint: Any) -> set[str]:
    """The codes of its problems."""
    return {problem.code for problem in checkpoint.problems}


def undigested(path: Path) -> dict[str, Any]:
    """The object in `path`; of a manifest without its own digest, as an older version wrote it: what else holds is to be seen."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
