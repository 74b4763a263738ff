"""The commands beside the run itself: what each may be asked, and what does it. Loads no more than the command that is asked."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.config import choices, field_meta, flag
from engine.i18n import _
from engine.sources import Source, resolve
from tui.i18n import N_
from tui.parser import Parser, help_of


def _place(words: str) -> str:
    """A path as it was given. An empty one, of a variable that is not set perhaps, would be the folder one stands in."""
    if not words.strip():
        raise argparse.ArgumentTypeError(_("is empty; the folder you are in is ."))
    return words


def _path(words: str) -> Path:
    return Path(_place(words))


def _new_parser(name: str, usage: str | None = None) -> Parser:
    """The parser of the command `name`, without its arguments yet."""
    about = COMMANDS[name].about
    return Parser(prog=f"lora-tui {name}", usage=usage, description=_(about))


def _check_parser() -> Parser:
    parser = _new_parser("check")
    parser.add_argument("out", metavar="OUT", type=_place, help=_("a run's folder, or any folder with checkpoint-* in it"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    parser.add_argument(
        "--full", action="store_true", help=_("read every byte again, also of what was judged before and not touched since")
    )
    return parser


def _check(given: list[str]) -> int:
    options = _check_parser().parse_args(given)
    from tui.check import run_check

    return run_check(options.out, options.json, options.full)


def _watch_parser() -> Parser:
    parser = _new_parser("watch")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", type=_path, help=_("a run's folder (default: the last run under ./out)")
    )
    parser.add_argument("--read-only", action="store_true", help=_("look only: the run cannot be stopped from here"))
    parser.add_argument("--json", action="store_true", help=_("its events as JSON lines on stdout"))
    return parser


def _watch(given: list[str]) -> int:
    options = _watch_parser().parse_args(given)
    from tui.watch import run_watch

    return run_watch(options.out, read_only=options.read_only, as_json=options.json)


def _runs_parser() -> Parser:
    parser = _new_parser("runs")
    parser.add_argument("root", metavar="ROOT", nargs="?", type=_path, help=_("where runs lie (default: out)"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


def _runs(given: list[str]) -> int:
    options = _runs_parser().parse_args(given)
    from tui.runs import run_runs

    return run_runs(options.root, options.json)


OF_DATA = ("format", "columns", "encoding", "skip_rows", "chat_template", "train_on", "max_length")
"""Settings of a run that say how its dataset is read and turned into tokens."""


def _data_parser() -> Parser:
    parser = _new_parser("data")
    parser.add_argument("path", metavar="PATH", type=_place, help=_("file, save_to_disk folder or hub id"))
    parser.add_argument("--model", metavar="M", help=_("model whose template and tokenizer are to be used"))
    for name in OF_DATA:
        metavar = str(field_meta(name)["metavar"]) or "|".join(choices(name))
        parser.add_argument(flag(name), metavar=metavar, default=argparse.SUPPRESS, help=help_of(name))
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


def _export_parser() -> Parser:
    from engine.export.llama_cpp import QUANTIZATIONS

    parser = _new_parser("export")
    parser.add_argument("out", metavar="OUT", type=_place, help=_("a run's folder"))
    parser.add_argument(
        "--to", required=True, choices=("adapter", "merged", "gguf", "ollama", "hub"),
        help=_(
            "a PEFT folder · base and adapter in one · that as a file for llama.cpp · that in a running Ollama · the adapter "
            "on the Hugging Face hub"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", metavar="NAME", help=_("final or checkpoint-<number> (default: final, else the furthest)")
    )
    parser.add_argument("--into", metavar="DIR", type=_place, help=_("where to write (default: OUT/export)"))
    parser.add_argument("--model", metavar="M", help=_("the base model, where it has moved"))
    parser.add_argument(
        "--quantize", metavar="KIND", type=str.lower, choices=QUANTIZATIONS,
        help=_("number format of a GGUF file: {kinds} (default: as the base is stored)").format(kinds=", ".join(QUANTIZATIONS)),
    )  # fmt: skip
    parser.add_argument(
        "--llama-cpp", metavar="DIR", type=Path,
        help=_("a folder of llama.cpp (default: its converters are fetched once, 77 MB)"),
    )  # fmt: skip
    parser.add_argument(
        "--lora", action="store_true", help=_("gguf, ollama: base and adapter each in a file of its own, instead of merged")
    )
    parser.add_argument("--name", metavar="NAME", help=_("the model's name in Ollama (default: made from the run's folder)"))
    parser.add_argument(
        "--repo", metavar="NAME/MODEL", help=_("hub: the repository; made, and private, where it is not there")
    )
    parser.add_argument("--public", action="store_true", help=_("hub: everybody may see it"))
    parser.add_argument("--merged", action="store_true", help=_("hub: base and adapter in one instead of the adapter alone"))
    parser.add_argument("--yes", action="store_true", help=_("hub: upload without asking"))
    parser.add_argument("--replace", action="store_true", help=_("take the place of a model of that name in Ollama"))
    parser.add_argument("--json", action="store_true", help=_("as JSON on stdout"))
    return parser


_OF_TARGETS = {
    "--quantize": ("gguf", "ollama"), "--llama-cpp": ("gguf", "ollama"), "--lora": ("gguf", "ollama"), "--name": ("gguf", "ollama"),
    "--replace": ("ollama",), "--repo": ("hub",), "--public": ("hub",), "--merged": ("hub",),
}  # fmt: skip
"""Flag of an export -> the targets it says something to. Whoever gives it to another one expects what there will not be."""


def _export(given: list[str]) -> int:
    parser = _export_parser()
    options = parser.parse_args(given)
    for given_flag, targets in _OF_TARGETS.items():
        if options.to not in targets and getattr(options, given_flag.removeprefix("--").replace("-", "_")):
            parser.error(
                _("{flag} belongs to --to {targets}, and this is --to {target}").format(
                    flag=given_flag, targets=" | ".join(targets), target=options.to
                )
            )
    from engine.export.place import EXPORTS
    from tui.export import Wanted, confirm_upload, run_export

    into = Path(options.into) if options.into is not None else Path(options.out) / EXPORTS
    wanted = Wanted(
        options.to, into, options.quantize, options.llama_cpp, options.name, options.replace, options.lora, options.repo,
        options.public, options.merged,
    )  # fmt: skip
    if options.to == "hub":
        confirm_upload(wanted, options.yes)
    return run_export(options.out, options.checkpoint, options.model, wanted, options.json)


def _eject_parser() -> Parser:
    from engine.eject import TARGETS as EJECTED

    parser = _new_parser("eject")
    parser.add_argument("out", metavar="OUT", type=_place, help=_("a run's folder"))
    parser.add_argument(
        "--to", choices=EJECTED, default="script",
        help=_("a script on TRL and PEFT alone, or another trainer's YAML (default: script)"),
    )  # fmt: skip
    return parser


def _eject(given: list[str]) -> int:
    options = _eject_parser().parse_args(given)
    from engine.eject import eject

    text = eject(Path(options.out), options.to)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what Python and YAML take a file for, whatever this terminal shows
    sys.stdout.write(text)
    return 0


def _chat_parser() -> Parser:
    parser = _new_parser("chat")
    parser.add_argument("out", metavar="OUT", type=_place, help=_("a run's folder"))
    parser.add_argument("--prompt", metavar="TEXT", help=_("ask this once (default: a conversation)"))
    parser.add_argument(
        "--row", metavar="N", type=int, help=_("ask what row N of the dataset asks, and show its answer too")
    )
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help=_("the system turn before it; '' for none (default: the one that the dataset's rows share)"),
    )
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
    parser = _chat_parser()
    options = parser.parse_args(given)
    if options.prompt is not None and options.row is not None:
        parser.error(_("--prompt and --row exclude each other"))
    if options.system is not None and options.row is not None:
        parser.error(_("--system and --row exclude each other: a row has its own"))
    from engine.export.chat import Sampling
    from tui.chat import Asked, run_chat

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, options.seed)
    asked = Asked(options.prompt, options.row, options.system, sampling, options.json)
    return run_chat(options.out, options.checkpoint, options.model, asked)


def _submit_parser() -> Parser:
    parser = _new_parser("submit", usage="lora-tui submit --slurm|--to skypilot [OPTIONS] FLAGS OF THE RUN")
    parser.add_argument(
        "--slurm", action="store_const", const="slurm", dest="to", help=_("for Slurm; submitted where sbatch is")
    )
    parser.add_argument("--to", choices=("slurm", "skypilot"), help=_("for Slurm, or as a task for SkyPilot"))
    parser.add_argument(
        "--time", metavar="T", default="24:00:00", help=_("time limit of one job: [days-]hours:minutes:seconds")
    )
    parser.add_argument("--gpus", metavar="N", default="1", help=_("of each machine: a number, or kind:number; 0 for none"))
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help=_("machines for this one run"))
    parser.add_argument("--cpus", metavar="N", type=int, default=4, help=_("CPU cores"))
    parser.add_argument("--memory", metavar="M", help=_("main memory, such as 32G"))
    for name in ("partition", "account", "constraint"):
        parser.add_argument(f"--{name}", metavar="NAME", help=_("as sbatch takes it"))
    parser.add_argument("--setup", metavar="LINE", help=_("a shell line to run before, such as: module load cuda"))
    parser.add_argument(
        "--script", metavar="FILE", type=Path, help=_("where to write it (default: beside the run's folder)")
    )
    parser.add_argument("--dry-run", action="store_true", help=_("show the script, write and submit nothing"))
    return parser


def _submit(given: list[str]) -> int:
    parser = _submit_parser()
    options, left = parser.parse_known_args(given)
    if options.to is None:
        parser.error(_("say which: --slurm, or --to skypilot"))
    from engine.config import RunConfig
    from engine.submit import Job
    from tui.cli import run_parser
    from tui.submit import run_submit

    flags = vars(run_parser().parse_args(left))
    if flags["demo"] or flags["detach"]:
        parser.error(_("--demo and --detach do not go to a cluster"))
    if given_here := [name for name in ("nnodes", "node_rank", "rendezvous") if name in flags]:
        parser.error(_("{flag} is the cluster's to say; ask for machines with --nodes").format(flag=flag(given_here[0])))
    job = Job(options.time, options.gpus, options.cpus, options.memory, options.partition, options.account,
              options.constraint, options.setup, options.nodes)  # fmt: skip
    own = {name: value for name, value in flags.items() if name in RunConfig.model_fields}
    words = [word for word in left if word != "--yes"]
    return run_submit(options.to, job, options.script, options.dry_run, own, words, flags["config"])


@dataclass(frozen=True)
class Command:
    """One word after `lora-tui`."""

    about: str
    """What it is for, to be translated when it is shown."""
    parser: Callable[[], Parser]
    carry_out: Callable[[list[str]], int]
    """Of the words behind it; the exit code."""


COMMANDS = {
    "check": Command(N_("What is in an output folder, and what would be continued."), _check_parser, _check),
    "data": Command(N_("What a dataset is, its problems, and what will be trained on."), _data_parser, _data),
    "export": Command(N_("The result of a run, for other programs."), _export_parser, _export),
    "chat": Command(N_("Talk to the trained adapter and to the bare base, side by side."), _chat_parser, _chat),
    "eject": Command(N_("The run without lora-tui, on stdout: OUT > train.py"), _eject_parser, _eject),
    "submit": Command(
        N_("The run as a cluster's script, which sends itself again and goes on until the run is done."),
        _submit_parser,
        _submit,
    ),
    "watch": Command(
        N_("Look at a run, at work or ended, from anywhere its folder can be read; without a terminal, as lines."),
        _watch_parser,
        _watch,
    ),
    "runs": Command(N_("What runs and what ended under a folder, and how."), _runs_parser, _runs),
}
