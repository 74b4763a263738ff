"""Changes of a stopped run's folder, and of what is asked of it. Where files change, the digests are made to fit."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from tests.catalogue.world import FLAGS, NEWEST, World
from tests.conftest import chats, write_jsonl
from tests.engine.resume.test_receipt import change_json, change_tensors, forge, forge_adapter_too
from tests.engine.runs import train


def files(change: Callable[[Path], None], only: bool = True) -> Callable[[World, Path], None]:
    """A change of the newest checkpoint's files, digests made to fit; with `only` the earlier ones are taken away."""

    def changed(world: World, run: Path) -> None:
        change(run / NEWEST)
        forge(run / NEWEST)
        if only:
            for other in ("checkpoint-3", "checkpoint-6", "checkpoint-9"):
                shutil.rmtree(run / other)

    return changed


def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in tensors if "layers.0" in name and "q_proj" in name)
    return {key.replace("layers.0.self_attn.q_proj", "layers.0.self_attn.x_proj") if key == name or
            key == name.replace("lora_A", "lora_B") else key: value for key, value in tensors.items()}  # fmt: skip


def nan(tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(iter(tensors))
    return {**tensors, name: tensors[name] * math.nan}


def both(checkpoint: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    change_tensors(checkpoint, change)
    forge_adapter_too(checkpoint)


def gone(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        (run / NEWEST / name).unlink()

    return changed


def torn(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        os.truncate(run / NEWEST / name, (run / NEWEST / name).stat().st_size // 2)

    return changed


def zeroed(world: World, run: Path) -> None:
    path = run / NEWEST / "optimizer.pt"
    path.write_bytes(bytes(path.stat().st_size))


def of_step_3(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        earlier = (run / "checkpoint-3" / name).read_bytes()
        files(lambda checkpoint: (checkpoint / name).write_bytes(earlier) and None)(world, run)

    return changed


def rows(rows: list[dict[str, Any]]) -> Callable[[World, Path], dict[str, Any]]:
    return lambda world, run: {"dataset": write_jsonl(run.with_name(f"{run.name}.jsonl"), rows)}


def edited() -> list[dict[str, Any]]:
    rows = chats(26)
    rows[3]["messages"][1]["content"] = "other words"
    return rows


def other_tokenizer(world: World, run: Path) -> dict[str, Any]:
    model = Path(shutil.copytree(world.model, run.with_name(f"{run.name}-model")))
    words = json.loads((model / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][:-20]
    (model / "tokenizer.json").write_text(json.dumps(words))
    return {"model": model}


def other_template(world: World, run: Path) -> dict[str, Any]:
    model = Path(shutil.copytree(world.model, run.with_name(f"{run.name}-model")))
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    return {"model": model}


def older_run(world: World, run: Path) -> None:
    shutil.copytree(world.longer / "checkpoint-14", run / "checkpoint-14")


def nan_in_state(checkpoint: Path) -> None:
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"][-1]["grad_norm"] = math.nan
    path.write_text(json.dumps(state))


def in_shards(world: World, run: Path) -> None:
    """The optimizer as FSDP saves it: a folder in torch's distributed format, each rank its part. Such tools leave no manifest."""
    import torch
    import torch.distributed.checkpoint as distributed

    newest = run / NEWEST
    state = torch.load(newest / "optimizer.pt", weights_only=True)["state"]
    flat = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
    distributed.save(flat, checkpoint_id=newest / "optimizer_0", no_dist=True)
    (newest / "optimizer.pt").unlink()
    (newest / "manifest.json").unlink()
    for other in ("checkpoint-3", "checkpoint-6", "checkpoint-9"):
        shutil.rmtree(run / other)


def monitor_forgotten(world: World, run: Path) -> None:
    change_json(run / NEWEST / "manifest.json", monitor={})


def made_by_trl(world: World, run: Path) -> dict[str, Any]:
    """The folder as TRL's trainer leaves it: no manifest, a pickled training_args.bin, NumPy's random state in rng_state.pth."""
    from tests.catalogue.sides import stock_trainer

    shutil.rmtree(run)
    flags = {**FLAGS, "dataset": world.data, "model": world.model}
    stock_trainer(world, run, flags, {"save_strategy": "steps", "save_steps": 10}).train()
    for name in ("checkpoint-20", "checkpoint-21"):
        shutil.rmtree(run / name)
    return {**FLAGS, "dataset": world.data, "model": world.model, "target_modules": "all-linear", "logging_steps": 1}


def cut_off_between_two_backwards(world: World, run: Path) -> dict[str, Any]:
    """Rows of step 11 were computed, their gradients were not yet used: that is where the run died."""
    from engine.training.sft import ExactTrainer

    shutil.rmtree(run)
    step, micro = ExactTrainer.training_step, 0

    def dies(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal micro
        loss = step(self, *arguments, **options)
        micro += self.state.global_step == 6
        if micro == 1:
            raise SystemExit(137)
        return loss

    with mock.patch.object(ExactTrainer, "training_step", dies), contextlib.suppress(BaseException):
        train(dataset=world.data, model=world.model, output=run, **{**FLAGS, "grad_accum": 2})
    return {"grad_accum": 2}


def automatic(world: World, run: Path) -> dict[str, Any]:
    """A run whose rows at a time were chosen by the machine."""
    shutil.rmtree(run)
    flags = {**FLAGS, "batch_size": "auto", "grad_accum": 1}
    train(stop_at=5, dataset=world.data, model=world.model, output=run, **flags)
    return {"batch_size": "auto"}


def best_was_early(world: World, run: Path) -> dict[str, Any]:
    """checkpoint-3 had the lowest eval loss, and no more than one checkpoint is to be kept besides."""
    for step, loss in ((3, 1.0), (6, 2.0), (9, 3.0), (10, 4.0)):
        change_json(run / f"checkpoint-{step}" / "manifest.json", eval_loss=loss)
        change_json(run / f"checkpoint-{step}" / "trainer_state.json", best_metric=1.0, best_global_step=3,
                    best_model_checkpoint=str(run / "checkpoint-3"))  # fmt: skip
        forge(run / f"checkpoint-{step}")
    return {"keep": 1}


def best_is_there(run: Path) -> str:
    return "the best is there" if (run / "checkpoint-3" / "adapter_model.safetensors").is_file() else "the best is gone"


def nothing_to_learn(world: World, run: Path) -> dict[str, Any]:
    rows = [{"messages": [{"role": "user", "content": f"question {index}"}]} for index in range(26)]
    return {"dataset": write_jsonl(run.with_name(f"{run.name}.jsonl"), rows), "resume": "never"}


def asked(**flags: Any) -> Callable[[World, Path], dict[str, Any]]:
    return lambda world, run: flags
