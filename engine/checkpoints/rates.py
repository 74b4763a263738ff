"""scheduler.pt and optimizer.pt: the peak of a run's learning rate, the rate of its next step and its weight decay, read without torch
and without running anything.

A scheduler of torch keeps plain numbers in its file, `base_lrs` and `_last_lr` (torch.optim.lr_scheduler.LRScheduler.state_dict), one
for each group of parameters. A pickle that may name nothing can build nothing but plain values, so it is loaded; one that names
anything is of another kind and tells nothing here. An optimizer's names its tensors, in the place of which stands nothing then; beside
them lie the settings of each group (torch.optim.Optimizer.state_dict).
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from engine.checkpoints.files import Unsound, count, number, open_plain
from engine.checkpoints.pickles import list_pickle
from engine.checkpoints.torch_file import refuse_huge_directory

MAX_BYTES = 1 << 20
MAX_BYTES_OF_TENSORS = 8 << 20
"""Of a pickle that describes tensors; a hundred bytes each."""
HIGHEST = 1.0
"""Peak, and weight decay, that a run here may have (RunConfig); a higher one is of another optimizer's run, or damage."""


@dataclass(frozen=True)
class SavedRates:
    """What a scheduler knew when it was saved."""

    step: int
    """Its own, of the optimizer steps that were taken."""
    peak: float
    next: float
    """Of the step that was to come."""
    has_settings: bool = False
    """Whether what computes them has settings of its own, as all schedules of transformers have that know a warmup."""


def saved_rates(path: Path) -> SavedRates | None:
    """The rates in the file `path`; None where it does not tell them."""
    return _rates(_state(path, _Plain, MAX_BYTES))


def saved_step(path: Path) -> int | None:
    """The step that a scheduler of any kind in the file `path` stands at; None where it does not tell, or counts something else."""
    state = _state(path, _Plain, MAX_BYTES)
    return count(state.get("last_epoch")) if isinstance(state, dict) and "base_lrs" in state else None


def saved_weight_decay(path: Path) -> float | None:
    """The weight decay of the optimizer in the file `path`; None where it does not tell one for all that is trained. Trainer has a
    second group for biases and the scales of norms, from which nothing is taken."""
    state = _state(path, _WithoutTensors, MAX_BYTES_OF_TENSORS)
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return None
    decays = [number(group.get("weight_decay")) for group in groups]
    found = {decay for group, decay in zip(groups, decays, strict=True) if group.get("params")}
    if len(decays) == 2 and decays[1] == 0:
        found = {decays[0]}
    decay = found.pop() if len(found) == 1 else None
    return decay if decay is not None and 0 <= decay <= HIGHEST else None


def _state(path: Path, reader: type[_Plain], most: int) -> Any:
    """What `reader` builds of the pickle in the file `path`; None where that has more than `most` bytes, or cannot be read."""
    try:
        with open_plain(path) as file:
            refuse_huge_directory(file, path.name)
            with zipfile.ZipFile(file) as archive:
                entry = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
                # torch compresses nothing; what unpacks, or fails to, in another way is not its own.
                if entry.file_size > most or entry.compress_type != zipfile.ZIP_STORED:
                    return None
                content = archive.read(entry)
                list_pickle(content, path.name)
                return reader(BytesIO(content)).load()
    except (Unsound, OSError, zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, struct.error, *_DAMAGED):
        return None


_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    MemoryError,
    OverflowError,
)
"""What an unpickler raises where its bytes make no sense."""


class _Plain(pickle._Unpickler):
    """Builds numbers, text, lists and dicts. Python's own: the one in C makes as much room for its memo as a file says."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("a tensor")


class _WithoutTensors(_Plain):
    """As that, with nothing in the place of what a pickle names."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return _nothing

    def persistent_load(self, pid: Any, /) -> None:
        return None


def _nothing(*parts: Any) -> None:
    """Called in the place of what would build a tensor."""


def _rates(state: Any) -> SavedRates | None:
    if not isinstance(state, dict):
        return None
    step = count(state.get("last_epoch"))
    peaks, rates = (
        [number(one) for one in kept] if isinstance(kept := state.get(key), list) else [] for key in ("base_lrs", "_last_lr")
    )
    # Groups of other rates (embeddings, LoRA+) have schedules of their own, which are not known here.
    if step is None or not peaks or not rates or {*peaks} != {peaks[0]} or {*rates} != {rates[0]}:
        return None
    if peaks[0] is None or rates[0] is None or not 0 < peaks[0] <= HIGHEST or rates[0] < 0:
        return None
    # None for a function, a table for an object (torch.optim.lr_scheduler.LambdaLR.state_dict).
    computed_by = state.get("lr_lambdas")
    has_settings = isinstance(computed_by, list) and any(isinstance(one, dict) for one in computed_by)
    return SavedRates(step, peaks[0], rates[0], has_settings)
