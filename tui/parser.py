"""argparse, so that its mistakes look like all others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from engine.config import RunConfig, flag
from engine.errors import ConfigError
from engine.i18n import _
from engine.sources import ELSEWHERE
from tui import i18n
from tui.i18n import N_

NO_COLOR = "--no-color"
_NEGATIVE = re.compile(r"-\.?\d")
"""How a negative number begins. argparse's own pattern ends with the digits: to it, -1e-4 is a flag that nobody knows."""
_SAID = (
    (re.compile(r"argument (?P<flag>\S+): expected (one|at least one) argument"), N_("{flag} needs a value")),
    (re.compile(r"argument (?P<flag>\S+): ignored explicit argument (?P<value>.*)"), N_("{flag} takes no value, and has {value}")),
    (re.compile(r"argument (?P<flag>\S+): invalid (int|float) value: (?P<value>.*)"), N_("{flag}: {value} is no number")),
    (re.compile(r"argument (?P<flag>\S+): invalid choice: (?P<value>.*) \(choose from (?P<choices>.*)\)"),
     N_("{flag}: {value} is none of {choices}")),
    (re.compile(r"the following arguments are required: (?P<flag>.*)"), N_("missing: {flag}")),
    (re.compile(r"argument (?P<flag>\S+): (?P<why>.*)", re.DOTALL), N_("{flag}: {why}")),
)  # fmt: skip
"""What argparse says, in English alone -> the same in the language of all else. What it says otherwise one day stays as it is."""


class Parser(argparse.ArgumentParser):
    """argparse that raises our errors, so that usage mistakes look like all others. Flags are never guessed from a beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._optionals.title = _("Options")
        self._negative_number_matcher = _NEGATIVE
        self.add_argument("-h", "--help", action="help", help=_("show this help and leave"))
        self.add_argument("--lang", choices=i18n.LANGUAGES, help=_("language (default: by locale)"))
        self.add_argument(NO_COLOR, action="store_true", help=_("no colours, as where NO_COLOR is set"))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is not known is told with what may have been meant."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(unknown(rest[0], self.nearest(rest[0])))
        return options

    def nearest(self, word: str, commands: Iterable[str] = ()) -> list[str]:
        """Which of its flags, or of `commands`, may be meant by `word`; empty where none is like it."""
        import difflib

        name = word.split("=")[0]
        known = [option for action in self._actions for option in action.option_strings] + list(commands)
        setting = ELSEWHERE.get(name.lstrip("-").replace("-", "_"))
        if setting is not None and flag(setting) in known:
            return [flag(setting)]
        return difflib.get_close_matches(name, known, 1)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(_in_words(message), fix=_("See {program} --help.").format(program=self.prog))


def _in_words(message: str) -> str:
    """What argparse has to say, or who asks it, in the language of all else."""
    for said, words in _SAID:
        if found := said.fullmatch(message):
            return _(words).format(**found.groupdict())
    return message


def unknown(word: str, near: Sequence[str]) -> str:
    """What is said of a word that no parser knows. `near`: what may be meant by it."""
    text = _("unknown flag {word}") if word.startswith("-") else _("unknown command or argument {word}")
    return text.format(word=word.split("=")[0]) + (" · " + _("did you mean {near}?").format(near=near[0]) if near else "")


def help_of(name: str) -> str:
    """What a flag of the run says of itself in --help."""
    field = RunConfig.model_fields[name]
    text = _(str(field.description))
    default = field.default
    if default is not None and default is not False and default != ():
        text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
    return text.replace("%", "%%")
