"""The keys at the foot of a screen: whole ones only, where not all of them have room."""

from __future__ import annotations

from textual.widget import Widget
from textual.widgets import Footer

MENU = "-command-palette"
"""Textual's class for the key of the menu, which lies over the others."""


class Foot(Footer):
    """Textual's footer, without a key that would be cut."""

    def on_resize(self) -> None:
        self._leave_out()

    async def recompose(self) -> None:
        await super().recompose()
        self._leave_out()

    def _leave_out(self) -> None:
        keys = list(self.query("FooterKey"))
        room = self.size.width - sum(self._width(key) for key in keys if key.has_class(MENU))
        for key in keys:
            if not key.has_class(MENU):
                # The space after the last one need not be there.
                key.display = room >= self._width(key) - key.styles.margin.right
                room -= self._width(key)

    def _width(self, key: Widget) -> int:
        return key.get_content_width(self.size, self.size) + key.gutter.width + key.styles.margin.width
