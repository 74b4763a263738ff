"""Work on many chunks of rows, over the processors there are, with the answers in the order of the chunks.

Rendering templates is Python, so threads would wait for each other. The processes are begun only once there is enough to do: each must
import transformers first. They are spawned, since this process has threads and may hold a GPU; they leave when it does.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from engine import i18n
from engine.devices import processors

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

ALONE = 8
"""Chunks that are done here before others are asked: 32,768 rows, some eight seconds."""
MOST = 4
"""Processes; each takes about 250 MB, most of it libraries."""

T = TypeVar("T")
_work: Callable[[Any], Any]


def in_order(work: Callable[[list[Any]], T], chunks: Iterator[list[Any]]) -> Iterator[tuple[int, T]]:
    """(rows, answer) of each chunk. `work` must be the same function of a chunk in any process. Raises what it raises."""
    for chunk in islice(chunks, ALONE):
        yield len(chunk), work(chunk)
    following = list(islice(chunks, 1))
    processes = min(processors(), MOST)
    packed = _packed(work) if following and processes > 1 else None
    chunks = chain(following, chunks)
    if packed is not None:
        yield from _by_others(work, packed, processes, chunks)
    for chunk in chunks:
        yield len(chunk), work(chunk)


def _by_others(
    work: Callable[[list[Any]], T], packed: bytes, processes: int, chunks: Iterator[list[Any]]
) -> Iterator[tuple[int, T]]:
    """As far as the other processes live. What one of them did not give back, since it was killed (for want of memory, most likely),
    is done here, and so is the rest by the caller."""
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    asked: deque[tuple[list[Any], Future[T]]] = deque()
    context, given = get_context("spawn"), (packed, i18n.words(), os.getpid())
    try:
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=given)
    except (ImportError, OSError, ValueError, NotImplementedError):  # no semaphores here: a container without /dev/shm
        return
    with pool:
        try:
            for chunk in chunks:
                asked.append((chunk, _asked(pool, chunk)))
                if len(asked) > 2 * processes:  # what waits is in memory twice
                    yield len(asked[0][0]), asked[0][1].result()
                    asked.popleft()
            while asked:
                yield len(asked[0][0]), asked[0][1].result()
                asked.popleft()
        except BrokenProcessPool:
            if not asked or asked[-1][0] is not chunk:
                asked.append((chunk, Future()))
            for left, _future in asked:
                yield len(left), work(left)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _asked(pool: ProcessPoolExecutor, chunk: list[Any]) -> Future[Any]:
    """The question, as `submit` gives it. Raises BrokenProcessPool where a process cannot be begun: too many of them, no memory."""
    from concurrent.futures.process import BrokenProcessPool

    try:
        return pool.submit(_do, chunk)
    except (OSError, ValueError) as error:
        for process in list(
            (pool._processes or {}).values()
        ):  # nobody else would end those that were begun before it failed
            process.kill()
        raise BrokenProcessPool(str(error)) from error


def _packed(work: Callable[..., Any]) -> bytes | None:
    """`work` for another process; None where it cannot travel (a tokenizer of somebody's own code)."""
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return None


def _begin(packed: bytes, words: dict[Any, str], parent: int) -> None:
    """In a new process. Ctrl-C reaches the whole terminal, and what it means is decided by the one that asked."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    i18n.install_words(words)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    _work = pickle.loads(packed)  # noqa: S301 - from the process that began this one


def _leave_with(parent: int) -> None:
    """A process that is killed tells nobody; whoever waits for its questions would wait for ever."""
    import time

    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(chunk: list[Any]) -> Any:
    return _work(chunk)
