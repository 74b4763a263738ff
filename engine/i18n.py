"""The one place where the engine's words meet a language.

The engine writes messages (errors, reasons, advice) but never decides who reads them. It marks each with `_`, and whoever
talks to a person installs that person's catalogue before. English is the source, so without a catalogue nothing is lost.

The catalogue is one for the process, as the language of a terminal is; it is looked up when a message is made, never at
import, so that a module imported early still speaks the language chosen later.
"""

from __future__ import annotations

import gettext as _gettext
from typing import Any

_catalogue: _gettext.NullTranslations = _gettext.NullTranslations()


def install(catalogue: _gettext.NullTranslations) -> None:
    """Make `catalogue` the one that `_` and `n_` read from now on."""
    global _catalogue
    _catalogue = catalogue


def _(message: str) -> str:
    """`message` in the installed language. Put values in afterwards: `_("row {row}").format(row=3)`."""
    return _catalogue.gettext(message)


def n_(singular: str, plural: str, count: int) -> str:
    """The form of a message that fits `count`."""
    return _catalogue.ngettext(singular, plural, count)


def sentences(*parts: str) -> str:
    """Sentences one after the other; empty ones are left out. Chinese has no space between them."""
    text = ""
    for part in filter(None, parts):
        text += ("" if not text or text.endswith(("。", "！", "？")) else " ") + part
    return text


def with_detail(what: str, detail: str) -> str:
    """Both in one line, for where more follows: without what ends `detail`."""
    return _("{what}: {detail}").format(what=what, detail=detail.rstrip(".。")) if detail else what


def with_fix(what: str, fix: str) -> str:
    """What there is to know, and what to do, in one line."""
    return _("{what}. {fix}").format(what=what.rstrip(".。"), fix=fix).rstrip()


def words() -> dict[Any, str]:
    """The installed catalogue as plain data, for a process of ours that is to speak the same language (`install_words`)."""
    return dict(getattr(_catalogue, "_catalog", {}))


def install_words(known: dict[Any, str]) -> None:
    """Speak as the process that gave these `words`."""
    install(_Words(known))


class _Words(_gettext.NullTranslations):
    def __init__(self, known: dict[Any, str]) -> None:
        super().__init__()
        self._known = known

    def gettext(self, message: str) -> str:
        return self._known.get(message) or message

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        source = msgid1 if n == 1 else msgid2
        return self._known.get((msgid1, int(n != 1))) or self._known.get((msgid1, 0)) or source
