"""The keys at the foot of a screen: whole ones only, where not all of them have room, and made anew only where they are others.

Textual makes its footer anew whenever the focus moves, which is most of what a screen has to do until it stands: a widget for each
key, its styles, and the layout of the whole screen.
"""

from __future__ import annotations

from typing import Any

from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

MENU = "-command-palette"
"""Textual's class for the key of the menu, which lies over the others."""


class Foot(Footer):
    """Textual's footer, without a key that would be cut."""

    _shown: tuple[Any, ...] | None = None
    """What the keys were made of. None: there are none yet."""

    def on_resize(self) -> None:
        self._leave_out()

    def bindings_changed(self, screen: Screen[Any]) -> None:
        if self._shown is None or self._shown != _to_show(screen):
            super().bindings_changed(screen)

    async def recompose(self) -> None:
        if not self.is_attached:
            return  # its screen has gone meanwhile
        wanted = _to_show(self.screen)
        if wanted == self._shown:
            return  # asked for twice before the screen was drawn
        self._shown = wanted
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


def _to_show(screen: Screen[Any]) -> tuple[Any, ...]:
    """What the keys of `screen` are made of."""
    return tuple((one.binding, one.enabled, one.tooltip) for one in screen.active_bindings.values() if one.binding.show)
