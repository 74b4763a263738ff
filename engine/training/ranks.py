"""The processes of one run: which of them this is, and what they tell each other besides gradients.

torchrun starts them (engine/launch.py) and names each by RANK and WORLD_SIZE. Rank 0 decides and is alone in writing: it holds the
folder, the plan, the Journal and the checkpoints. The others compute the same run on their share of each batch. What must be the
same for all of them is decided by rank 0 and shared; what is their own (random states, a signal that reached one) is gathered.

A run alone in its process is a `Ranks()` of one; nothing here imports torch for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from engine.errors import CannotContinue, ConfigError, DatasetError, LoraTuiError, ModelError, first_line
from engine.i18n import _

LOOK = 0.2
"""Seconds between two looks into the store."""
LAST_WORDS = 5.0
"""Seconds a process that lost a peer waits for what that peer may have left to say."""
LOST = 75
"""Exit code of a process whose peer is gone: torchrun starts all of them again (BSD's EX_TEMPFAIL)."""

OF_A_PEER = ("gloo", "nccl", "tcpstore", "connection", "pair closure", "timed out", "timeout")
"""Words of errors that come of the other side of a collective."""

FACTS = {
    "model": ModelError,
    "tokenizer": ModelError,
    "chat_template": ModelError,
    "dataset": DatasetError,
    "adapter": CannotContinue,
    "optimizer": CannotContinue,
}
"""What a difference in it makes the run's error; in anything else ConfigError."""


class PeerLost(Exception):
    """Another process of the run ended without a word, or cannot be reached."""


class TooManyRows(PeerLost):
    """The rows at a time do not fit into the memory of this process; the others wait for it in the middle of a step."""


@dataclass
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    """How many there are."""
    here: int = 1
    """How many of them are on this machine."""
    restarts: int = 0
    """How often torchrun has started them again."""
    failed: Callable[[LoraTuiError], None] = field(default=lambda error: None, repr=False)
    """Told the error that this one of the others ends with, its own or rank 0's. In whatever thread knows it first."""
    _store: Any = field(default=None, repr=False)
    """Of this attempt."""
    _kept: Any = field(default=None, repr=False)
    """Of the run: what is said there is there after a restart."""

    @classmethod
    def of_environment(cls, world: int) -> Ranks:
        """As torchrun says in the environment of a run of `world` processes. One alone where it says nothing, or speaks of another
        run: a cluster may set such variables for whatever it starts."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
        if not all(os.environ.get(name, "").isdigit() for name in names) or os.environ["WORLD_SIZE"] != str(world):
            return cls()
        rank, world, here, restarts = (int(os.environ[name]) for name in names)
        return cls(rank, world, here, restarts)

    @property
    def first(self) -> bool:
        """Whether this is the one that decides and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def launcher(self) -> int | None:
        """The process that starts this one again where it is lost: torchrun's; None where it is alone."""
        return None if self.alone else os.getppid()

    @contextlib.contextmanager
    def joined(self, timeout: float) -> Iterator[None]:
        """Meet the others. A process that does not answer within `timeout` seconds counts as lost.

        Inside, an error that comes of a lost peer is raised as PeerLost, or as the LoraTuiError that the peer ended with.
        """
        if self.alone:
            yield
            return
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        patience = timedelta(seconds=timeout)
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        try:
            store = self._connected(patience)
            # It is one store for all attempts, in which the addresses of those that are gone still stand (pytorch's env:// rendezvous
            # takes it for a new one), so each attempt has a part of it.
            self._store, self._kept = PrefixStore(self._attempt, store), PrefixStore("run", store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo", store=self._store, rank=self.rank, world_size=self.world,
                timeout=patience,
            )  # fmt: skip
            if not self.first:
                self._leave_with_the_first(patience)
            yield
        except Exception as error:
            known = self.explained(error)
            if isinstance(error, LoraTuiError):
                self._last_words(error)
            elif known is error and not isinstance(error, PeerLost):
                words = str(error).splitlines()[0] if str(error) else ""
                self._last_words(LoraTuiError(f"{type(error).__name__}: {words}"))
            if known is error:
                raise
            raise known from error
        else:
            dist.destroy_process_group()

    def explained(self, error: BaseException) -> BaseException:
        """`error`; where it comes of a lost peer, what that peer ended with, or PeerLost. May wait LAST_WORDS seconds for it."""
        if self.alone or isinstance(error, LoraTuiError | PeerLost) or not _is_of_a_peer(error):
            return error
        return self._words_of_a_peer() or PeerLost(_plainly(error))

    # -- what is the same for all ---------------------------------------------------------------------------------------

    def share(self, mine: Any = None) -> Any:
        """Rank 0's `mine`, for all."""
        if self.alone:
            return mine
        import torch.distributed as dist

        box = [mine if self.first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, mine: Any) -> list[Any]:
        """Everybody's `mine`, by rank."""
        if self.alone:
            return [mine]
        import torch.distributed as dist

        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, mine)
        return box

    def meet(self) -> None:
        """Wait until all are here."""
        if not self.alone:
            self.gather(None)

    def agreed(self, should_stop: Callable[[], str | None]) -> Callable[[], str | None]:
        """`should_stop` with one answer for all: a reason that any of them has. To be asked by all at the same places."""
        if self.alone:
            return should_stop
        import torch
        import torch.distributed as dist

        def together() -> str | None:
            reason = should_stop()
            flag = torch.tensor([1 if reason else 0], dtype=torch.uint8)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            return next((found for found in self.gather(reason) if found), None) if flag.item() else None

        return together

    def wait_for_first(self, what: str) -> None:
        """Wait, however long it takes, until rank 0 has said `said(what)`. It is no collective: nothing times out."""
        if not self.alone:
            while not self._store.check([what]):
                time.sleep(LOOK)

    def said(self, what: str) -> None:
        """Tell those that wait for rank 0 that `what` is done."""
        if not self.alone:
            self._store.set(what, b"1")

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise the same error in all of them where `facts` differ between them, naming both values and where they are."""
        everyone = self.gather((socket.gethostname(), dict(facts)))
        host, first = everyone[0]
        for rank, (other, found) in enumerate(everyone):
            for name in dict.fromkeys((*first, *found)):
                if first.get(name) != found.get(name):
                    raise FACTS.get(name, ConfigError)(
                        _("the processes of this run do not have the same {what}").format(what=name),
                        _("{mine} in process 0 on {host}, {other} in process {rank} on {there}").format(
                            mine=first.get(name, "-"), host=host, other=found.get(name, "-"), rank=rank, there=other
                        ),
                        _("Give all of them the same files, versions and flags."),
                    )

    # -- memory ---------------------------------------------------------------------------------------------------------

    def too_many(self, rows: int, fewer: int, times: int, words: str) -> TooManyRows:
        """The error to leave with where `rows` at a time are too many for this process. All of them then start again, with `fewer`."""
        self._kept.set("too_many", json.dumps([rows, fewer, times]))
        return TooManyRows(words)

    def too_many_before(self) -> tuple[int, int, int] | None:
        """(rows, fewer, times) of the last `too_many` of an earlier attempt; None where there was none."""
        if self._kept is None or not self._kept.check(["too_many"]):
            return None
        rows, fewer, times = json.loads(self._kept.get("too_many"))
        return rows, fewer, times

    # -- ends -----------------------------------------------------------------------------------------------------------

    def over(self, error: LoraTuiError | None = None) -> None:
        """Rank 0 ends this run for good: the others, who may be waiting for it, go too, and nothing is started again."""
        if not self.alone and self._store is not None:
            with contextlib.suppress(Exception):  # the store is gone, and with it whoever would have looked
                self._store.set("over", json.dumps(self._words(error)) if error is not None else "null")

    @property
    def _attempt(self) -> str:
        return f"attempt-{self.restarts}"

    def _connected(self, patience: timedelta) -> Any:
        """A connection to torchrun's store."""
        from torch.distributed.rendezvous import rendezvous

        store, *_place = next(iter(rendezvous("env://", timeout=patience)))
        return store

    def _leave_with_the_first(self, patience: timedelta) -> None:
        from torch.distributed.distributed_c10d import PrefixStore

        # one of its own: a connection answers one thread at a time
        store = PrefixStore(self._attempt, self._connected(patience))

        def watch() -> None:
            with contextlib.suppress(Exception):
                while not store.check(["over"]):
                    time.sleep(LOOK)
                words = json.loads(store.get("over"))
                if words is not None:
                    self.failed(_error(words))
                os._exit(0)

        threading.Thread(target=watch, name="over", daemon=True).start()

    def _last_words(self, error: LoraTuiError) -> None:
        if not self.first and self._store is not None:
            with contextlib.suppress(Exception):
                self._store.set("failed", json.dumps(self._words(error)))
            self.failed(error)

    def _words(self, error: LoraTuiError) -> dict[str, Any]:
        told = {"title": error.title, "detail": error.detail, "fix": error.fix, "code": error.exit_code}
        return {**told, "rank": self.rank, "host": socket.gethostname()}

    def _words_of_a_peer(self) -> LoraTuiError | None:
        """What the peer that is gone ended with, where it said so. A store behind a link that was cut never answers, so it is asked in
        a thread that may be left behind."""
        found: list[LoraTuiError] = []

        def ask() -> None:
            with contextlib.suppress(Exception):
                while not self._store.check(["failed"]):
                    time.sleep(LOOK)
                found.append(_error(json.loads(self._store.get("failed"))))

        asking = threading.Thread(target=ask, name="last words", daemon=True)
        asking.start()
        asking.join(LAST_WORDS)
        return found[0] if found else None


def _error(words: Mapping[str, Any]) -> LoraTuiError:
    """The error that another process ended with, in its words."""
    where = _("process {rank} on {host}: {words}").format(rank=words["rank"], host=words["host"], words=words["title"])
    error = LoraTuiError(where, words["detail"], words["fix"])
    error.exit_code = words["code"]
    return error


def _plainly(error: BaseException) -> str:
    """The library's words without its source line in front and the advice behind."""
    first = re.sub(r"^(\[[^]]*\]\s*)+", "", first_line(error))
    return first.split(". This ")[0].rstrip(".")


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because of the other side. gloo raises plain RuntimeErrors, to be told by their words."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError | ConnectionError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OF_A_PEER)
    )
