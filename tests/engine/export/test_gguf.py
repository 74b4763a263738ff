"""GGUF files by llama.cpp's own converters, which are fetched for these tests once (77 MB). What llama.cpp computes with them:
test_llama_cpp.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.commit import leftovers
from engine.errors import ConfigError, ModelError, OutputError
from engine.export import gguf as writing
from engine.export.chat import Chat
from engine.export.gguf import export_gguf, header_of, opened
from engine.export.llama_cpp import LlamaCpp, find_llama_cpp, refuse_impossible
from engine.export.samples import Manner, Sample, Samples
from engine.export.source import find_source
from engine.export.vocabulary import NAME, provide_sentencepiece
from engine.models.folder import load_tokenizer, save_tokenizer
from tests.conftest import WORDS, write_jsonl
from tests.engine.export.families import adapter_on, build
from tests.engine.export.test_ollama import Speaking, ollama
from tests.engine.runs import train

__all__ = ["ollama"]


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> LlamaCpp:
    """The pinned converters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_TUI_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return find_llama_cpp(None)
        except OutputError as error:
            pytest.skip(f"llama.cpp's converters cannot be fetched here: {error.detail}")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's folder: a tiny Llama with a sentencepiece-style tokenizer, trained for two steps on chats with one system turn."""
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {number}"},
                      {"role": "assistant", "content": f"{WORDS[number % len(WORDS)]} 你好 {number}"}]}
        for number in range(12)
    ]  # fmt: skip
    base = build(tmp_path / "base", "llama", sentencepiece=True)
    train(dataset=write_jsonl(tmp_path / "rows.jsonl", rows), model=base, output=tmp_path / "my run", max_steps=2)
    return tmp_path / "my run"


def test_a_run_becomes_a_file_with_a_modelfile_beside_it(trained: Path, llama_cpp: LlamaCpp) -> None:
    made = export_gguf(find_source(trained), trained / "export", "q8_0", llama_cpp, answer_tokens=4)
    header = header_of(opened(made.file))
    assert (header.architecture, header.tensors, header.adds_bos) == ("llama", made.tensors, False)
    assert {path.name for path in made.path.iterdir()} == {"my-run-q8_0.gguf", "Modelfile", "README.md"}
    told = (made.path / "Modelfile").read_text(encoding="utf-8")
    assert told.startswith("FROM ./my-run-q8_0.gguf\n")
    assert 'SYSTEM """Be brief."""' in told and 'PARAMETER stop """<|im_end|>"""' in told
    assert made.serving.conversations == 4 and made.serving.template is not None
    assert made.asked.startswith("question ") and made.answer is not None
    assert {path.name for path in (trained / "export").iterdir()} <= {"gguf-q8_0", ".lock"}


@pytest.mark.slow
def test_an_adapter_can_have_a_file_of_its_own(trained: Path, llama_cpp: LlamaCpp) -> None:
    made = export_gguf(find_source(trained), trained / "export", None, llama_cpp, lora=True)
    assert made.adapter is not None and made.merge is None
    assert {path.name for path in made.path.iterdir()} == {
        "my-run-base-f32.gguf", "my-run-lora.gguf", "Modelfile", "README.md"
    }  # fmt: skip
    told = (made.path / "Modelfile").read_text(encoding="utf-8")
    assert told.startswith("FROM ./my-run-base-f32.gguf\nADAPTER ./my-run-lora.gguf\n")
    assert not [path for path in (trained / "export").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]}], ids=str
)
def test_what_is_no_low_rank_pair_is_refused_before_anything_is_loaded(
    lora: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build(tmp_path / "base", "llama", tie_word_embeddings=False)
    source = find_source(adapter_on(base, tmp_path / "out", **lora), model=str(base))
    monkeypatch.setattr(writing, "load_adapted", lambda *_words: pytest.fail("it was loaded"))
    with pytest.raises(ConfigError, match="cannot keep this adapter apart"):
        export_gguf(source, tmp_path / "to", None, LlamaCpp(tmp_path, False), lora=True)
    assert not (tmp_path / "to").exists()


def test_a_refusal_is_told_in_the_converters_words_and_leaves_nothing(
    trained: Path, llama_cpp: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(folder: Path, base: Path, bos: bool) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NobodyKnowsForCausalLM"]}))

    monkeypatch.setattr(writing, "_make_plain", unknown)
    with pytest.raises(ModelError, match="NobodyKnowsForCausalLM is not supported"):
        export_gguf(find_source(trained), trained / "export", None, llama_cpp)
    assert not list((trained / "export").glob("*gguf*")) and not list((trained / "export").glob(".staging*"))


def test_whatever_a_killed_export_leaves_the_next_one_sweeps_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    left: list[str] = []

    def killed(*_words: Any) -> None:
        entries = set((tmp_path / "to").iterdir()) - set(leftovers(tmp_path / "to"))
        left.extend(entry.name for entry in entries)
        raise SystemExit(137)

    monkeypatch.setattr(writing, "write_merged", killed)
    with pytest.raises(SystemExit):
        export_gguf(source, tmp_path / "to", None, LlamaCpp(tmp_path, False))
    assert set(left) <= {".lock", ".lock.holder"}


@pytest.mark.slow
def test_a_byte_level_tokenizer_that_nobody_knows_is_refused(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    base = build(tmp_path / "base", "qwen2")
    with pytest.raises(ModelError, match="pre-tokenizer was not recognized"):
        export_gguf(find_source(adapter_on(base, tmp_path / "out"), model=str(base)), tmp_path / "to", None, llama_cpp)


def test_no_name_of_code_and_no_mark_of_the_training_reaches_the_converter(tmp_path: Path) -> None:
    folder = build(tmp_path / "base", "llama", sentencepiece=True)
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    several = [{"name": "rag", "template": (folder / "chat_template.jinja").read_text()}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": several}))
    writing._make_plain(folder, tmp_path, bos=False)
    assert "auto_map" not in (folder / "config.json").read_text() + (folder / "tokenizer_config.json").read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is False
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert "generation %}" not in (folder / name).read_text()


def test_what_cannot_be_done_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="this is no folder"):
        refuse_impossible(None, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("engine.export.llama_cpp.has_library", lambda: False)
    with pytest.raises(ConfigError, match="q4_k_m needs"):
        refuse_impossible("q4_k_m", None)


def test_the_sentencepiece_file_splits_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    folder = build(tmp_path / "base", "llama", sentencepiece=True)
    assert provide_sentencepiece(folder, tmp_path)
    pieces, tokenizer = SentencePieceProcessor(model_file=str(folder / NAME)), AutoTokenizer.from_pretrained(folder)
    for text in (" ".join(WORDS), " two  spaces\n\n", "你好 🐈 ünknown", "question 12345"):
        assert pieces.encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pieces.is_control(tokenizer.eos_token_id)


def test_a_base_that_brings_its_own_keeps_it(tmp_path: Path) -> None:
    folder = build(tmp_path / "folder", "llama", sentencepiece=True)
    (tmp_path / NAME).write_bytes(b"the base's own")
    assert provide_sentencepiece(folder, tmp_path)
    assert (folder / NAME).read_bytes() == b"the base's own"


def test_a_byte_level_tokenizer_gets_none(tiny_model: Path, tmp_path: Path) -> None:
    assert not provide_sentencepiece(tiny_model, tmp_path)
    assert not (tiny_model / NAME).exists()


@pytest.mark.slow
def test_the_command_says_what_is_proven_and_what_is_not(lora_tui: Any, trained: Path, llama_cpp: LlamaCpp) -> None:
    code, said, error = lora_tui("export", trained, "--to", "gguf", "--llama-cpp", llama_cpp.folder)
    assert code == 0, error
    assert "not proven" in said or "proven in llama.cpp" in said
    assert f"ollama create my-run -f '{trained / 'export' / 'gguf' / 'Modelfile'}'" in said
    assert lora_tui("export", trained, "--to", "gguf", "--quantize", "q3")[0] == 2
    assert lora_tui("export", trained, "--to", "gguf", "--llama-cpp", trained)[0] == 2


def test_the_command_registers_with_a_server_and_refuses_a_name_that_is_taken(
    lora_tui: Any, trained: Path, llama_cpp: LlamaCpp, ollama: Speaking
) -> None:
    asked = ("export", trained, "--to", "ollama", "--llama-cpp", llama_cpp.folder, "--json")
    there = {"OLLAMA_HOST": f"127.0.0.1:{ollama.server_port}"}
    code, said, error = lora_tui(*asked, **there)
    assert code == 0, error
    told = json.loads(said)
    assert (told["name"], told["ollama"]) == ("my-run", "0.12.0") and told["answer"] == f"to {told['asked']}"
    made = ollama.models["my-run:latest"]
    assert made["template"] == told["template"] and made["system"] == "Be brief."
    assert lora_tui(*asked, **there)[0] == 2


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """A base that brings the sentencepiece file of its tokenizer, behind which a mark and a word were added."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = build(tmp_path / "base", "llama", sentencepiece=True)
    provide_sentencepiece(base, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|mark|>"]})
    tokenizer.add_tokens(["addedword"])
    tokenizer.save_pretrained(base)
    config = AutoConfig.from_pretrained(base)
    config.vocab_size = len(tokenizer)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    return base


def test_tokens_added_behind_the_sentencepiece_file_come_over(grown: Path, tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    from gguf import GGUFReader
    from gguf.constants import TokenType
    from transformers import AutoTokenizer

    made = export_gguf(find_source(adapter_on(grown, tmp_path / "out"), model=str(grown)), tmp_path / "to", None, llama_cpp)
    reader, tokenizer = GGUFReader(made.file), AutoTokenizer.from_pretrained(grown)
    tokens, types = (reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "token_type"))
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert types[-2:] == [TokenType.CONTROL, TokenType.USER_DEFINED]


def test_a_file_that_has_padding_for_a_token_is_refused_and_not_kept(
    grown: Path, tmp_path: Path, llama_cpp: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.export.vocabulary._name_added", lambda folder: None)
    source = find_source(adapter_on(grown, tmp_path / "out"), model=str(grown))
    with pytest.raises(ModelError, match="lost tokens") as refused:
        export_gguf(source, tmp_path / "to", None, llama_cpp)
    assert "2 of them" in refused.value.detail and "<|mark|>, addedword" in refused.value.detail
    assert not list((tmp_path / "to").glob("gguf*"))


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


def test_an_adapter_on_gpt2_is_turned_as_its_base_is(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    """Its base's weights lie the other way round (Conv1D), and the converter turns them."""
    import torch
    from gguf import GGUFReader
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = build(tmp_path / "base", "gpt2", **GPT2)
    out = adapter_on(base, tmp_path / "out", target_modules=["c_attn", "c_proj", "c_fc"])
    writing._make_plain(base, base, False)
    file = writing._convert_adapter(llama_cpp, out / "final", base, tmp_path / "lora.gguf")
    written = {one.name: torch.from_numpy(one.data.copy()) for one in GGUFReader(file).tensors}
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out / "final")
    layer = model.base_model.model.transformer.h[1]
    for name, module in {"attn_qkv": layer.attn.c_attn, "attn_output": layer.attn.c_proj, "ffn_up": layer.mlp.c_fc}.items():
        a, b = (written[f"blk.1.{name}.weight.lora_{one}"] for one in "ab")
        assert torch.allclose(2 * b @ a, module.get_delta_weight("default").T, atol=1e-6)  # alpha 8, rank 4
        assert a.shape[0] == 4


def test_what_the_gpt_neox_converter_asks_for_is_not_taken_away_again(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    """Converters read config.json by transformers, whose GPT-NeoX configuration keeps rotary_pct under another name alone."""
    base = build(tmp_path / "base", "gpt_neox", num_key_value_heads=4)
    writing._make_plain(base, base, False)
    asked = (
        "import pathlib, sys; from conversion.base import ModelBase\n"
        "print(ModelBase.load_hparams(pathlib.Path(sys.argv[1]), False)['rotary_pct'])"
    )
    there = os.environ | {"PYTHONPATH": str(llama_cpp.folder), "PYTHONSAFEPATH": ""}
    done = subprocess.run([sys.executable, "-c", asked, base], env=there, capture_output=True, text=True)
    assert done.stdout.strip() == "0.25", done.stderr


def test_the_phi_converter_takes_a_byte_level_tokenizer_as_one(tmp_path: Path) -> None:
    """As Phi-4's, saved by transformers under a name that the converter does not know."""
    folder = build(tmp_path / "base", "phi3")
    save_tokenizer(load_tokenizer(folder), folder)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] != "GPT2Tokenizer"
    writing._make_plain(folder, folder, False)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"


def test_no_begin_token_is_put_before_what_was_trained_without_one(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    """As TinyLlama's: its tokenizer puts one before a text, its chat template writes none."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    base = build(tmp_path / "base", "llama", sentencepiece=True)
    backend = Tokenizer.from_file(str(base / "tokenizer.json"))
    special = [("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=special)
    backend.save(str(base / "tokenizer.json"))
    made = export_gguf(find_source(adapter_on(base, tmp_path / "out"), model=str(base)), tmp_path / "to", None, llama_cpp)
    assert not made.samples.rows[0].text.startswith("<s>")
    assert not header_of(opened(made.file)).adds_bos


def test_a_file_without_the_base_of_the_models_positions_is_refused(
    trained: Path, llama_cpp: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the converter of GPT-NeoX, which writes none."""
    convert = writing._convert

    def other(llama_cpp: LlamaCpp, merged: Path, *told: Any) -> None:
        config = merged / "config.json"
        whole = config.read_text()
        content = json.loads(whole)
        content["rope_parameters"]["rope_theta"] = 500.0
        config.write_text(json.dumps(content))
        convert(llama_cpp, merged, *told)
        config.write_text(whole)

    monkeypatch.setattr(writing, "_convert", other)
    with pytest.raises(ModelError, match="loses how this model counts positions"):
        export_gguf(find_source(trained), trained / "export", None, llama_cpp)
    assert not list((trained / "export").glob("gguf*"))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "gpt2", "n_positions": 256}, {"n_ctx": 256}),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"partial_rotary_factor": 0.25}},
            {"rotary_pct": 0.25, "model_type": "gptneox"},
        ),
        ({"model_type": "falcon", "multi_query": True, "num_kv_heads": 4}, {"num_kv_heads": 1}),
        (
            {"model_type": "falcon", "multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 4},
            {"num_kv_heads": 4},
        ),
    ],
    ids=lambda given: given.get("model_type") or next(iter(given)),
)
def test_the_converter_finds_what_it_asks_for_by_its_names(
    config: dict[str, Any], named: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    writing._make_plain(tmp_path, tmp_path, False)
    assert json.loads((tmp_path / "config.json").read_text()) == config | named


def test_the_answer_to_compare_with_is_asked_as_the_modelfile_has_it_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the thought that rows had before their answers, else a served model that is the same says something else."""
    asked = Sample("why", False, [1], [1], [{"role": "user", "content": "why"}])
    monkeypatch.setattr(writing, "take_samples", lambda *_: Samples((asked,), True, Manner(thinks=True)))
    monkeypatch.setattr(writing, "expect", lambda *_: [])
    monkeypatch.setattr(Chat, "answer", lambda chat, *_: "thought" if chat.thinks else "nothing thought")
    source: Any = None
    assert writing._as_trained(source, None, None, 4).answer == "thought"
