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
        """Show the menu's key, the last one, which is the way out, and of the others as many as fit."""
        keys = list(self.query("FooterKey"))
        others = [key for key in keys if not key.has_class(MENU)]
        kept = [key for key in keys if key.has_class(MENU)] + others[-1:]
        room = self.size.width - sum(self._width(key) for key in kept)
        if others:  # the space after the last one need not be there
            room += others[-1].styles.margin.right
        for key in others[:-1]:
            room -= self._width(key)
            key.display = room >= 0

    def _width(self, key: Widget) -> int:
        return key.get_content_width(self.size, self.size) + key.gutter.width + key.styles.margin.width
