"""Chooses the language once, from --lang, LORA_TUI_LANG or the locale, and installs its catalogue."""

from __future__ import annotations

import gettext
import os
from pathlib import Path

from engine import i18n

DOMAIN = "lora-tui"
LOCALES = Path(__file__).parent / "locale"
LANGUAGES = ("en", "zh_CN")


def choose_language(asked: str | None = None) -> str:
    """en or zh_CN: what was asked, else the first of LORA_TUI_LANG, LC_ALL, LC_MESSAGES, LANG that is set."""
    found = asked or next(
        (os.environ[name] for name in ("LORA_TUI_LANG", "LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "en"
    )
    return "zh_CN" if found.lower().replace("-", "_").startswith("zh") else "en"


def install(asked: str | None = None) -> str:
    """Make the chosen language the one everything is told in. Returns it."""
    language = choose_language(asked)
    i18n.install(gettext.translation(DOMAIN, LOCALES, [language], fallback=True))
    return language


def N_(message: str) -> str:
    """Marks a message that is translated when it is shown: a binding or a title that belongs to a class."""
    return message
