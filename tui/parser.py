"""argparse, so that its mistakes look like all others."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.i18n import _
from tui import i18n

NO_COLOR = "--no-color"


class Parser(argparse.ArgumentParser):
    """argparse that raises our errors, so that usage mistakes look like all others. Flags are never guessed from a beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._optionals.title = _("Options")
        self.add_argument("-h", "--help", action="help", help=_("show this help and leave"))
        self.add_argument("--lang", choices=i18n.LANGUAGES, help=_("language (default: by locale)"))
        self.add_argument(NO_COLOR, action="store_true", help=_("no colours, as where NO_COLOR is set"))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, fix=_("See {program} --help.").format(program=self.prog))


def help_of(name: str) -> str:
    """What a flag of the run says of itself in --help."""
    field = RunConfig.model_fields[name]
    text = _(str(field.description))
    default = field.default
    if default is not None and default is not False and default != ():
        text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
    return text.replace("%", "%%")
