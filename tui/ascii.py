"""What is drawn, for terminals that show only ASCII: every mark, line and bar has a stand-in of the same width.

Words are left as they are: a name or a row in another script is not made readable by taking it away.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

STAND_INS = {
    "-": "·─━╌╍┄┅┈┉╴╶╸╺═▔–—−•",
    "_": "▁",
    "|": "│┃║▏▎▍▌▐▕▊▋▉╎╏┆┇┊┋╵╷",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┣┫┳┻╋╔╗╚╝╠╣╦╩╬▛▜▙▟",
    "#": "█▇▆▅▄▃▂▀▓▒■",
    ":": "░",
    ">": "▸▶►→›»",
    "<": "◂◀◄←‹«",
    "^": "▲▴↑",
    "v": "▼▾↓",
    "*": "✓✔●★",
    "o": "○◯",
    "x": "✗✘×",
    ".": "…",
    "/": "⏎",
    "'": "‘’",
    '"': "“”",
}
_BY_MARK = {mark: plain for plain, marks in STAND_INS.items() for mark in marks}


def ascii_drawn(text: str) -> str:
    """`text` with nothing drawn but ASCII, as wide as before."""
    return text if text.isascii() else "".join(map(_stand_in, text))


@lru_cache(4096)
def _stand_in(character: str) -> str:
    kind, width = unicodedata.category(character)[0], cell_len(character)
    if character.isascii() or kind in "LMN" or (kind == "P" and width == 2):
        return character
    return _BY_MARK.get(character) or (" " if character.isspace() or width == 2 else "?") * width


class AsciiFilter(LineFilter):
    """Textual draws through it, so that its own borders and scroll bars are reached too."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(ascii_drawn(text), style, control) for text, style, control in segments]
