"""`lora-tui export OUT --to WHAT`: the run's result for other programs. The engine writes; here it is told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, OutputError
from engine.export.source import ExportSource, find_source
from engine.i18n import _, sentences
from tui.plain import visible
from tui.signals import SIGNALS
from tui.streams import quiet_libraries

if TYPE_CHECKING:
    from engine.export.gguf import Gguf
    from engine.export.merged import Checks


Aside = Callable[[str], None]
"""Told what is being done; an empty text: nothing any more."""
Stopped = Callable[[], bool]
"""Whether somebody has it end, as far as it can be: while the converters are fetched."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    to: str
    into: Path
    quantize: str | None = None
    llama_cpp: Path | None = None
    name: str | None = None
    replace: bool = False
    lora: bool = False
    repo: str | None = None
    public: bool = False
    merged: bool = False


class NameTaken(ConfigError):
    """Ollama has a model of that name, and nobody said that its place is to be taken."""


@dataclass
class Told:
    """What is said of an export, as lines and as fields."""

    path: Path | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def run_export(out: str, checkpoint: str | None, model: str | None, wanted: Wanted, as_json: bool) -> int:
    """Export, and say where it lies and what was checked; the exit code. Raises the engine's errors."""
    from tui.headless import Leave, StopRequest

    aside = _Aside()
    StopRequest(aside).install()  # what is half made is tidied up, and pip ended, before a signal ends this process
    try:
        source, told = carry_out(Path(out), checkpoint, model, wanted, aside)
    except Leave as left:
        return SIGNALS[str(left)]
    finally:
        aside("")
    if as_json:
        document = {"schema": 1, "to": wanted.to, "from": str(source.adapter.path), "base": source.base_name,
                    "base_proven": source.base_proven, **told.fields, "path": str(told.path)}  # fmt: skip
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        return 0
    for line in told.lines:
        sys.stdout.write(visible(line) + "\n")
    return 0


def carry_out(
    out: Path, checkpoint: str | None, model: str | None, wanted: Wanted, aside: Aside, stopped: Stopped = lambda: False
) -> tuple[ExportSource, Told]:
    """Export what is wanted; `aside` is told how it goes. Raises the engine's errors."""
    if wanted.to in ("gguf", "ollama"):
        from engine.export.llama_cpp import refuse_impossible

        refuse_impossible(wanted.quantize, wanted.llama_cpp)
    source = find_source(out, checkpoint, model)
    if wanted.to != "adapter":
        from engine.hardware import prepare_process

        prepare_process()
        quiet_libraries()
    ways: dict[str, Callable[[ExportSource, Wanted, Aside], Told]] = {
        "adapter": _adapter,
        "merged": _merged,
        "gguf": partial(_gguf, stopped=stopped),
        "ollama": partial(_ollama, stopped=stopped),
        "hub": _hub,
    }
    told = ways[wanted.to](source, wanted, aside)
    told.lines.insert(0, _("exported {name} to {path}").format(name=source.adapter.path.name, path=told.path))
    if not source.base_proven:
        told.lines.append(_("no manifest says which base it was trained on; that this is the one was not checked"))
    return source, told


def _adapter(source: ExportSource, wanted: Wanted, aside: Aside) -> Told:
    from engine.export.adapter import export_adapter

    return Told(export_adapter(source, wanted.into))


def _merged(source: ExportSource, wanted: Wanted, aside: Aside) -> Told:
    from engine.export.merged import export_merged

    merged = export_merged(source, wanted.into)
    told = Told(merged.path)
    _tell_merge(told, merged.checks)
    return told


def _tell_merge(told: Told, checks: Checks) -> None:
    told.fields |= asdict(checks)
    told.lines.append(_("checked: logits differ by {difference:.1e} from base and adapter · {count} tensors read back").format(
        difference=checks.logits_differ, count=checks.tensors_checked))  # fmt: skip
    if checks.untied:
        told.lines.append(
            _("input and output embeddings were one tensor and are two now: the adapter changes only one of them")
        )


def _gguf(source: ExportSource, wanted: Wanted, aside: Aside, stopped: Stopped) -> Told:
    told, made = _write_gguf(source, wanted, 0, aside, stopped)
    told.fields["command"] = _command(source, made, wanted)
    told.lines.append(_("into Ollama: {command}").format(command=told.fields["command"]))
    return told


def _write_gguf(
    source: ExportSource, wanted: Wanted, answer_tokens: int, aside: Aside, stopped: Stopped
) -> tuple[Told, Gguf]:
    """Write it, and what is to be said of the file."""
    from engine.export.gguf import export_gguf
    from engine.export.llama_cpp import find_llama_cpp
    from engine.export.samples import MAX_TOKENS

    tools = find_llama_cpp(wanted.llama_cpp, aside, stopped)
    made = export_gguf(source, wanted.into, wanted.quantize, tools, aside, answer_tokens, wanted.lora)
    told = Told(made.path)
    if made.merge is not None:
        _tell_merge(told, made.merge)
    told.fields |= {"file": str(made.file), "adapter": str(made.adapter) if made.adapter else None,
                    "quantization": made.kind, "bytes": made.bytes, "tensors": made.tensors,
                    "template": made.serving.template, "stops": made.serving.stops, "system": made.serving.system,
                    "context": made.serving.context, "rows_of_dataset": made.samples.of_dataset,
                    "proof": asdict(made.proof) if made.proof else None}  # fmt: skip
    told.lines.append(_("{name}: {kind}, {megabytes:.1f} MB, {count} tensors").format(
        name=made.file.name, kind=made.kind, megabytes=made.bytes / 1e6, count=made.tensors))  # fmt: skip
    if made.adapter is not None:
        told.lines.append(_("{name}: the adapter, {megabytes:.1f} MB: llama-server -m {base} --lora {name}").format(
            name=made.adapter.name, megabytes=made.adapter.stat().st_size / 1e6, base=made.file.name))  # fmt: skip
    if made.proof is not None:
        proof = made.proof
        words = _("proven in llama.cpp: {rows} rows of the same tokens · loss {exported:.4f}, trained {trained:.4f} · logits within "
                  "{difference:.2g} of their spread")  # fmt: skip
        if not proof.judged:
            words = _(
                "in llama.cpp: {rows} rows of the same tokens · loss {exported:.4f}, trained {trained:.4f}: what {kind} costs"
            )
        told.lines.append(words.format(rows=proof.rows, exported=proof.loss_exported, trained=proof.loss_trained,
                                       difference=proof.logits_differ, kind=made.kind))  # fmt: skip
    else:
        told.lines.append(
            _(
                "its structure was read; that it behaves as the trained model is not proven: pip install 'lora-tui[llama-cpp]'"
            )
        )
    if made.samples.long:
        told.lines.append(
            _("no row looked at has something trained among its first {count} tokens: fixed questions stood in").format(
                count=MAX_TOKENS
            )
        )
    elif not made.samples.of_dataset:
        told.lines.append(_("the dataset is not there as it was: fixed questions stood in for its rows"))
    if made.serving.tools:
        told.lines.append(
            _("trained with tools: the Modelfile's template writes turns only; for tools use what reads the model's own chat "
              "template, such as llama-server --jinja")
        )  # fmt: skip
    if made.serving.plain:
        told.lines.append(
            _("trained on plain text: the Modelfile leaves the model's chat template out, and what is asked is continued")
        )
    if made.serving.template is None:
        told.lines.append(
            _("the chat template does more than Ollama's templates can say: the Modelfile has none, and Ollama guesses one")
        )
    return told, made


def _command(source: ExportSource, made: Gguf, wanted: Wanted) -> str:
    import shlex

    from engine.export.ollama import model_name

    name = model_name(source.adapter.path.parent, wanted.name)
    return f"ollama create {name} -f {shlex.quote(str((made.path / 'Modelfile').absolute()))}"


def _ollama(source: ExportSource, wanted: Wanted, aside: Aside, stopped: Stopped) -> Told:
    from engine.export.ollama import LONGEST_ANSWER, Server, model_name

    name = model_name(source.adapter.path.parent, wanted.name)
    with Server() as server:
        version = server.version()
        if version is not None and not wanted.replace and server.has(name):
            raise NameTaken(
                _("Ollama has a model {name} already").format(name=name),
                fix=_("Choose another name with --name, or take its place with --replace."),
            )
        told, made = _write_gguf(source, wanted, LONGEST_ANSWER if version is not None else 0, aside, stopped)
        command = _command(source, made, wanted)
        told.fields |= {"name": name, "ollama": version, "command": command}
        if version is None:
            told.lines.append(_("no Ollama answers at {host}; where one runs, type: {command}").format(
                host=server.host, command=command))  # fmt: skip
            return told
        try:
            server.register(made, name, lambda what, share: aside(f"{what} {share:.0%}"))
            answer = server.ask(name, made.asked)
        except OutputError as error:
            kept = _("The files are whole, in {path}. By hand: {command}").format(path=made.path, command=command)
            raise OutputError(error.title, error.detail, sentences(error.fix, kept)) from error
    told.fields |= {"asked": made.asked, "answer": answer, "answer_trained": made.answer}
    told.lines += [
        _("Ollama {version} has it as {name}: ollama run {name}").format(version=version, name=name),
        _("asked: {text}").format(text=made.asked),
        _("Ollama: {text}").format(text=answer.strip()),
    ]
    if made.answer is not None and made.answer.strip() != answer.strip():
        told.lines.append(_("trained model: {text}").format(text=made.answer.strip()))
    elif made.answer is not None:
        told.lines.append(_("the trained model gives the same answer"))
    return told


def confirm_upload(wanted: Wanted, yes: bool) -> None:
    """Ask a person to type the repository's name; without one to ask, --yes must say it. Raises ConfigError."""
    from engine.export.share import refuse_unshareable

    repo = refuse_unshareable(wanted.repo)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(_("missing: --yes"), fix=_("An upload is asked for twice: with --repo and with --yes."))
    what = _("base and adapter in one") if wanted.merged else _("the adapter")
    seen = _("everybody may see it") if wanted.public else _("private")
    sys.stderr.write(_("{what} goes to {repo} on the hub, {seen}. Type the repository's name to go on: ").format(
        what=what, repo=visible(repo), seen=seen))  # fmt: skip
    sys.stderr.flush()
    if sys.stdin.readline().strip() != repo:
        raise ConfigError(_("nothing was uploaded"), _("Another name was typed."))


def _hub(source: ExportSource, wanted: Wanted, aside: Aside) -> Told:
    from engine.export.share import share

    assert wanted.repo is not None
    shared = share(source, wanted.into, wanted.repo, wanted.merged, not wanted.public, aside)
    told = Told(shared.path)
    told.fields |= {"url": shared.url, "commit": shared.commit, "private": shared.private}
    seen = _("private") if shared.private else _("public")
    told.lines.append(_("on the hub, {seen}: {url}").format(seen=seen, url=shared.url))
    return told


class _Aside:
    """Progress, for a person who looks on: on a terminal each word in the place of the one before; elsewhere a line for each thing
    that is done, since what is fetched is to be told there too, without the figures that follow."""

    def __init__(self) -> None:
        self._done = ""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{visible(text)}")
        elif text and (done := re.sub(r"[\d.\s]+", "", text)) != self._done:
            self._done = done
            sys.stderr.write(visible(text) + "\n")
        sys.stderr.flush()
