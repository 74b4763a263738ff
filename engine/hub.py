"""The hub, or the mirror that HF_ENDPOINT names: whether it answers at all, asked once before anybody waits for it.

Where a network swallows packets, as many do with a hub that is not allowed there, the libraries try five times and more and wait for
each: minutes in which nothing is said. What they hold in their caches they find at once when they are told that there is no network.
"""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from engine.i18n import _

PATIENCE = 4.0
"""Seconds that it may take to answer anything, looking up its name included."""
HOLDS = 60.0
"""Seconds for which an answer is believed: a dataset and its model are asked for one after the other, and one wait is enough."""


@contextlib.contextmanager
def hub() -> Iterator[str | None]:
    """Within, the Hugging Face libraries may be used: without network where the hub does not answer, so that they look into their
    caches only and fail at once. Gives why it is not asked; None where it is."""
    from huggingface_hub import constants

    with _LOCK:
        asked_for = constants.HF_HUB_OFFLINE and not _silenced.threads
        why = None if asked_for else _silenced.why if _silenced.threads else _known(constants.ENDPOINT)
        if why is not None:
            _silenced.one_more(why)
    try:
        yield _("HF_HUB_OFFLINE is set") if asked_for else why
    finally:
        if why is not None:
            with _LOCK:
                _silenced.one_less()


_LOCK = threading.Lock()
"""Held while it is asked, too: who comes meanwhile would otherwise ask again, and wait as long."""


class _Silenced:
    """The libraries told that there is no network. They keep that in globals of their modules, for all threads at once: the first
    one in sets them and the last one out puts them back, however many there are between."""

    threads = 0
    why: str | None = None
    before = False
    """What datasets had."""

    def one_more(self, why: str) -> None:
        import datasets
        from huggingface_hub import constants

        if not self.threads:
            self.why, self.before = why, datasets.config.HF_HUB_OFFLINE
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        self.threads += 1

    def one_less(self) -> None:
        import datasets
        from huggingface_hub import constants

        self.threads -= 1
        if not self.threads:
            constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = False, self.before


_silenced = _Silenced()
_answers: dict[str, tuple[float, str | None]] = {}
"""Address -> when it was asked, and why it is silent."""


def _known(address: str) -> str | None:
    """As `_why_silent`, which is asked once in a while only."""
    asked, why = _answers.get(address, (-HOLDS, None))
    if time.monotonic() - asked < HOLDS:
        return why
    why = _why_silent(address)
    _answers[address] = time.monotonic(), why
    return why


def _why_silent(address: str) -> str | None:
    """Why nothing at `address` answers a request; None where something does, whatever it says."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
                found.append(None)
        except urllib.error.HTTPError:
            found.append(None)
        except (OSError, ValueError) as error:
            found.append(f"{address}: {getattr(error, 'reason', None) or error}")

    # In a thread: a name that is looked up, and a second address after the first, have no bound of their own.
    asking = threading.Thread(target=ask, name="hub", daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return (
        found[0]
        if found
        else _("{address}: no answer within {seconds:.0f} seconds").format(address=address, seconds=PATIENCE)
    )
