"""The Runner of a run of several processes, on this machine or on several: torchrun starts them, watches them and starts all of them
again where one is lost.

torchrun's workers are this program, each with its rank in the environment (training/ranks.py). The first of a machine tells its events
on the pipe that all of them inherit, the others nothing. No key of a terminal reaches them: they are asked to stop by the file that a
watcher leaves too, and whoever loses torchrun, or the first whoever listens to it, saves and stops by itself (`left_alone`).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.child import HAND_OVER, InAChild, this_program
from engine.config import RunConfig
from engine.devices import environment, interface_to, is_free, processors, visible_gpus
from engine.errors import ConfigError, OutputError
from engine.events import PARENT_GONE, RunFailed
from engine.i18n import _
from engine.lock import ask_to_stop
from engine.runner import InThisProcess, Runner
from engine.training.ranks import Ranks

if TYPE_CHECKING:
    from engine.resume.plan import ResumePlan

RESTARTS = 3
"""How often all processes are started again after one was lost."""
GRACE = 60
"""Seconds torchrun gives processes that it ends before it kills them: time for a save."""
EVERY = 5.0
"""Seconds between two looks at whether torchrun has processes."""


@dataclass(frozen=True)
class InSeveralProcesses(InAChild):
    """The Runner that does it, for a plan whose configuration asks for more than one process."""

    nproc: int
    _idle: list[float] = field(default_factory=list)
    """Since when torchrun has had no processes, if it has none, and when that was looked at."""
    _unreachable: list[bool] = field(default_factory=list)
    """Whether it was ended for that."""

    def command(self, plan: ResumePlan) -> Sequence[str]:
        config = plan.config
        _need_a_port(config)
        program, *arguments = this_program(HAND_OVER)
        return [program, "-P", "-m", "torch.distributed.run", *_meeting(config), f"--nproc-per-node={self.nproc}",
                f"--max-restarts={RESTARTS}", f"--shutdown-timeout={GRACE}", "--no-python", program, *arguments]  # fmt: skip

    def environment(self, plan: ResumePlan) -> Mapping[str, str]:
        """With the cores shared out, where torchrun would give each process one, and between machines with the network to be used,
        where gloo and NCCL would go by what the machine's own name stands for."""
        chosen = {"OMP_NUM_THREADS": str(1 if visible_gpus() else max(1, processors() // self.nproc))}
        if plan.config.rendezvous is not None:
            host, _colon, port = plan.config.rendezvous.rpartition(":")
            if (name := interface_to(host, int(port))) is not None:
                chosen |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
        return {**chosen, **environment()}

    def explain(self, failed: RunFailed, words: str, code: int) -> RunFailed:
        """What torchrun says to programmers, as a person needs it."""
        ended = [
            (int(rank), int(code)) for code, rank in re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", words)
        ]
        if ended:
            told = [_("process {rank}: {how}").format(rank=rank, how=_exit_words(code)) for rank, code in ended]
            return replace(
                failed, title=_("a process was lost {count} times").format(count=len(ended)), detail="; ".join(told)
            )
        if self._unreachable:
            return replace(
                failed, title=_("the other machines cannot be reached"), detail=words.splitlines()[-1] if words else ""
            )
        if "EADDRINUSE" in words:
            return replace(failed, title=_("the port of --rendezvous is in use on machine 0"), detail="", exit_code=2)
        if found := re.search(r"\d+/\d+ clients joined", words):
            return replace(failed, title=_("not all machines came to --rendezvous in time"), detail=found.group())
        return super().explain(failed, words.splitlines()[-1] if words else "", code)

    def look_after(self, child: subprocess.Popen[bytes], plan: ResumePlan) -> None:
        """torchrun waits without end for a machine behind a link that was cut, and hears no signal meanwhile."""
        now = time.monotonic()
        since, looked = self._idle or (now, now)
        if now - looked < EVERY:
            self._idle[:] = since, looked
            return
        self._idle[:] = (since if _is_childless(child.pid) else now), now
        if now - since > plan.config.ddp_timeout + EVERY:
            self._unreachable.append(True)
            child.kill()

    def ask(self, child: subprocess.Popen[bytes], plan: ResumePlan, begun: bool, reason: str) -> None:
        if begun:
            with contextlib.suppress(OutputError):  # nothing can be written there
                ask_to_stop(plan.output_dir, reason)
                return
        child.terminate()  # torchrun passes it on, and what keeps them from saving they tell themselves


def _is_childless(pid: int) -> bool:
    import psutil

    try:
        return not psutil.Process(pid).children()
    except psutil.Error:
        return False


def _exit_words(code: int) -> str:
    if code >= 0:
        return _("exit code {code}").format(code=code)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return _("killed by {signal}").format(signal=name)


def runner_of(plan: ResumePlan) -> Runner:
    """Where `plan` is carried out: in this process where that is enough, or where it is one of several already."""
    world = plan.config.world
    if plan.mode == "complete" or world == 1 or not Ranks.of_environment(world).alone:
        return InThisProcess()
    return InSeveralProcesses(int(plan.config.nproc))


def left_alone(listener: int) -> Callable[[], str | None]:
    """A should_stop for one of several processes: whether torchrun, or whoever reads the pipe `listener`, is gone."""
    parent, first = os.getppid(), os.environ.get("LOCAL_RANK") == "0"
    poll = select.poll()
    poll.register(listener, 0)  # errors are told without being asked for: the other end was closed

    def gone() -> str | None:
        return PARENT_GONE if os.getppid() != parent or (first and poll.poll(0)) else None

    return gone


def _meeting(config: RunConfig) -> list[str]:
    """torchrun's arguments that say where processes meet. Between machines it is the static way: each has the rank that was given, so
    that machine 0 is the one that tells and writes."""
    if config.nnodes == 1:
        return ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    host, _colon, port = (config.rendezvous or "").rpartition(":")
    return [f"--nnodes={config.nnodes}", f"--node-rank={config.node_rank}", f"--master-addr={host}", f"--master-port={port}",
            f"--rdzv-conf=timeout={int(config.ddp_timeout)}"]  # fmt: skip


def _need_a_port(config: RunConfig) -> None:
    port = int((config.rendezvous or ":0").rpartition(":")[2])
    if config.nnodes > 1 and config.node_rank == 0 and not is_free(port):
        raise ConfigError(
            _("--rendezvous {address}: port {port} is in use on this machine").format(address=config.rendezvous, port=port),
            fix=_("Name another one, the same on all machines."),
        )
