"""The merged model is base and adapter in one: by its answers, by its tensors, and after it was read back from disk."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.files import Unsound
from engine.errors import CannotContinue, ConfigError, ModelError, OutputError
from engine.export import merged as merging
from engine.export.adapter import export_adapter
from engine.export.lora_gguf import fold
from engine.export.merged import export_merged
from engine.export.place import disk_error
from engine.export.source import find_source
from engine.folder import RUN_TOML
from engine.models.folder import load_tokenizer
from tests.engine.export.families import FAMILIES, adapter_on, build, logits
from tests.engine.runs import train


def difference(base: Path, out: Path, exported: Path) -> tuple[float, float]:
    """(largest difference of logits between PEFT's adapter on the base and the exported model, the adapter's own effect)"""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bare = AutoModelForCausalLM.from_pretrained(base)
    without = logits(bare)
    expected = logits(PeftModel.from_pretrained(bare, out / "final"))
    found = logits(AutoModelForCausalLM.from_pretrained(exported))
    return float((found - expected).abs().max()), float((expected - without).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_answers_as_base_and_adapter_do(family: str, tmp_path: Path) -> None:
    base = build(tmp_path / "base", family)
    out = adapter_on(base, tmp_path / "out")
    done = export_merged(find_source(out, model=str(base)), tmp_path / "to")
    differ, effect = difference(base, out, done.path)
    assert differ < 1e-5 and effect > 1e-2
    assert done.checks.tensors_checked == merging.SAMPLED


def test_the_merged_model_stops_where_its_template_ends_an_answer(tmp_path: Path) -> None:
    """Also where the base, which was trained on no conversations, names another token as its end."""
    base = build(tmp_path / "base", "llama")
    generation = base / "generation_config.json"
    generation.write_text(json.dumps({**json.loads(generation.read_text(encoding="utf-8")), "eos_token_id": 0}))
    out = adapter_on(base, tmp_path / "out")
    done = export_merged(find_source(out, model=str(base)), tmp_path / "to")
    tokenizer = load_tokenizer(base)
    told = json.loads((done.path / "generation_config.json").read_text(encoding="utf-8"))
    assert told["eos_token_id"] == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=lambda lora: "-".join(lora) + "-" + str(next(iter(lora.values())))[:24],
)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_kind_of_lora_merges_exactly(lora: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama", tie_word_embeddings=tied)
    out = adapter_on(base, tmp_path / "out", **lora)
    done = export_merged(find_source(out, model=str(base)), tmp_path / "to")
    differ, effect = difference(base, out, done.path)
    assert differ < 1e-5 and effect > 1e-2
    assert done.checks.untied == (tied and ("lm_head" in str(lora) or "embed_tokens" in str(lora)))


@pytest.mark.parametrize(
    "lora", [{"target_modules": ["word_embeddings"]}, {"modules_to_save": ["word_embeddings"]}], ids=str
)
def test_tied_embeddings_of_any_name_become_two_where_one_was_trained(lora: dict[str, Any], tmp_path: Path) -> None:
    base = build(tmp_path / "base", "bloom")
    out = adapter_on(base, tmp_path / "out", **lora)
    done = export_merged(find_source(out, model=str(base)), tmp_path / "to")
    differ, effect = difference(base, out, done.path)
    assert differ < 1e-5 and effect > 1e-2
    assert done.checks.untied


def test_a_base_that_has_moved_is_told_with_the_flag_that_names_it(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="no such model folder") as refused:
        find_source(out)
    assert "name it with --model" in refused.value.fix
    assert find_source(out, model=str(tmp_path / "moved")).base == tmp_path / "moved"


def test_a_tensor_that_is_written_wrong_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    right = merging.scaling
    monkeypatch.setattr(merging, "scaling", lambda config, module: 1.01 * right(config, module))
    with pytest.raises(ModelError, match="written wrong"):
        export_merged(find_source(out, model=str(base)), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_what_was_exported_before_is_not_written_over(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    first, second = export_adapter(source, tmp_path / "to"), export_adapter(source, tmp_path / "to")
    assert (first.name, second.name) == ("adapter", "adapter-2")
    weights = "adapter_model.safetensors"
    assert (second / weights).read_bytes() == (tmp_path / "out" / "final" / weights).read_bytes()


@pytest.mark.parametrize("below", ["checkpoint-7", "checkpoint-7/mine"])
def test_nothing_is_exported_into_a_checkpoint(tmp_path: Path, below: str) -> None:
    """It would no longer be what was saved, and its run could not go on from it."""
    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    checkpoint = Path(shutil.copytree(tmp_path / "out" / "final", tmp_path / "out" / "checkpoint-7"))
    before = set(checkpoint.rglob("*"))
    with pytest.raises(ConfigError, match=f"lies in a checkpoint, {checkpoint}"):
        export_adapter(source, tmp_path / "out" / below)
    assert set(checkpoint.rglob("*")) == before


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    monkeypatch.setattr("engine.export.place.free_bytes", lambda folder: 1000)
    with pytest.raises(OutputError, match=r"It takes [\d.]+ [kM]B; 1 kB are free"):
        export_merged(source, tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("writes", ["weights", "tokenizer"])
def test_a_disk_that_fills_while_it_is_written_is_told_as_that_and_leaves_nothing(
    writes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors and tokenizers write in Rust, and raise errors of their own."""
    import resource

    from engine.models import folder

    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out", r=1), model=str(base))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if writes == "tokenizer":
        save = folder.save_tokenizer

        def limited(*given: Any) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
            save(*given)

        monkeypatch.setattr(folder, "save_tokenizer", limited)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (source.adapter.bytes, unlimited[1]))
    try:
        with pytest.raises(OutputError, match="File too large") as refused:
            export_merged(source, tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert refused.value.fix.endswith("another --into.")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("given", "target"),
    [("--to merged --quantize q8_0", "gguf"), ("--to merged --name x", "ollama"), ("--to gguf --replace", "ollama"),
     ("--to adapter --lora", "gguf"), ("--to gguf --repo a/b", "hub"), ("--to merged --public", "hub"),
     ("--to merged --merged", "hub")],
)  # fmt: skip
def test_a_flag_of_another_target_is_refused_with_that_target_s_name(
    given: str, target: str, lora_tui: Any, tmp_path: Path
) -> None:
    code, _said, error = lora_tui("export", tmp_path, *given.split())
    assert code == 2 and f"{given.split()[2]} belongs to --to" in error and target in error


@pytest.mark.parametrize("said", ["x: No space left on device (os error 28)", "OSError: [Errno 28] No space left on device"])
def test_a_full_disk_is_known_by_what_other_writers_say_of_it(said: str) -> None:
    full = disk_error(said)
    assert full is not None and full.errno == errno.ENOSPC
    assert disk_error("No such file or directory (os error 2)") is None and disk_error("28") is None


def test_memory_too_small_is_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    monkeypatch.setattr("engine.hardware.free_memory", lambda device: (100_000, 10**9))
    with pytest.raises(ModelError, match="too large to be merged"):
        export_merged(source, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_who_names_a_checkpoint_or_a_folder_of_runs_is_told_what_to_name(tmp_path: Path) -> None:
    for run in ("one", "two"):
        (tmp_path / run / "final").mkdir(parents=True)
        (tmp_path / run / RUN_TOML).touch()
    with pytest.raises(CannotContinue, match=rf"{tmp_path}/one --checkpoint final"):
        find_source(tmp_path / "one" / "final")
    with pytest.raises(CannotContinue, match=rf"Name one of them: {tmp_path}/one, {tmp_path}/two$"):
        find_source(tmp_path)


def test_a_copy_that_cannot_be_read_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_words: Any) -> None:
        raise Unsound("unreadable", "adapter_config.json cannot be read: Read-only file system.")

    base = build(tmp_path / "base", "llama")
    source = find_source(adapter_on(base, tmp_path / "out"), model=str(base))
    monkeypatch.setattr("engine.export.adapter.copy_plain_files", unreadable)
    with pytest.raises(CannotContinue, match="Read-only file system"):
        export_adapter(source, tmp_path / "to")
    assert not [path for path in (tmp_path / "to").rglob("*") if path.name != ".lock"]


def test_an_older_adapter_that_was_saved_on_a_gpu_is_exported_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    weights = out / "final" / "adapter_model.safetensors"
    tensors = load_file(weights)
    with monkeypatch.context() as patched:  # the file that torch.save writes where the tensors lie on a GPU
        patched.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        torch.save(tensors, weights.with_name("adapter_model.bin"))
    weights.unlink()
    source = find_source(out, model=str(base))
    export_merged(source, tmp_path / "to")
    (tmp_path / "lora").mkdir()
    fold(out / "final", tmp_path / "lora")
    folded = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert all(torch.equal(folded[name], tensor) for name, tensor in tensors.items())


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    weights = out / "final" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CannotContinue):
        find_source(out, model=str(base))


def test_another_base_of_equal_shape_is_refused(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    train(dataset=chat_file, model=base, output=tmp_path / "out", max_steps=2)
    assert find_source(tmp_path / "out").base_proven
    build(tmp_path / "other", "llama")
    with pytest.raises(ModelError, match="not the base model"):
        find_source(tmp_path / "out", model=str(tmp_path / "other"))


def test_the_command_exports_a_run_that_was_trained(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "out"
    train(dataset=chat_file, model=tiny_model, output=out, max_steps=2)
    code, said, error = lora_tui("export", out, "--to", "merged", "--json")
    assert code == 0, error
    told = json.loads(said)
    assert told["base_proven"] and told["logits_differ"] < 1e-5 and Path(told["path"]) == out / "export" / "merged"
    assert lora_tui("export", out, "--to", "adapter", "--checkpoint", "checkpoint-2")[0] == 0
    assert {path.name for path in (out / "export" / "adapter").iterdir()} >= {"adapter_config.json", "README.md"}
    assert not list((out / "export" / "adapter").glob("*.pt"))
    for wrong, expected in ((("--checkpoint", "checkpoint-9"), 2), (("--model", tmp_path / "gone"), 4)):
        assert lora_tui("export", out, "--to", "merged", *wrong)[0] == expected
    (tmp_path / "empty").mkdir()
    assert lora_tui("export", tmp_path / "empty", "--to", "merged")[0] == 3
