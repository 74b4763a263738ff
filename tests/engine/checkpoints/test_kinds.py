"""Checkpoints of another kind: whole models, in shards, prompt tuning, several adapters, spread over processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.inspect import inspect_folder
from tests.engine.checkpoints.folders import (
    adapter_config,
    adapter_tensors,
    codes,
    write_json,
)

STATE, ADAPTER, CONFIG = "trainer_state.json", "adapter_model.safetensors", "adapter_config.json"


def test_prompt_tuning_is_named_and_not_continued(whole: Path) -> None:
    write_json(whole / CONFIG, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8})
    save_file({"prompt_embeddings": numpy.ones((8, 4), numpy.float32)}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"prompt_tuning"})


def test_a_whole_model_is_named_and_not_continued(whole: Path) -> None:
    for name in (ADAPTER, CONFIG):
        (whole / name).unlink()
    write_json(whole / "config.json", {"model_type": "llama"})
    save_file({"w": numpy.ones(3, numpy.float32)}, str(whole / "model.safetensors"))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"whole_model"})
    (whole / "model.safetensors").unlink()
    (whole / "pytorch_model.bin").write_bytes(b"")
    assert inspect_folder(whole).grade is Grade.BROKEN


def a_model_in_shards(folder: Path) -> None:
    for name in (ADAPTER, CONFIG):
        (folder / name).unlink()
    write_json(folder / "config.json", {})
    save_file({"w": numpy.ones(3, numpy.float32)}, str(folder / "one.safetensors"))
    save_file({"v": numpy.ones(3, numpy.float32)}, str(folder / "two.safetensors"))
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"w": "one.safetensors", "v": "two.safetensors"}})


def test_a_model_in_shards_is_sound_when_all_are_there(whole: Path) -> None:
    a_model_in_shards(whole)
    found = inspect_folder(whole)
    assert (found.grade, codes(found)) == (Grade.COMPLETE, {"whole_model"})


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        ("config.json", "model_config_missing"),
        ("one.safetensors", "weights_missing"),
        ("two.safetensors", "weights_missing"),
    ],
)
def test_a_model_that_lacks_a_file_is_broken(whole: Path, lost: str, code: str) -> None:
    a_model_in_shards(whole)
    (whole / lost).unlink()
    found = inspect_folder(whole)
    assert (found.grade, codes(found)) == (Grade.BROKEN, {"whole_model", code})


def test_a_shard_without_a_tensor_that_the_index_names_is_broken(whole: Path) -> None:
    a_model_in_shards(whole)
    shutil.copy(whole / "one.safetensors", whole / "two.safetensors")
    found = inspect_folder(whole)
    assert (found.grade, codes(found)) == (Grade.BROKEN, {"whole_model", "tensors_missing"})


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"w": 3}}, {"weight_map": {}}])
def test_an_index_that_names_no_file_is_broken(whole: Path, index: dict[str, Any]) -> None:
    a_model_in_shards(whole)
    write_json(whole / "model.safetensors.index.json", index)
    assert inspect_folder(whole).grade is Grade.BROKEN


@pytest.mark.parametrize("target", ["../../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "a\\b", ""])
def test_an_index_that_points_elsewhere_is_not_followed(whole: Path, target: str) -> None:
    for name in (ADAPTER, CONFIG):
        (whole / name).unlink()
    write_json(whole / "config.json", {})
    write_json(whole / "model.safetensors.index.json", {"weight_map": {"w": target}})
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and "index_escapes" in codes(found)


def test_a_deepspeed_checkpoint_is_named_and_not_continued(whole: Path) -> None:
    (whole / "optimizer.pt").unlink()
    (whole / "global_step327").mkdir()
    (whole / "global_step327" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    found = inspect_folder(whole)
    assert found.grade is Grade.WEIGHTS_ONLY and "sharded" in codes(found)


def test_several_adapters_are_named_and_not_continued(whole: Path) -> None:
    (whole / "second").mkdir()
    write_json(whole / "second" / CONFIG, adapter_config())
    save_file(adapter_tensors(), str(whole / "second" / ADAPTER))
    found = inspect_folder(whole)
    assert not found.continuable and "several_adapters" in codes(found)


def test_adapters_in_subfolders_alone_are_as_sound_as_each_of_them(whole: Path) -> None:
    for name in ("one", "two"):
        (whole / name).mkdir()
        write_json(whole / name / CONFIG, adapter_config())
        save_file(adapter_tensors(), str(whole / name / ADAPTER))
    (whole / ADAPTER).unlink()
    (whole / CONFIG).unlink()
    found = inspect_folder(whole)
    assert found.grade is Grade.COMPLETE and not found.continuable and codes(found) == {"several_adapters"}
    (whole / "two" / ADAPTER).write_bytes(b"")
    assert inspect_folder(whole).grade is Grade.BROKEN


@pytest.mark.parametrize("shard", [b"", None], ids=["empty", "none"])
def test_shards_that_are_empty_are_broken(whole: Path, shard: bytes | None) -> None:
    for name in (ADAPTER, CONFIG):
        (whole / name).unlink()
    (whole / "global_step327").mkdir()
    (whole / "global_step327" / "model_states.pt").write_bytes(b"x")
    assert inspect_folder(whole).grade is not Grade.BROKEN
    (whole / "global_step327" / "model_states.pt").unlink()
    if shard is not None:
        (whole / "global_step327" / "model_states.pt").write_bytes(shard)
    assert inspect_folder(whole).grade is Grade.BROKEN


@pytest.mark.parametrize("whole_save", [True, False])
def test_shards_of_fsdp_are_whole_only_with_their_index(whole: Path, whole_save: bool) -> None:
    for name in (ADAPTER, CONFIG):
        (whole / name).unlink()
    (whole / "pytorch_model_fsdp_0").mkdir()
    (whole / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"x")
    if whole_save:
        (whole / "pytorch_model_fsdp_0" / ".metadata").write_bytes(b"x")
    assert (inspect_folder(whole).grade is not Grade.BROKEN) == whole_save
