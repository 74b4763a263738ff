"""GGUF for llama.cpp and Ollama: one merged file, or base and adapter each in its own; converted by llama.cpp's own tools, and held
against the trained model.

What is handed to the converter is written here, and holds no code: no Python files, and no `auto_map` that would name some.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.verified import private_copy
from engine.durable import STAGING_PREFIX
from engine.errors import ModelError
from engine.export.card import model_card
from engine.export.chat import Chat, Sampling, question
from engine.export.llama_cpp import FTYPES, HF, LORA, OUTTYPES, LlamaCpp, has_library
from engine.export.loading import load_adapted, tokenizer_of
from engine.export.lora_gguf import fold, plain_base, refuse_inseparable
from engine.export.merged import Checks, merged_bytes, need_memory, stored_dtype, write_merged
from engine.export.modelfile import Serving, serving
from engine.export.place import staged
from engine.export.proof import Expected, Proof, expect, prove
from engine.export.samples import Samples, take_samples
from engine.export.source import ExportSource
from engine.export.vocabulary import provide_sentencepiece, tokens_lost
from engine.hardware import Hardware
from engine.i18n import _
from engine.models.report import model_report
from engine.models.templates import TEMPLATE_FILE
from engine.paths import with_its_name

PLAIN = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""The kind that loses nothing of what a base is stored in."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Gguf:
    """What was written, and what its checks found."""

    path: Path
    """The new folder."""
    file: Path
    """The model in it, merged or the base; a Modelfile and a model card lie beside it."""
    adapter: Path | None
    """The adapter's own file, where it was kept apart."""
    kind: str
    bytes: int
    tensors: int
    """As the file's header counts them."""
    merge: Checks | None
    """None: nothing was merged."""
    samples: Samples
    serving: Serving
    proof: Proof | None
    """None: llama-cpp-python is not installed, so its structure was read and no more."""
    asked: str
    """A question of the samples."""
    answer: str | None
    """The trained model's own, with the likeliest tokens; None: it was not asked."""


def export_gguf(
    source: ExportSource,
    into: Path,
    kind: str | None,
    llama_cpp: LlamaCpp,
    tell: Tell = lambda text: None,
    answer_tokens: int = 0,
    lora: bool = False,
) -> Gguf:
    """Write the result of `source` as GGUF under `into`: merged, or with `lora` base and adapter in files of their own.

    `kind`: one of QUANTIZATIONS; None: as the base is stored. `answer_tokens`: so many tokens the trained model answers one question
    with, to be held against another program's answer.

    Raises OutputError, ModelError (a converter's refusal, a file that does not behave as the trained model), CannotContinue,
    ConfigError (`lora`, and the adapter is no sum of low-rank pairs).
    """
    if lora:
        refuse_inseparable(source)
    name = "-".join(["gguf", *(["lora"] if lora else []), *([kind] if kind else [])])
    with (
        staged(into, name, 3 * merged_bytes(source) + 2 * source.adapter.bytes) as (staging, target),
        private_copy(source.adapter, into) as copy,
        tempfile.TemporaryDirectory(dir=into, prefix=f"{STAGING_PREFIX}merged-") as temporary,
    ):
        seen: list[_Trained] = []

        def look(model: Any, tokenizer: Any) -> None:
            seen.append(_as_trained(source, model, tokenizer, answer_tokens))

        model_files = Path(temporary) / "model"
        model_files.mkdir()
        if lora:
            need_memory(source, stored_dtype(source.base))
            look(load_adapted(source, copy, Hardware("cpu", "", "float32", "")), tokenizer_of(source, copy))
            plain_base(source, model_files)
            checks, stored = None, stored_dtype(source.base)
        else:
            tell(_("merging"))
            checks = write_merged(source, copy, model_files, look)
            stored = checks.dtype
        (trained,) = seen
        kind = kind or PLAIN[stored]
        bos = _begins_with_bos(trained.samples, trained.tokenizer)
        _make_plain(model_files, source.base, bos)
        tell(_("converting to {kind}").format(kind=kind))
        file = staging / f"{_name(source)}-{'base-' if lora else ''}{kind}.gguf"
        _convert(llama_cpp, model_files, file, kind, PLAIN[stored])
        adapter = _convert_adapter(llama_cpp, copy, model_files, staging / f"{_name(source)}-lora.gguf") if lora else None
        header = _header_put_right(file, model_files, trained.tokenizer, bos)
        served = serving(source, trained.tokenizer, trained.samples, model_report(str(model_files)), header.adds_bos)
        proof = None
        if has_library():
            tell(_("holding it against the trained model, in llama.cpp"))
            proof = prove(file, trained.expected, kind, adapter)
            if not proof.proven:
                raise _differs(proof, kind)
        text = served.modelfile(file.name, adapter.name if adapter else None)
        (staging / "Modelfile").write_text(text, encoding="utf-8")
        (staging / "README.md").write_text(model_card(source, merged=not lora), encoding="utf-8")
        size = file.stat().st_size
    return Gguf(
        target, target / file.name, target / adapter.name if adapter else None, kind, size, header.tensors, checks,
        trained.samples, served, proof, _question(trained.samples), trained.answer,
    )  # fmt: skip


@dataclass(frozen=True)
class _Trained:
    """What is known of the trained model while it is loaded, to hold the file against."""

    tokenizer: Any
    samples: Samples
    expected: list[Expected]
    answer: str | None


def _as_trained(source: ExportSource, model: Any, tokenizer: Any, answer_tokens: int) -> _Trained:
    samples = take_samples(source, tokenizer)
    said = question(_question(samples), samples.manner.system)
    greedy = Sampling(max_new_tokens=max(1, answer_tokens))
    chat = Chat(model, tokenizer, samples.manner.plain, samples.manner.thinks)  # asked as the Modelfile has it asked
    answer = chat.answer(said, "adapter", greedy) if answer_tokens else None
    return _Trained(tokenizer, samples, expect(model, samples.rows), answer)


def _header_put_right(file: Path, model_files: Path, tokenizer: Any, bos: bool) -> Header:
    """What the converted file says of itself, with the marks put right. Raises ModelError where the converter has lost something."""
    reader = opened(file)  # it holds the file open, which some systems let nobody rename then: not longer than here
    _add_no_mark(reader, bos)
    header = header_of(reader)
    if lost := tokens_lost(reader, tokenizer):
        raise _other_vocabulary(lost)
    if not _same_rope(header, json.loads((model_files / "config.json").read_text(encoding="utf-8"))):
        raise _other_rope(header)
    return header


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    architecture: str
    tensors: int
    vocabulary: int
    adds_bos: bool
    rope_base: float
    """As llama.cpp reads it: 10000 where the file names none."""


def opened(file: Path) -> Any:
    """A GGUF file as gguf's reader, whose fields may be written in place. Raises ModelError where it is none."""
    from gguf import GGUFReader

    try:
        return GGUFReader(file, "r+")
    except (ValueError, KeyError, IndexError) as error:
        raise _unreadable(file, str(error)) from error


def header_of(reader: Any) -> Header:
    """What the file behind `reader` (see `opened`) says of itself. Raises ModelError where it names no architecture or no tokens."""
    architecture, tokens, vocabulary, bos = (
        reader.get_field(name)
        for name in ("general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.model", "tokenizer.ggml.add_bos_token")
    )
    if architecture is None or tokens is None or vocabulary is None:
        raise _unreadable(Path(reader.data.filename), _("it names no architecture or no tokens"))
    family = str(architecture.contents())
    rope = reader.get_field(f"{family}.rope.freq_base")
    # llama.cpp's own default: sentencepiece vocabularies get BOS where nothing is said.
    adds = bool(bos.contents()) if bos is not None else vocabulary.contents() == "llama"
    return Header(
        family, len(reader.tensors), len(tokens.data), adds, float(rope.contents()) if rope is not None else 10000.0
    )


def _unreadable(file: Path, why: str) -> ModelError:
    return ModelError(
        _("{path}: the converter wrote a file that cannot be read").format(path=file), why,
        _("Please report this with the model's config.json."),
    )  # fmt: skip


def _add_no_mark(reader: Any, bos: bool) -> None:
    """Have runtimes put no BOS (unless `bos`) and no end mark around a text by themselves. Where tokenizer.json says that its
    tokenizer does, converters go by that and not by what they are told (_make_plain), though rows in a chat template were trained
    without."""
    for name, wanted in (("bos", bos), ("eos", False)):
        field = reader.get_field(f"tokenizer.ggml.add_{name}_token")
        if field is not None and not wanted:
            field.parts[field.data[0]][0] = False


def _same_rope(header: Header, config: dict[str, Any]) -> bool:
    """Whether the file has the base of the rotary positions that the model was trained with: not all converters write it."""
    config = {**config, **(config.get("text_config") or {})}
    rope = config.get("rope_parameters") or {}
    base = rope.get("full_attention", rope).get("rope_theta", config.get("rope_theta", config.get("rotary_emb_base")))
    return base is None or math.isclose(header.rope_base, base, rel_tol=1e-6)


def _other_rope(header: Header) -> ModelError:
    return ModelError(
        _("llama.cpp's converter loses how this model counts positions"),
        _(
            "The file's base of rotary positions is {base:g}, which is not the model's (rope_theta). Nothing was kept."
        ).format(base=header.rope_base),
        _("Use --to merged, or a newer llama.cpp with --llama-cpp DIR."),
    )


def _convert(llama_cpp: LlamaCpp, merged: Path, file: Path, kind: str, plain: str) -> None:
    if kind in OUTTYPES:
        llama_cpp.convert(HF, [merged, "--outfile", file, "--outtype", kind])
        return
    assert kind in FTYPES
    between = merged / f"{plain}.gguf"
    llama_cpp.convert(HF, [merged, "--outfile", between, "--outtype", plain])
    llama_cpp.quantize(between, file, kind)


def _convert_adapter(llama_cpp: LlamaCpp, copy: Path, base: Path, file: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        fold(copy, Path(folder))
        llama_cpp.convert(LORA, [folder, "--base", base, "--outfile", file, "--outtype", "f32"])
    return file


def _begins_with_bos(samples: Samples, tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and all(row.input_ids[0] == tokenizer.bos_token_id for row in samples.rows)


def _make_plain(folder: Path, base: Path, bos: bool) -> None:
    """What converter and runtime read, and nothing that names code. `bos`: whether rows were trained with BOS in front; runtimes put
    it there by themselves, or not, by what the file says. An end mark behind a question they must never add."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("auto_map", None)
            if name == "config.json":
                _name_as_converters_do(content)
            for named in content["chat_template"] if isinstance(content.get("chat_template"), list) else ():
                named["template"] = _unmarked(named["template"])
            if name == "tokenizer_config.json":
                content["add_bos_token"], content["add_eos_token"] = bos, False
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    template = folder / TEMPLATE_FILE
    if template.is_file():
        template.write_text(_unmarked(template.read_text(encoding="utf-8")), encoding="utf-8")
    if not provide_sentencepiece(folder, base):
        _name_byte_level(folder)


def _name_as_converters_do(config: dict[str, Any]) -> None:
    """Say in `config` what newer transformers leaves out or writes otherwise, by the names that the converters ask for."""
    match config.get("model_type"):
        case "gpt2" if "n_positions" in config:
            config.setdefault("n_ctx", config["n_positions"])
        case "gpt_neox":
            if "partial_rotary_factor" in (config.get("rope_parameters") or {}):
                config.setdefault("rotary_pct", config["rope_parameters"]["partial_rotary_factor"])
            # A name that transformers does not know: by its own it would take rotary_pct away from the converter again.
            config["model_type"] = "gptneox"
        case "falcon" if config.get("multi_query") and not config.get("new_decoder_architecture"):
            config["num_kv_heads"] = 1  # whatever stands there: transformers looks at multi_query alone


def _name_byte_level(folder: Path) -> None:
    """Call the tokenizer what the converter of Phi-3 looks for: by this name alone it tells Phi-4's byte-level one from a missing
    sentencepiece file, and newer transformers write another."""
    config, named = folder / "config.json", folder / "tokenizer_config.json"
    if named.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "phi3":
        content = json.loads(named.read_text(encoding="utf-8")) | {"tokenizer_class": "GPT2Tokenizer"}
        named.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _unmarked(template: str) -> str:
    """A chat template without `generation`, which marks what is trained on: transformers alone knows it, others stop at it."""
    text = re.sub(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})", r"\1if true\2", template)
    return re.sub(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})", r"\1endif\2", text)


def _question(samples: Samples) -> str:
    """What the first sample's user asks; what of it is given to be continued where it is not a chat."""
    first = samples.rows[0]
    asked = (message["content"] for message in first.messages or () if message["role"] == "user")
    return next(asked, first.asked)


def _name(source: ExportSource) -> str:
    """A file name that every system takes."""
    return re.sub(r"[^\w.-]+", "-", with_its_name(source.adapter.path.parent).name).strip("-.") or "model"


def _other_vocabulary(lost: list[str]) -> ModelError:
    return ModelError(
        _("the exported model has lost tokens of its tokenizer"),
        _("{count} of them stand for something else in the file: {tokens}. Nothing was kept.").format(
            count=len(lost), tokens=", ".join(lost[:5])
        ),
        _("The converter does not know this tokenizer rightly; use --to merged, or a newer llama.cpp with --llama-cpp DIR."),
    )


def _differs(proof: Proof, kind: str) -> ModelError:
    if not proof.tokens_agree:
        return ModelError(
            _("llama.cpp splits the same text into other tokens than the model was trained on"),
            _("{same} of {rows} rows became the same tokens. Nothing was kept.").format(
                same=proof.rows_of_same_tokens, rows=proof.rows
            ),
            _(
                "The converter does not know this tokenizer rightly; use --to merged, or a newer llama.cpp with --llama-cpp DIR."
            ),
        )
    return ModelError(
        _("the exported model does not behave as the trained one"),
        _(
            "Loss {exported:.4f} instead of {trained:.4f}; logits differ by {difference:.3g} of their spread. Nothing was kept."
        ).format(exported=proof.loss_exported, trained=proof.loss_trained, difference=proof.logits_differ),
        _("Use a kind that loses less than {kind}, such as q8_0 or f16.").format(kind=kind),
    )
