"""The script that completes lora-tui's words in a shell, made by shtab from the parsers themselves, so that no flag is named twice."""

from __future__ import annotations

import argparse

from engine.config import RunConfig, choices

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def completion(shell: str) -> str:
    """The script for `shell`, one of SHELLS."""
    import shtab

    from tui.cli import run_parser
    from tui.commands import COMMANDS

    parser = run_parser()
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        of_command = command.parser()
        commands.add_parser(name, help=of_command.description, parents=[of_command], conflict_handler="resolve")
    for one in (parser, *commands.choices.values()):
        for action in one._actions:
            _tell_values(action)
    return str(shtab.complete(parser, shell))


def _tell_values(action: argparse.Action) -> None:
    """What may follow a flag. The parsers leave that open, since RunConfig names all bad values at once."""
    import shtab

    if action.dest in RunConfig.model_fields and choices(action.dest):
        action.choices = choices(action.dest)
    elif action.dest in ("output", "out", "resume", "init_from", "model"):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest in ("dataset", "path", "config", "chat_template"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
