"""Why the way on is closed, in a few lines at the foot of a step: what is wrong, and always what to do about it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from textual.widgets import Static

LINES = 8
"""At most, as lora.tcss has it: on a small terminal the step itself needs the rest."""
LEFT_OUT = "..."


class Closed(Static):
    """A reason of several paragraphs, of which the first is what is wrong and the last what to do. Where there is not room for all,
    those between are left out from their end, since the last would else be what nobody sees."""

    reason = ""

    def say(self, reason: str) -> None:
        """Show `reason`; nothing is shown where it is empty."""
        self.reason = reason
        self.display = bool(reason)
        self.update(self._fitting())

    def on_resize(self) -> None:
        """Once it is laid out the width is known."""
        self.update(self._fitting())

    def _fitting(self) -> str:
        width = self.content_size.width
        paragraphs = self.reason.split("\n")
        if not width or _height(paragraphs, width) <= LINES:
            return self.reason
        *first, remedy = paragraphs
        while len(first) > 1 and _height([*first, LEFT_OUT, remedy], width) > LINES:
            first.pop()
        return "\n".join([*first, LEFT_OUT, remedy] if len(first) + 1 < len(paragraphs) else paragraphs)


def _height(paragraphs: list[str], width: int) -> int:
    console = Console(width=width)
    return sum(len(Text(one).wrap(console, width)) for one in paragraphs)
