"""What a machine gives to a run: how many processes, on which devices and processors; known before torch is imported."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.i18n import _

GPUS = Path("/proc/driver/nvidia/gpus")
"""One folder for each NVIDIA GPU, where its driver is loaded (Linux)."""


VISIBLE = "CUDA_VISIBLE_DEVICES"
_narrowed = False


def show_one_gpu() -> None:
    """Let CUDA see the first GPU only, unless a person has chosen, or torchrun gives this process one of its own: transformers would
    wrap the model in DataParallel, which TRL refuses."""
    global _narrowed
    if "LOCAL_RANK" not in os.environ and VISIBLE not in os.environ:
        os.environ[VISIBLE], _narrowed = "0", True


def environment() -> dict[str, str]:
    """This process's environment as it was given, for processes that see every GPU."""
    return {name: value for name, value in os.environ.items() if not (_narrowed and name == VISIBLE)}


def visible_gpus() -> int:
    """NVIDIA GPUs that a run may use: those of this machine, or those that CUDA_VISIBLE_DEVICES leaves."""
    try:
        there = len(list(GPUS.iterdir()))
    except OSError:
        there = 0
    chosen = environment().get(VISIBLE)
    return there if chosen is None else min(there, len([one for one in chosen.split(",") if one.strip() not in ("", "-1")]))


def processors() -> int:
    """Processors that this process may use; a batch job or a container is often given only some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def placed(config: RunConfig) -> RunConfig:
    """`config` with the number of processes known. Raises ConfigError for more of them than devices, or machines that cannot meet."""
    gpus = visible_gpus()
    if config.nproc == "auto":
        config = config.model_copy(update={"nproc": max(1, gpus)})
    count = int(config.nproc)
    if gpus and count > gpus:
        raise ConfigError(
            _("--nproc {count}: there are {gpus} GPUs on this machine").format(count=count, gpus=gpus),
            _("Each process needs one of its own."),
            _("Ask for {gpus} or fewer, or --nproc auto.").format(gpus=gpus),
        )
    if not gpus and count > 4 * (cores := processors()):
        raise ConfigError(
            _("--nproc {count}: there are {cores} cores on this machine, and no GPU").format(count=count, cores=cores),
            _("Processes that wait for each other's core only make it slower."),
        )
    if config.node_rank >= config.nnodes:
        raise ConfigError(
            _("--node-rank {rank}: with --nnodes {count} it is one of 0 to {last}").format(
                rank=config.node_rank, count=config.nnodes, last=config.nnodes - 1
            )
        )
    if config.nnodes > 1 and config.rendezvous is None:
        raise ConfigError(
            _("--nnodes {count} needs --rendezvous HOST:PORT").format(count=config.nnodes),
            _("The machines meet there: an address of machine 0 and a free port of it, the same on each."),
        )
    return config


def interface_to(host: str, port: int) -> str | None:
    """The network interface by which this machine reaches `host`, or has it for its own address; None where it cannot be told."""
    import psutil

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.connect((host, port))  # sends nothing: it only asks for the way
            own = asked.getsockname()[0]
    except OSError:
        return None
    addresses = psutil.net_if_addrs().items()
    return next((name for name, found in addresses if any(one.address == own for one in found)), None)


def is_free(port: int) -> bool:
    """Whether a process of this machine can listen on `port`."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True
