"""The buttons below a step, closer together where they would not all be seen: the last one is the way on."""

from __future__ import annotations

from textual.containers import Horizontal
from textual.events import Resize
from textual.geometry import Size

TIGHT = "-tight"


class Buttons(Horizontal):
    """A row of buttons, as wide apart as there is room for."""

    _width = 0
    """What there was room in when it was last tried how wide apart they may be."""

    def on_resize(self, event: Resize) -> None:
        if event.size.width != self._width:  # Textual also sends it where the buttons have become others
            self._width = event.size.width
            self.remove_class(TIGHT)
        self._fit()

    def watch_virtual_size(self, _before: Size, _now: Size) -> None:
        """Textual's word that what it holds takes another room: a button came, went or is called otherwise."""
        self._fit()

    def _fit(self) -> None:
        if self.virtual_size.width > self.size.width:
            self.add_class(TIGHT)
