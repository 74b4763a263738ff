"""scheduler.pt: the peak of a run's learning rate and the rate of its next step, read without torch and without running anything.

A scheduler of torch keeps plain numbers in its file, `base_lrs` and `_last_lr` (torch.optim.lr_scheduler.LRScheduler.state_dict), one
for each group of parameters. A pickle that may name nothing can build nothing but plain values, so it is loaded; one that names
anything is of another kind and tells nothing here.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from engine.checkpoints.files import Unsound, count, number, open_plain, size_of
from engine.checkpoints.pickles import list_pickle

MAX_BYTES = 1 << 20
HIGHEST = 1.0
"""Peak that a run here may have (RunConfig.learning_rate); a higher one is of another optimizer's run, or damage."""


@dataclass(frozen=True)
class SavedRates:
    """What a scheduler knew when it was saved."""

    step: int
    """Its own, of the optimizer steps that were taken."""
    peak: float
    next: float
    """Of the step that was to come."""


def saved_rates(path: Path) -> SavedRates | None:
    """The rates in the file `path`; None where it does not tell them."""
    try:
        with open_plain(path) as file:
            if size_of(file) > MAX_BYTES:
                return None
            with zipfile.ZipFile(file) as archive:
                entry = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
                # torch compresses nothing; what unpacks, or fails to, in another way is not its own.
                if entry.file_size > MAX_BYTES or entry.compress_type != zipfile.ZIP_STORED:
                    return None
                content = archive.read(entry)
                list_pickle(content, path.name)
                state = _Plain(BytesIO(content)).load()
    except (Unsound, OSError, zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, *_DAMAGED):
        return None
    return _rates(state)


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

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise pickle.UnpicklingError("a tensor")


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
    return SavedRates(step, peaks[0], rates[0])
