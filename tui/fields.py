"""What the wizard's fields are called, and the engine's words with these names in place of flags.

The engine speaks to whoever has a command line. In the wizard nobody can type a flag, so each one that a field stands for is told as
that field.
"""

from __future__ import annotations

import re

from engine.config import flag
from engine.i18n import _
from tui.wizard import READING, SETTINGS

_SAID = re.compile(r"lora-tui --help\b|lora-tui [^\n·]*|--[a-z][a-z0-9-]*")
"""A flag; a whole command, which is there to be copied, comes before the flags in it."""


def label(name: str) -> str:
    """How the field of a setting is called on the screen; the first three have a step each."""
    steps = {"dataset": _("Dataset"), "model": _("Model"), "output": _("Output")}
    return steps.get(name) or name.replace("_", " ")


def named_in(words: str | None) -> set[str]:
    """The settings whose flags are told in `words`."""
    said = set(_SAID.findall(words or ""))
    return {name for name in ("dataset", "model", "output", *READING, *SETTINGS) if flag(name) in said}


def in_fields(words: str) -> str:
    """`words` for somebody in the wizard."""
    fields = {flag(name): f'"{label(name)}"' for name in ("dataset", "model", "output", *READING, *SETTINGS)}
    fields["lora-tui --help"] = "F1"
    return _SAID.sub(lambda found: fields.get(found.group(), found.group()), words)
