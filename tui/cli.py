"""The command line: what was asked, handed to what does it. Loads what a command needs and no more.

`--help` must answer in under 0.3 s and `check` must never load torch, so everything heavier than argparse and the RunConfig is
imported inside the function that needs it. The flags are generated from RunConfig: a field is described once, there.
"""

from __future__ import annotations

import argparse
import contextlib
import os

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # none is used, and looking for them costs a tenth of --help
# TRL would tell the Hub of every run (model, GPU, number of processes). Read once, when huggingface_hub is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import engine
from engine.config import RunConfig, choices, field_meta, flag, group_title, is_switch
from engine.errors import ConfigError, LoraTuiError
from engine.i18n import _
from engine.sources import Source, environment, resolve
from tui import i18n
from tui.commands import COMMANDS
from tui.completion import SHELLS
from tui.meant import meant
from tui.parser import NO_COLOR, Parser, help_of


class _PrintCompletion(argparse.Action):
    """Prints the shell's script and leaves, as --help does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        from tui.completion import completion

        sys.stdout.write(completion(values))
        parser.exit()


def run_parser() -> Parser:
    """The parser of `lora-tui` itself: one flag for each field of RunConfig, plus how to run."""
    parser = Parser(
        prog="lora-tui",
        usage="lora-tui [--demo] [--yes] [FLAGS] | check OUT [--json] | data PATH [--model M] [--json]"
        " | export OUT --to WHAT | chat OUT | eject OUT | submit --slurm FLAGS | watch [OUT] | runs [ROOT]",
        description=_("Fine-tune a language model with LoRA; continue exactly where a run stopped, and see that it did."),
        epilog=_EXAMPLES(),
    )
    how = parser.add_argument_group(_("How to run"))
    how.add_argument("--yes", action="store_true", help=_("headless: ask nothing"))
    how.add_argument("--demo", action="store_true", help=_("with the embedded model and dataset, built on this machine"))
    how.add_argument(
        "--accessible", action="store_true", help=_("the wizard as plain questions, one line each, for screen readers")
    )
    how.add_argument("--dry-run", action="store_true", help=_("say what would be done, and stop"))
    how.add_argument(
        "--detach",
        action="store_true",
        help=_("with --yes: leave the run at work without this terminal; see lora-tui watch"),
    )
    how.add_argument("--config", metavar="FILE", type=Path, help=_("settings from a TOML file"))
    how.add_argument("--json", action="store_true", help=_("events as JSON lines on stdout"))
    how.add_argument(
        "--print-completion", metavar="SHELL", action=_PrintCompletion, choices=SHELLS,
        help=_("the script that completes these words in bash, zsh, fish, tcsh or powershell"),
    )  # fmt: skip
    how.add_argument(
        "--version", action="version", version=f"lora-tui {engine.__version__}", help=_("show the version and leave")
    )
    told = "\n".join(name.ljust(8) + _(command.about) for name, command in COMMANDS.items())
    parser.add_argument_group(_("Commands; each has its own --help"), told)
    groups: dict[str, Any] = {}
    for name in RunConfig.model_fields:
        meta = field_meta(name)
        title = str(meta["group"])
        if title not in groups:
            groups[title] = parser.add_argument_group(group_title(title))
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_of(name)}
        if is_switch(name):
            groups[title].add_argument(flag(name), action=argparse.BooleanOptionalAction, **options)
        else:
            metavar = str(meta["metavar"]) or "|".join(choices(name)) or name.upper()
            groups[title].add_argument(flag(name), metavar=metavar, **options)
    return parser


def _EXAMPLES() -> str:
    return _("""examples:
  lora-tui                                                     the wizard; --demo fills in a model and a dataset built here
  lora-tui --demo --yes                                        see it work, with a model and data built here
  lora-tui --yes --dataset chat.jsonl --model ./Qwen3-0.6B     train; continues by itself if it was begun
  lora-tui --yes --resume auto                                 go on with the last run under ./out
  lora-tui --yes --output out/mine --epochs 5                  extend a finished run
  lora-tui --yes --detach --output out/mine                    the same without this terminal
  lora-tui watch out/mine                                      see it, stop it; lora-tui runs lists what runs and what ended
  lora-tui check out/mine                                      what is there, what would be continued, and why

exit codes:
  0 done · 1 unexpected failure · 2 usage or configuration · 3 this checkpoint cannot be continued
  4 dataset or model unusable · 5 output folder busy, unwritable, gone or full
  129/130/143 stopped by HUP/INT/TERM after saving a checkpoint · 138/140 the same for USR1/USR2""")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = _lang(given)
    i18n.install(asked)
    if asked is not None:
        os.environ["LORA_TUI_LANG"] = asked  # a run that is detached speaks it too
    if NO_COLOR in given:
        os.environ["NO_COLOR"] = "1"  # which everything that paints asks for
    try:
        try:
            return _dispatch(given)
        finally:
            sys.stdout.flush()
    except LoraTuiError as error:
        from tui.headless import show_error

        with contextlib.suppress(OSError):  # a stream that takes nothing costs nobody the exit code
            show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # whoever read our output has gone (`| head`): not an error


def _lang(given: Sequence[str]) -> str | None:
    for index, word in enumerate(given):
        if word == "--lang" and index + 1 < len(given):
            return given[index + 1]
        if word.startswith("--lang="):
            return word.removeprefix("--lang=")
    return None


def _ahead(given: Sequence[str]) -> int:
    """How many words stand in front of a command's name: how everything is shown, if anything."""
    ahead = 0
    while given[ahead : ahead + 1]:
        word = given[ahead]
        if word != NO_COLOR and not word.startswith("--lang=") and word != "--lang":
            break
        ahead += 2 if word == "--lang" else 1
    return ahead


def _need_working_folder() -> None:
    """Raise ConfigError where the folder that this was started in is gone. Relative paths lead nowhere then, and libraries that ask
    for it end the process without a word (MKL)."""
    try:
        os.getcwd()  # noqa: PTH109 - asked, not wanted
    except FileNotFoundError:
        raise ConfigError(
            _("the folder that lora-tui was started in is no longer there"),
            _("It was removed or moved, or its disk was taken away."),
            _("Change to a folder that is there (cd) and start it again."),
        ) from None


def _dispatch(given: list[str]) -> int:
    if not {"--help", "-h", "--version"} & set(given):
        _need_working_folder()
    ahead = _ahead(given)
    if given[ahead : ahead + 1] and given[ahead] in COMMANDS:
        return COMMANDS[given[ahead]].carry_out([*given[:ahead], *given[ahead + 1 :]])
    if given == ["carry-out"]:
        from tui.headless import run_handed_over

        return run_handed_over()
    return _run(given)


def _run(given: list[str]) -> int:
    parser = run_parser()
    options, rest = parser.parse_known_args(given)
    if rest:
        parser.error(meant(rest, given, parser))
    flags = {name: value for name, value in vars(options).items() if name in RunConfig.model_fields}
    if options.detach and not (options.yes or options.json):
        parser.error(_("--detach goes with --yes; in the wizard, the key d on the training screen does it"))
    if not options.yes and not options.dry_run and not options.json:
        return _wizard(parser, options, flags)
    from tui.headless import run_headless

    return run_headless(flags, options.config, demo=options.demo, as_json=options.json, dry_run=options.dry_run,
                        detach=options.detach)  # fmt: skip


def _wizard(parser: Parser, options: argparse.Namespace, flags: dict[str, Any]) -> int:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        parser.error(_("the wizard needs a terminal; add --yes to run without questions"))
    sources = [Source("flag", "", flags), environment()]
    if options.config is not None:
        from engine.answers import named_settings

        sources += named_settings(options.config, sources)
    counted: Container[str] = ()
    if any(source.values for source in sources):  # the first look at a value costs 40 ms, a tenth of the first frame
        counted = resolve(sources).origin  # bad values are told before the first screen
    # Of settings that exclude each other the stronger source's alone, as in a run.
    answers = {name: value for source in reversed(sources) for name, value in source.values.items() if name in counted}
    if not options.demo:
        answers = _as_its_run(answers)
    if options.accessible or os.environ.get("TERM") == "dumb":
        from tui.prompts import run_prompts

        return run_prompts(answers, options.demo)
    import gc

    gc.disable()  # nothing that is imported now will ever be garbage; the app switches it on after the first frame
    from tui.app import run_wizard

    return run_wizard(answers, options.demo)


def _as_its_run(answers: dict[str, Any]) -> dict[str, Any]:
    """`answers`, and where they name a run or a checkpoint what that learned from and what it fine-tuned: who wants to go on with it
    is not asked for that, nor offered what another run had."""
    if "output" not in answers and "init_from" not in answers and answers.get("resume", "auto") in ("auto", "never"):
        return answers
    from engine.answers import gather
    from tui.wizard import READING, TEMPLATE

    try:
        found = gather(answers, environ={}).resolved
    except LoraTuiError:  # told at the step that it belongs to
        return answers
    of_run = {
        name: getattr(found.config, name)
        for name in ("dataset", "model", *READING, TEMPLATE)
        if found.origin.get(name) == "run"
    }
    return {name: value for name, value in of_run.items() if value != RunConfig.model_fields[name].default} | answers


if __name__ == "__main__":
    sys.exit(main())
