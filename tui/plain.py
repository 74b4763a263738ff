"""Outside text made harmless to look at.

Rich and Textual pass control characters through, so a folder name could move the cursor, write to the clipboard or turn the
line around. Every string that comes from a file, a folder or a dataset goes through `visible`, and is shown with markup off.
"""

from __future__ import annotations

import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INVISIBLE = frozenset("\u200b\u2060\ufeff\u00ad")


def visible(text: str, keep_lines: bool = False) -> str:
    """`text` with every control character in a notation one can see: ^[ for ESC, \\x9b, \\u202e. With `keep_lines` a line feed
    stays one and a tab becomes spaces."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, keep_lines) for character in text)


def _shown(character: str, keep_lines: bool) -> str:
    code = ord(character)
    if keep_lines and character in "\n\t":
        return "\n" if character == "\n" else "    "
    if code < 0x20 or code == 0x7F:
        return "^" + chr(code ^ 0x40)
    if code < 0xA0 and code > 0x7F:
        return f"\\x{code:02x}"
    hidden = character in _BIDI or character in _INVISIBLE or 0xE0000 <= code < 0xE0080
    if hidden or unicodedata.category(character) in ("Cs", "Zl", "Zp"):
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character
