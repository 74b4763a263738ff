"""The one place where the engine's words meet a language.

The engine writes messages (errors, reasons, advice) but never decides who reads them. It marks each with `_`, and whoever
talks to a person installs that person's catalogue before. English is the source, so without a catalogue nothing is lost.

The catalogue is one for the process, as the language of a terminal is; it is looked up when a message is made, never at
import, so that a module imported early still speaks the language chosen later.
"""

from __future__ import annotations

import gettext as _gettext

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
