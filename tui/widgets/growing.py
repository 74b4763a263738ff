"""A scrolled part that grows at its end: a transcript, a list of what happened."""

from __future__ import annotations

from textual.containers import VerticalScroll


class Growing(VerticalScroll):
    """Follows its end until somebody scrolls up, and again once they are back there. Textual's own `anchor` does that too, but puts
    what does not fill it to the bottom."""

    _follows = True

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = new_value >= self.max_scroll_y

    def grown(self) -> None:
        """Something was added."""
        if self._follows:
            self.scroll_end(animate=False)
