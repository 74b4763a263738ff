"""A screen that lies over another goes once. Where its answer comes twice, by a key or a click that was quicker than the screen,
Textual would take away the one below it as well, and at the first step end the program with an error.
"""

from __future__ import annotations

from typing import Any

from textual.await_complete import AwaitComplete


class DismissedOnce:
    """Put before a class of screens: it lies over another one until it is answered. No screen itself, since of several Textual takes
    the styles of the first alone."""

    def dismiss(self: Any, result: Any = None) -> AwaitComplete:
        """Go, with `result`, unless it has gone already."""
        if not self.is_active:
            return AwaitComplete.nothing()  # type: ignore[no-any-return, no-untyped-call]
        return super().dismiss(result)  # type: ignore[misc, no-any-return]
