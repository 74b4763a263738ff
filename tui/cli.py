"""The command line: what was asked, handed to what does it. Loads what a command needs and no more.

`--help` must answer in under 0.3 s and `check` must never load torch, so everything heavier than argparse and the RunConfig is
imported inside the function that needs it. The flags are generated from RunConfig: a field is described once, there.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # none is used, and looking for them costs a tenth of --help

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import engine
from engine.config import (
    RunConfig,
    Source,
    choices,
    environment,
    field_meta,
    flag,
    group_title,
    is_switch,
    read_toml,
    resolve,
)
from engine.errors import ConfigError, LoraTuiError
from engine.folder import OUT_ROOT
from engine.i18n import _
from tui import i18n
from tui.completion import SHELLS


class _Parser(argparse.ArgumentParser):
    """argparse that raises our errors, so that usage mistakes look like all others. Flags are never guessed from a beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._optionals.title = _("Options")
        self.add_argument("-h", "--help", action="help", help=_("show this help and leave"))
        self.add_argument("--lang", choices=i18n.LANGUAGES, help=_("language (default: by locale)"))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, fix=_("See {program} --help.").format(program=self.prog))


class _PrintCompletion(argparse.Action):
    """Prints the shell's script and leaves, as --help does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        from tui.completion import completion

        sys.stdout.write(completion(values))
        parser.exit()


def run_parser() -> _Parser:
    """The parser of `lora-tui` itself: one flag for each field of RunConfig, plus how to run."""
    parser = _Parser(
        prog="lora-tui",
        usage="lora-tui [--demo] [--yes] [FLAGS] | check OUT [--json] | data PATH [--model M] [--json]"
        " | export OUT --to WHAT | chat OUT --prompt TEXT | eject OUT | watch [OUT] | runs [ROOT]",
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
    groups: dict[str, Any] = {}
    for name in RunConfig.model_fields:
        meta = field_meta(name)
        title = str(meta["group"])
        if title not in groups:
            groups[title] = parser.add_argument_group(group_title(title))
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(name)}
        if is_switch(name):
            groups[title].add_argument(flag(name), action=argparse.BooleanOptionalAction, **options)
        else:
            metavar = str(meta["metavar"]) or "|".join(choices(name)) or name.upper()
            groups[title].add_argument(flag(name), metavar=metavar, **options)
    return parser


def _help(name: str) -> str:
    field = RunConfig.model_fields[name]
    text = _(str(field.description))
    shown = field.default not in (None, (), False)
    return (text + (f" ({field.default})" if shown else "")).replace("%", "%%")


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
  129/130/143 stopped by HUP/INT/TERM after saving a checkpoint""")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = _lang(given)
    i18n.install(asked)
    if asked is not None:
        os.environ["LORA_TUI_LANG"] = asked  # a run that is detached speaks it too
    try:
        code = _dispatch(given)
        sys.stdout.flush()
        return code
    except LoraTuiError as error:
        from tui.headless import show_error

        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): not an error. What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _lang(given: Sequence[str]) -> str | None:
    for index, word in enumerate(given):
        if word == "--lang" and index + 1 < len(given):
            return given[index + 1]
        if word.startswith("--lang="):
            return word.removeprefix("--lang=")
    return None


def _dispatch(given: list[str]) -> int:
    if given and given[0] == "check":
        return _check(given[1:])
    if given and given[0] == "data":
        return _data(given[1:])
    if given and given[0] == "export":
        return _export(given[1:])
    if given and given[0] == "chat":
        return _chat(given[1:])
    if given and given[0] == "eject":
        return _eject(given[1:])
    if given and given[0] == "watch":
        return _watch(given[1:])
    if given and given[0] == "runs":
        return _runs(given[1:])
    if given == ["carry-out"]:
        from tui.headless import run_handed_over

        return run_handed_over()
    return _run(given)


def command_parsers() -> dict[str, _Parser]:
    """The parser of each command beside the run itself."""
    return {
        "check": _check_parser(),
        "data": _data_parser(),
        "export": _export_parser(),
        "chat": _chat_parser(),
        "eject": _eject_parser(),
        "watch": _watch_parser(),
        "runs": _runs_parser(),
    }


def _check_parser() -> _Parser:
    parser = _Parser(prog="lora-tui check", description=_("What is in an output folder, and what would be continued."))
    parser.add_argument("out", metavar="OUT", help=_("a run's folder, or any folder with checkpoint-* in it"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _check(given: list[str]) -> int:
    options = _check_parser().parse_args(given)
    from tui.check import run_check

    return run_check(options.out, options.json)


def _watch_parser() -> _Parser:
    parser = _Parser(
        prog="lora-tui watch",
        description=_(
            "Look at a run, at work or ended, from anywhere its folder can be read; without a terminal, as lines."
        ),
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", type=Path, help=_("a run's folder (default: the last run under ./out)")
    )
    parser.add_argument("--read-only", action="store_true", help=_("look only: the run cannot be stopped from here"))
    parser.add_argument("--json", action="store_true", help=_("its events as JSON lines on stdout"))
    return parser


def _watch(given: list[str]) -> int:
    options = _watch_parser().parse_args(given)
    from tui.watch import run_watch

    return run_watch(options.out, read_only=options.read_only, as_json=options.json)


def _runs_parser() -> _Parser:
    parser = _Parser(prog="lora-tui runs", description=_("What runs and what ended under a folder, and how."))
    parser.add_argument(
        "root", metavar="ROOT", nargs="?", type=Path, default=OUT_ROOT, help=_("where runs lie (default: out)")
    )
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _runs(given: list[str]) -> int:
    options = _runs_parser().parse_args(given)
    from tui.runs import run_runs

    return run_runs(options.root, options.json)


OF_DATA = ("format", "columns", "encoding", "skip_rows", "train_on", "max_length")
"""Settings of a run that say how its dataset is read and turned into tokens."""


def _data_parser() -> _Parser:
    parser = _Parser(prog="lora-tui data", description=_("What a dataset is, its problems, and what will be trained on."))
    parser.add_argument("path", metavar="PATH", help=_("file, save_to_disk folder or hub id"))
    parser.add_argument("--model", metavar="M", help=_("model whose template and tokenizer are to be used"))
    for name in OF_DATA:
        metavar = str(field_meta(name)["metavar"]) or "|".join(choices(name))
        parser.add_argument(flag(name), metavar=metavar, default=argparse.SUPPRESS, help=_help(name))
    parser.add_argument("--measure", action="store_true", help=_("time an epoch by a few real steps of the model"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _data(given: list[str]) -> int:
    parser = _data_parser()
    options = parser.parse_args(given)
    asked = Source("flag", "", {name: value for name, value in vars(options).items() if name in OF_DATA})
    config = resolve([asked]).config.model_copy(update={"dataset": options.path, "model": options.model})
    if options.measure and options.model is None:
        parser.error(_("--measure needs a model: --model M"))
    from tui.data import run_data

    return run_data(config, options.json, options.measure)


def _export_parser() -> _Parser:
    from engine.export.llama_cpp import QUANTIZATIONS

    parser = _Parser(prog="lora-tui export", description=_("The result of a run, for other programs."))
    parser.add_argument("out", metavar="OUT", help=_("a run's folder"))
    parser.add_argument(
        "--to", required=True, choices=("adapter", "merged", "gguf", "ollama"),
        help=_("a PEFT folder · base and adapter in one · that as a file for llama.cpp · that in a running Ollama"),
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", metavar="NAME", help=_("final or checkpoint-<number> (default: final, else the furthest)")
    )
    parser.add_argument("--into", metavar="DIR", help=_("where to write (default: OUT/export)"))
    parser.add_argument("--model", metavar="M", help=_("the base model, where it has moved"))
    parser.add_argument(
        "--quantize", metavar="KIND", type=str.lower, choices=QUANTIZATIONS,
        help=_("number format of a GGUF file: {kinds} (default: as the base is stored)").format(kinds=", ".join(QUANTIZATIONS)),
    )  # fmt: skip
    parser.add_argument(
        "--llama-cpp", metavar="DIR", type=Path,
        help=_("a folder of llama.cpp (default: its converters are fetched once, 77 MB)"),
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help=_("the model's name in Ollama (default: the run's folder)"))
    parser.add_argument("--replace", action="store_true", help=_("take the place of a model of that name in Ollama"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _export(given: list[str]) -> int:
    options = _export_parser().parse_args(given)
    from engine.export.place import EXPORTS
    from tui.export import Wanted, run_export

    into = Path(options.into) if options.into is not None else Path(options.out) / EXPORTS
    wanted = Wanted(options.to, into, options.quantize, options.llama_cpp, options.name, options.replace)
    return run_export(options.out, options.checkpoint, options.model, wanted, options.json)


def _eject_parser() -> _Parser:
    parser = _Parser(prog="lora-tui eject", description=_("The run without lora-tui, on stdout: OUT > train.py"))
    parser.add_argument("out", metavar="OUT", help=_("a run's folder"))
    parser.add_argument(
        "--to", choices=("script", "axolotl", "llamafactory"), default="script",
        help=_("a script on TRL and PEFT alone, or another trainer's YAML (default: script)"),
    )  # fmt: skip
    return parser


def _eject(given: list[str]) -> int:
    options = _eject_parser().parse_args(given)
    from engine.eject import eject

    sys.stdout.write(eject(Path(options.out), options.to))
    return 0


def _chat_parser() -> _Parser:
    parser = _Parser(prog="lora-tui chat", description=_("One prompt to the trained adapter and to the bare base."))
    parser.add_argument("out", metavar="OUT", help=_("a run's folder"))
    parser.add_argument("--prompt", metavar="TEXT", required=True, help=_("what to ask"))
    parser.add_argument(
        "--checkpoint", metavar="NAME", help=_("final or checkpoint-<number> (default: final, else the furthest)")
    )
    parser.add_argument("--model", metavar="M", help=_("the base model, where it has moved"))
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=256, help=_("longest answer, in tokens"))
    parser.add_argument("--temperature", metavar="T", type=float, default=0.0, help=_("0: always the likeliest token"))
    parser.add_argument("--top-p", metavar="P", type=float, default=1.0, help=_("share of probability to draw from"))
    parser.add_argument("--seed", metavar="N", type=int, default=42, help=_("the same for both sides"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _chat(given: list[str]) -> int:
    options = vars(_chat_parser().parse_args(given))
    options.pop("lang")
    from tui.chat import run_chat

    return run_chat(**options)


def _run(given: list[str]) -> int:
    parser = run_parser()
    options, rest = parser.parse_known_args(given)
    if rest:
        parser.error(_unknown(rest[0], parser))
    flags = {name: value for name, value in vars(options).items() if name in RunConfig.model_fields}
    if options.detach and not (options.yes or options.json):
        parser.error(_("--detach goes with --yes; in the wizard, the key d on the training screen does it"))
    if not options.yes and not options.dry_run and not options.json:
        return _wizard(parser, options, flags)
    from tui.headless import run_headless

    return run_headless(flags, options.config, demo=options.demo, as_json=options.json, dry_run=options.dry_run,
                        detach=options.detach)  # fmt: skip


def _wizard(parser: _Parser, options: argparse.Namespace, flags: dict[str, Any]) -> int:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        parser.error(_("the wizard needs a terminal; add --yes to run without questions"))
    sources = [
        Source("flag", "", flags),
        environment(),
        *([read_toml(options.config)] if options.config is not None else []),
    ]
    if any(source.values for source in sources):  # the first look at a value costs 40 ms, a tenth of the first frame
        resolve(sources)  # bad values are told before the first screen
    answers = {name: value for source in reversed(sources) for name, value in source.values.items()}
    if options.accessible or os.environ.get("TERM") == "dumb":
        from tui.prompts import run_prompts

        return run_prompts(answers, options.demo)
    import gc

    gc.disable()  # nothing that is imported now will ever be garbage; the app switches it on after the first frame
    from tui.app import run_wizard

    return run_wizard(answers, options.demo)


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    import difflib

    name = word.split("=")[0]
    known = [option for action in parser._actions for option in action.option_strings] + list(command_parsers())
    near = difflib.get_close_matches(name, known, 1)
    text = (_("unknown flag {word}") if word.startswith("-") else _("unknown command or argument {word}")).format(word=name)
    return text + (" · " + _("did you mean {near}?").format(near=near[0]) if near else "")


if __name__ == "__main__":
    sys.exit(main())
