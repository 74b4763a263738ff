"""The files of a checkpoint in Hugging Face layout, byte for byte as PEFT and Trainer would write them.

They are written from what was in memory at a step: adapter and optimizer from copies, so that a thread can do it beside the training;
the small rest in the loop. What never changes in a run (adapter_config.json, the model card, the tokenizer) is made once. Not among
them: training_args.bin, a pickle.
"""

from __future__ import annotations

import copy
import errno
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from engine.checkpoints.files import count, number, read_json
from engine.checkpoints.state import STATE_NAME
from engine.i18n import _
from engine.models.folder import save_tokenizer
from engine.training.digests import tensors_digest
from engine.training.memory import adapter_in_file
from engine.training.sft import ExactTrainer


def constant_files(trainer: ExactTrainer) -> dict[str, bytes]:
    """Name -> content of what loading the adapter needs besides its tensors: the same at every step of a run. Raises OSError.

    As `PeftModel.save_pretrained` leaves them: the configuration says that it is for inference, which is what makes loading it
    harmless elsewhere. But for the order of the layers' names: PEFT keeps them as a set, which each process goes through in another.
    """
    config = copy.copy(trainer.model.peft_config["default"])
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    with tempfile.TemporaryDirectory() as name:
        config.save_pretrained(name)
        trainer.model.create_or_update_model_card(name)
        save_tokenizer(trainer.processing_class, name)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def write_adapter(folder: Path, constants: Mapping[str, bytes], tensors: Mapping[str, torch.Tensor]) -> None:
    """Adapter and tokenizer, from `constant_files` and `Copies`. Raises OSError, SafetensorError.

    What was written is read back and held against `tensors`: a file's own digest says that it is what was written, not that what was
    written is the adapter.
    """
    from safetensors.torch import save_file

    for name, content in constants.items():
        (folder / name).write_bytes(content)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if tensors_digest(adapter_in_file(folder)) != tensors_digest(tensors):
        raise OSError(errno.EIO, _("the adapter that was written is not the one in memory"), str(folder))


def write_small_files(trainer: ExactTrainer, folder: Path) -> None:
    """Scheduler, float16's scaler and the Trainer's own state."""
    torch.save(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
    trainer._save_scaler(str(folder))
    trainer.state.save_to_json(str(folder / "trainer_state.json"))


_READ: dict[str, Callable[[Any], bool]] = {
    "total_flos": lambda value: number(value) is not None,
    "num_input_tokens_seen": lambda value: count(value) is not None,
    "best_metric": lambda value: value is None or number(value) is not None,
    "best_global_step": lambda value: value is None or count(value) is not None,
    "best_model_checkpoint": lambda value: value is None or isinstance(value, str),
    "stateful_callbacks": lambda value: isinstance(value, dict),
}
"""What Trainer takes up of a state without asking whether it is what it should be; without it, it has a value of its own."""


def make_readable(folder: Path, batch_size: int) -> None:
    """Put the trainer_state.json of a private copy into the words of the library that is installed: another version of it, or a fork,
    writes fields that this one refuses, and may lack one that it computes with, or hold in it what cannot be computed with. Raises
    Unsound, OSError."""
    path = folder / STATE_NAME
    raw = read_json(path)
    known = {name: value for name, value in raw.items() if name in TrainerState.__dataclass_fields__}
    kept = {name: value for name, value in known.items() if name not in _READ or _READ[name](value)}
    if not count(kept.get("train_batch_size")):
        kept["train_batch_size"] = batch_size
    if kept != raw:
        path.write_text(json.dumps(kept), encoding="utf-8")


def random_states(trainer: ExactTrainer) -> dict[str, bytes]:
    """The random states of this process as the file that Trainer would write: its name -> its bytes. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        trainer._save_rng_state(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class Copies:
    """Adapter and optimizer as they are at a step, in memory of their own on the CPU (safetensors takes no two names for one memory).

    The memory is kept for the next copy: to be given as much by the system takes longer than to fill it. So a copy is good until the
    next one of the same thing is made.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], torch.Tensor] = {}

    def adapter(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of an adapter by name."""
        return {name: self._copy(("adapter", name), tensor) for name, tensor in tensors.items()}

    def optimizer(self, states: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state_dict."""
        state = {
            index: {
                key: self._copy(("optimizer", index, key), value) if isinstance(value, torch.Tensor) else value
                for key, value in entry.items()
            }
            for index, entry in states["state"].items()
        }
        return {"state": state, "param_groups": copy.deepcopy(states["param_groups"])}

    def _copy(self, place: tuple[Any, ...], tensor: torch.Tensor) -> torch.Tensor:
        kept = self._kept.get(place)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._kept[place] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return kept.copy_(tensor.detach())
