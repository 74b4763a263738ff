"""Faults of a library or of the machine while a run is continued, the same on both sides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.catalogue.world import World


@contextlib.contextmanager
def argument_ignored(world: World, run: Path) -> Iterator[None]:
    """Trainer.train gets resume_from_checkpoint and does nothing with it."""
    from transformers import Trainer

    real = Trainer.train

    def train(self: Any, resume_from_checkpoint: Any = None, *arguments: Any, **options: Any) -> Any:
        return real(self, None, *arguments, **options)

    with mock.patch.object(Trainer, "train", train):
        yield


def passed_over(method: str) -> Any:
    """A step of Trainer's loading that returns without having done anything."""

    @contextlib.contextmanager
    def fault(world: World, run: Path) -> Iterator[None]:
        from transformers import Trainer

        with mock.patch.object(Trainer, method, lambda self, *arguments, **options: None):
            yield

    return fault


@contextlib.contextmanager
def other_type(world: World, run: Path) -> Iterator[None]:
    """The adapter is loaded, and cast to bfloat16 on the way."""
    import torch
    from transformers import Trainer

    real = Trainer._load_from_checkpoint

    def load(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(torch.bfloat16)

    with mock.patch.object(Trainer, "_load_from_checkpoint", load):
        yield


@contextlib.contextmanager
def half_written(world: World, run: Path) -> Iterator[None]:
    """What is saved of the adapter lacks a layer, as when a wrapped model is not unwrapped on its way to the disk."""
    import peft.peft_model
    import safetensors.torch

    real = safetensors.torch.save_file

    def save(tensors: dict[str, Any], path: Any, **options: Any) -> None:
        real({name: tensor for name, tensor in tensors.items() if "layers.0" not in name}, path, **options)

    with mock.patch("safetensors.torch.save_file", save), mock.patch.object(peft.peft_model, "safe_save_file", save):
        yield


@contextlib.contextmanager
def second_run(world: World, run: Path) -> Iterator[None]:
    """Another run is at work in the same folder."""
    from engine.lock import locked

    with locked(run):
        yield


@contextlib.contextmanager
def little_memory(world: World, run: Path) -> Iterator[None]:
    """Most of the memory is taken when the run is continued."""
    with mock.patch("engine.training.deciding.free_memory", lambda device: (60 << 20, 1 << 30)):
        yield
