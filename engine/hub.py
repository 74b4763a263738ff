"""The hub, or the mirror that HF_ENDPOINT names: whether it answers at all, asked once before anybody waits for it.

Where a network swallows packets, as many do with a hub that is not allowed there, the libraries try five times and more and wait for
each: minutes in which nothing is said. What they hold in their caches they find at once when they are told that there is no network.
"""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from engine.i18n import _

PATIENCE = 4.0
"""Seconds that it may take to answer anything, looking up its name included."""


@contextlib.contextmanager
def hub() -> Iterator[str | None]:
    """Within, the Hugging Face libraries may be used: without network where the hub does not answer, so that they look into their
    caches only and fail at once. Gives why it is not asked; None where it is."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield _("HF_HUB_OFFLINE is set")
        return
    why = _why_silent(constants.ENDPOINT)
    if why is None:
        yield None
        return
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = False, before


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
