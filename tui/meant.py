"""What may have been meant by words of a command line that no parser knows: other programs have other words for the same."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from engine.i18n import _
from engine.paths import is_file, path_of
from tui.commands import COMMANDS
from tui.parser import Parser, unknown

RUN_ELSEWHERE = ("train", "sft", "finetune", "fine-tune", "fit", "run", "start")
"""Words for the run itself in other programs; here it needs none."""
COMMANDS_ELSEWHERE = {
    "list": "runs", "ls": "runs", "ps": "runs", "status": "runs", "stop": "watch", "kill": "watch", "attach": "watch",
    "merge": "export", "convert": "export", "fuse": "export", "push": "export", "generate": "chat", "inference": "chat",
    "infer": "chat", "inspect": "check", "verify": "check", "preprocess": "data", "tokenize": "data",
}  # fmt: skip
"""What commands are called in other programs -> here."""


def meant(rest: Sequence[str], given: Sequence[str], parser: Parser) -> str:
    """What to say of `rest`, the words of the command line `given` that the run's `parser` left over."""
    return _misplaced(rest, given, parser) or _needless(rest, given, parser) or _unknown(rest[0], parser)


def _misplaced(rest: Sequence[str], given: Sequence[str], parser: Parser) -> str | None:
    """What to say where a command stands behind flags, as it may in other programs."""
    command = next((word for word in rest if word in COMMANDS), None)
    if command is None:
        return None
    place = _place(command, given, parser)
    words = [*given[place:], *_known_to(COMMANDS[command].parser(), given[:place])]
    return _("the command goes first: {words}").format(words=f"lora-tui {shlex.join(words)}")


def _needless(rest: Sequence[str], given: Sequence[str], parser: Parser) -> str | None:
    """What to say where the run itself is called by the word for it, as in other programs."""
    if rest[0] not in RUN_ELSEWHERE:
        return None
    place = _place(rest[0], given, parser)
    words = shlex.join(["lora-tui", *given[:place], *given[place + 1 :]])
    return _("a run needs no command: {words}").format(words=words)


def _place(word: str, given: Sequence[str], parser: argparse.ArgumentParser) -> int:
    """Where `word`, which `parser` left over, stands: not where it is a flag's value."""
    return next(
        place for place, one in enumerate(given) if one == word and (place == 0 or not _wants_next(given[place - 1], parser))
    )


def _wants_next(word: str, parser: argparse.ArgumentParser) -> bool:
    """Whether `word` is a flag of `parser` whose value is the next word."""
    return any(word in action.option_strings and action.nargs is None for action in parser._actions)


def _known_to(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Those flags of `words` that `parser` has too, with their values."""
    known = {option for action in parser._actions for option in action.option_strings}
    found: list[str] = []
    for index, word in enumerate(words):
        if word.partition("=")[0] in known:
            found += [word, *words[index + 1 : index + 2]] if _wants_next(word, parser) else [word]
    return found


def _unknown(word: str, parser: Parser) -> str:
    """What to say of a flag or a command that there is not."""
    if word in COMMANDS_ELSEWHERE:
        return unknown(word, [COMMANDS_ELSEWHERE[word]])
    if is_file(path_of(word)):
        return unknown(word, [shlex.join(["--config" if word.endswith(".toml") else "--dataset", word])])
    return unknown(word, parser.nearest(word, COMMANDS))
