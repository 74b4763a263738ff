"""Digests of what is in memory: adapter tensors, optimizer moments, random states. Equal digests mean equal bits.

Names, dtypes and shapes go in with the bytes, so that two tensors swapped or reshaped do not pass for each other.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from engine.checkpoints.files import number


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of each tensor, sorted by name. Tensors may lie on any device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def optimizer_digest(optimizer: torch.optim.Optimizer) -> str:
    """SHA-256 over the optimizer's per-parameter state (Adam: step, exp_avg, exp_avg_sq), in parameter order."""
    return state_digest(optimizer.state_dict()["state"])


def state_digest(state: Mapping[Any, Mapping[str, Any]]) -> str:
    """As `optimizer_digest`, of a state_dict's "state" part."""
    digest = hashlib.sha256()
    for index in sorted(state):
        for key in sorted(state[index]):
            value = state[index][key]
            _add(digest, f"{index}.{key}", value if isinstance(value, torch.Tensor) else torch.tensor(number(value) or 0.0))
    return digest.hexdigest()


def optimizer_steps(optimizer: torch.optim.Optimizer) -> set[int]:
    """As `steps_of`, of what is in memory."""
    return steps_of(optimizer.state_dict()["state"])


def steps_of(state: Mapping[Any, Mapping[str, Any]]) -> set[int]:
    """The step counts Adam keeps for its parameters, in a state_dict's "state" part: one number, that of the run, if all is well; -1
    for what is none."""
    counts = [step_of(entry["step"]) for entry in state.values() if "step" in entry]
    return {-1 if count is None else count for count in counts}


def step_of(value: Any) -> int | None:
    """The step count that an optimizer keeps as a tensor of one number, or as the number itself; None where it is neither."""
    one = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    return int(one) if number(one) is not None else None


def rng_digest() -> str:
    """SHA-256 over the states of Python's, NumPy's and torch's random generators (CUDA's too where it is in use)."""
    digest = hashlib.sha256(repr(random.getstate()).encode())
    name, keys, *rest = np.random.get_state(legacy=True)
    digest.update(repr((name, rest)).encode() + np.asarray(keys).tobytes())
    digest.update(torch.random.get_rng_state().numpy().tobytes())
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        digest.update(torch.cuda.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity. A sum tells in one pass; only one that overflows is looked at number by number."""
    return all(math.isfinite(float(tensor.detach().sum())) or bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
