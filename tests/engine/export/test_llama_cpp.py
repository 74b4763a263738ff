"""What llama.cpp computes with exported files, held against the trained model: `make test-llama-cpp`. Skipped without the extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from engine.errors import ModelError
from engine.export import gguf as writing
from engine.export.gguf import export_gguf
from engine.export.llama_cpp import FTYPES, LlamaCpp
from engine.export.source import find_source
from engine.export.vocabulary import NAME, NORMAL
from tests.engine.export.families import FAMILIES, adapter_on, build
from tests.engine.export.test_gguf import llama_cpp, trained

__all__ = ["llama_cpp", "trained"]


# transformers makes any tokenizer of a Qwen2 byte-level, and converters know those by hashes of the real ones only.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen2"])
def test_every_family_gives_the_trained_models_logits(family: str, tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    base = build(tmp_path / "base", family, sentencepiece=True)
    made = export_gguf(find_source(adapter_on(base, tmp_path / "out"), model=str(base)), tmp_path / "to", None, llama_cpp)
    assert made.proof is not None and made.proof.proven


@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_every_kind_of_lora(lora: dict[str, Any], tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    base = build(tmp_path / "base", "llama", sentencepiece=True, tie_word_embeddings=False)
    source = find_source(adapter_on(base, tmp_path / "out", **lora), model=str(base))
    made = export_gguf(source, tmp_path / "to", None, llama_cpp)
    assert made.proof is not None and made.proof.proven


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen2"])
def test_an_adapter_in_a_file_of_its_own_gives_the_trained_models_logits(
    family: str, tmp_path: Path, llama_cpp: LlamaCpp
) -> None:
    base = build(tmp_path / "base", family, sentencepiece=True)
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    made = export_gguf(source, tmp_path / "to", None, llama_cpp, lora=True)
    assert made.adapter is not None and made.proof is not None and made.proof.proven


@pytest.mark.parametrize(
    "scaled",
    [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}, {"rank_pattern": {"layers.1.mlp.up_proj": 2}},
     {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 5}}],
    ids=str,
)  # fmt: skip
def test_every_scale_is_folded_into_the_one_that_llama_cpp_knows(
    scaled: dict[str, Any], tmp_path: Path, llama_cpp: LlamaCpp
) -> None:
    base = build(tmp_path / "base", "llama", sentencepiece=True)
    source = find_source(adapter_on(base, tmp_path / "out", **scaled), model=str(base))
    made = export_gguf(source, tmp_path / "to", None, llama_cpp, lora=True)
    assert made.proof is not None and made.proof.proven


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_the_number_formats_stay_within_their_bands(kind: str, trained: Path, llama_cpp: LlamaCpp) -> None:
    made = export_gguf(find_source(trained), trained / "export", kind, llama_cpp)
    assert made.proof is not None and made.proof.proven


def test_the_quantiser_of_the_library_makes_small_files(tmp_path: Path, llama_cpp: LlamaCpp) -> None:
    base = build(tmp_path / "base", "llama", sentencepiece=True, hidden_size=256, intermediate_size=256, head_dim=64)
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    sizes = {kind: export_gguf(source, tmp_path / kind, kind, llama_cpp).bytes for kind in ("f16", *FTYPES)}
    assert sizes["q4_k_m"] < sizes["q6_k"] < sizes["f16"]


def test_weights_that_are_not_the_trained_ones_keep_nothing(
    trained: Path, llama_cpp: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_plain = writing._make_plain

    def spoiled(folder: Path, base: Path, bos: bool) -> None:
        from safetensors.torch import load_file, save_file

        made_plain(folder, base, bos)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"] *= 1.05
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(writing, "_make_plain", spoiled)
    with pytest.raises(ModelError, match="does not behave as the trained one"):
        export_gguf(find_source(trained), trained / "export", None, llama_cpp)
    assert not (trained / "export" / "gguf").exists()


def test_other_tokens_for_the_same_text_keep_nothing(
    trained: Path, llama_cpp: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_plain = writing._make_plain

    def letters_only(folder: Path, base: Path, bos: bool) -> None:
        from sentencepiece import sentencepiece_model_pb2

        made_plain(folder, base, bos)
        proto = sentencepiece_model_pb2.ModelProto.FromString((folder / NAME).read_bytes())
        for number, piece in enumerate(proto.pieces):
            piece.piece = f"unused{number}" if piece.type == NORMAL and len(piece.piece) > 1 else piece.piece
        (folder / NAME).write_bytes(proto.SerializeToString())

    monkeypatch.setattr(writing, "_make_plain", letters_only)
    with pytest.raises(ModelError, match="other tokens"):
        export_gguf(find_source(trained), trained / "export", None, llama_cpp)
