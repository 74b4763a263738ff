"""Which device and number format a run uses, each with its reason. torch is imported when it is asked, not before."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from engine.collector import collecting_later
from engine.config import RunConfig
from engine.control_group import memory_limits
from engine.devices import show_one_gpu, visible_gpus
from engine.errors import ConfigError
from engine.i18n import _

if TYPE_CHECKING:
    from engine.models.report import ModelReport

WIDE = 512
"""Of a model's hidden states, from where bf16 pays on a processor that has units for it: a step is 1.2 times as fast at 256 (0.8 with
heads of 8, whose attention is slow in bf16), 1.9 at 512, 2.3 at 1,024."""

_IMPORTING = threading.Lock()


@dataclass(frozen=True)
class Hardware:
    """What was chosen, and why."""

    device: str
    """cuda | mps | cpu."""
    device_reason: str
    precision: str
    """float32 | bfloat16 | float16: of the base model; the adapter is always trained in float32."""
    precision_reason: str

    def reasons(self) -> dict[str, str]:
        """The choices as a person reads them: name -> "choice · reason"."""
        return {
            "device": f"{self.device} · {self.device_reason}",
            "precision": f"{self.precision} · {self.precision_reason}",
        }


def choose_hardware(config: RunConfig, model: ModelReport | None = None, saved: str | None = None) -> Hardware:
    """The best this machine can do exactly. Raises ConfigError for a precision or 4 bit that it cannot do.

    `model`: the base; None where only the machine counts. `saved`: the precision of the run that goes on, None for one that begins.
    """
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, why = "cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        if config.world == 1 and (gpus := visible_gpus()) > 1:
            why += "; " + _("one of {count}: --nproc auto trains on all of them").format(count=gpus)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            precision, reason = "bfloat16", _("this GPU computes bf16 natively; the adapter stays in float32")
        else:
            precision, reason = "float16", _("this GPU has no bf16; float16 with loss scaling")
    elif torch.backends.mps.is_available():
        if config.world > 1:
            raise ConfigError(
                _("--nproc {count}: an Apple GPU cannot be shared by processes").format(count=config.world),
                fix=_("Leave it out."),
            )
        device, why = "mps", _("Apple GPU")
        precision, reason = "float32", _("exact on every Mac; --precision bfloat16 halves the memory")
    else:
        device, why = "cpu", _("no GPU that torch can use was found")
        precision, reason = _precision_of_cpu(model, saved)
    if config.precision != "auto":
        if config.precision == "float16" and device != "cuda":
            raise ConfigError(_("--precision float16 needs CUDA, this device is {device}").format(device=device))
        precision, reason = config.precision, _("as set")
    if config.load_in_4bit and device != "cuda":
        raise ConfigError(
            _("--load-in-4bit needs CUDA, this device is {device}").format(device=device),
            fix=_("Leave it out, or choose a smaller model."),
        )
    return Hardware(device, why, precision, reason)


def _precision_of_cpu(model: ModelReport | None, saved: str | None) -> tuple[str, str]:
    """bf16 where it is faster (python -m tests.bench precision): on a processor with units for it, for layers wide enough. Only for
    weights that are stored so, which lose nothing by it. A run goes on in the format it was begun in."""
    import torch

    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "float32", _("this CPU has no bf16 units")
    if saved in ("float32", "bfloat16"):
        return saved, _("as this run was begun")
    if model is None or model.dtype != "BF16":
        return "float32", _("the model's files are not in bf16")
    if (model.hidden or 0) < WIDE:
        return "float32", _("bf16 is no faster for so small a model")
    return "bfloat16", _("the model's files are in bf16, and this CPU has units for it")


def prepare_process() -> None:
    """Settings that libraries read once, when they are first loaded; a person's own choice is left alone.

    One process trains on one GPU, and torch is shown that one only. Tokenizers' threads and a later fork do not go together.
    """
    show_one_gpu()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def share_the_processor() -> None:
    """Have OpenMP's threads sleep after some microseconds of waiting, instead of holding their processor for milliseconds: for a
    process that does something else beside training, as a screen does. To be called before torch is loaded. (GOMP_SPINCOUNT is
    libgomp's, torch's on Linux; other OpenMPs read the policy.)

    Not for a run alone: each small operation pays for waking threads (python -m tests.bench threads).
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")


def load_libraries() -> None:
    """Import what training needs, once, in whichever thread comes first; others wait until it is whole.

    transformers and trl resolve their names lazily and import each other in circles: two threads that import them at the same time
    can see them half made (`cannot import name 'AutoTokenizer'`).
    """
    with _IMPORTING, signals_later():
        _import_libraries()


@cache
def _import_libraries() -> None:
    prepare_process()
    # transformers and trl each ask for it once while they are imported: reading what every installed package contains, 0.4 s.
    asked = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = cache(asked)
    try:
        with collecting_later():
            import datasets  # noqa: F401
            import torch  # noqa: F401
            from peft import LoraConfig  # noqa: F401
            from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
            from trl import SFTTrainer  # noqa: F401
    finally:
        importlib.metadata.packages_distributions = asked


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """For imports: a signal reaches this thread after them, a few seconds at most. Its handler may raise, and where an extension
    module is just being made in C++ nobody expects that: a `--demo` was once aborted instead of ending with the signal's code."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "TERM", "USR1", "USR2")}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def free_memory(device: str) -> tuple[int, int]:
    """(free, total) bytes of the memory that a run on `device` uses: the GPU's own, else the machine's, or what a container or a batch
    job is limited to."""
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(free), int(total)
    import psutil

    memory = psutil.virtual_memory()
    limits = [(int(memory.available), int(memory.total)), *memory_limits()]
    return min(free for free, _total in limits), min(total for _free, total in limits)
