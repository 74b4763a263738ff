"""The messages of the wizard: what comes from a thread, in the past tense. (What a run tells is fetched: `at_work.Shown.take_in`.)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from engine.export.chat import Side
    from tui.at_work import RunAtWork


class RunEnded(Message):
    """The thread of `run` came back."""

    def __init__(self, run: RunAtWork) -> None:
        super().__init__()
        self.run = run


class Found(Message):
    """Something a screen asked the engine for has been found out."""

    def __init__(self, what: str, asked: Any, value: Any) -> None:
        super().__init__()
        self.what = what
        self.asked = asked
        """What was asked for: an answer that has changed since makes `value` stale."""
        self.value = value


class Said(Message):
    """A piece of a conversation came."""

    def __init__(self, asked: int, side: Side, words: str, style: str) -> None:
        super().__init__()
        self.asked = asked
        """Of which conversation: one that was begun anew since is no longer shown."""
        self.side = side
        self.words = words
        self.style = style


class Progressed(Message):
    """Something that takes seconds is under way."""

    def __init__(self, words: str, share: float | None = None) -> None:
        super().__init__()
        self.words = words
        self.share = share
        """0 to 1; None where it is not known."""
