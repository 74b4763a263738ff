"""Grades: each way a folder can be wrong has its grade and its code, and nothing of it is executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save_file

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.choose import weights_fallback
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.lora_fields import MOST_ALPHA, MOST_RANK, out_of_range
from engine.config import RunConfig
from tests.engine.checkpoints.folders import (
    adapter_config,
    adapter_tensors,
    codes,
    history,
    write_json,
    write_state,
)

STATE, ADAPTER, CONFIG = "trainer_state.json", "adapter_model.safetensors", "adapter_config.json"


def test_a_checkpoint_of_the_real_trainer_is_complete_and_can_be_continued(stock_run: Path) -> None:
    found = inspect_folder(stock_run / "checkpoint-6")
    assert (found.grade, found.continuable, found.problems) == (Grade.COMPLETE, True, ())
    assert (found.step, found.epoch, found.max_steps, found.total_epochs) == (6, 2.0, 6, 2.0)
    assert found.adapter is not None and (found.adapter.r, found.adapter.lora_alpha) == (4, 8.0)
    assert found.made_by == "Trainer" and found.loss is not None and len(found.history) == 6


@pytest.mark.parametrize(
    ("name", "code"),
    [(STATE, "state_missing"), ("optimizer.pt", "optimizer_missing"), ("scheduler.pt", "scheduler_missing"),
     ("rng_state.pth", "rng_missing")],
)  # fmt: skip
def test_a_missing_part_of_the_training_state_leaves_only_the_weights(whole: Path, name: str, code: str) -> None:
    (whole / name).unlink()
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.WEIGHTS_ONLY, False, {code})


@pytest.mark.parametrize("name", [ADAPTER, CONFIG])
def test_a_missing_part_of_the_adapter_breaks_it(whole: Path, name: str) -> None:
    (whole / name).unlink()
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and [problem.message for problem in found.problems] == [f"{name} is missing."]


def test_random_states_of_several_processes_serve_when_none_is_missing(whole: Path) -> None:
    (whole / "rng_state.pth").rename(whole / "rng_state_0.pth")
    shutil.copy(whole / "rng_state_0.pth", whole / "rng_state_1.pth")
    assert inspect_folder(whole).continuable
    (whole / "rng_state_0.pth").unlink()
    assert codes(inspect_folder(whole)) == {"rng_missing"}


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", STATE, ADAPTER, CONFIG])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 500, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"],
    ids=["empty", "zeros", "pointer"],
)
def test_a_file_that_is_empty_zeros_or_a_pointer_is_never_continued(whole: Path, name: str, content: bytes) -> None:
    (whole / name).write_bytes(content)
    found = inspect_folder(whole)
    assert not found.continuable and len(found.problems) == 1
    assert found.grade is (Grade.BROKEN if name in (ADAPTER, CONFIG) else Grade.WEIGHTS_ONLY)
    assert ("lfs_pointer" in codes(found)) == content.startswith(b"version")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["optimizer.pt", "scheduler.pt", "rng_state.pth", STATE, ADAPTER, CONFIG]), share=st.floats(0, 1)
)
def test_a_file_cut_anywhere_is_never_continued_and_never_crashes(
    _whole: Path, tmp_path: Path, name: str, share: float
) -> None:
    folder = tmp_path / "checkpoint-327"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_whole, folder)
    data = (folder / name).read_bytes()
    cut = int(share * (len(data) - 1))
    (folder / name).write_bytes(data[:cut])
    assert not inspect_folder(folder).continuable


@pytest.mark.parametrize("dtype", [numpy.float16, numpy.float32, numpy.float64])
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_a_weight_that_is_no_number_breaks_it(whole: Path, dtype: type, value: float) -> None:
    tensors: dict[str, Any] = {name: tensor.astype(dtype) for name, tensor in adapter_tensors().items()}
    next(iter(tensors.values()))[1, 1] = value
    save_file(tensors, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"non_finite"}


@pytest.mark.parametrize("bad", [True, False])
def test_a_bfloat16_adapter_is_judged_by_its_bits(whole: Path, bad: bool) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {name: torch.from_numpy(tensor).to(torch.bfloat16) for name, tensor in adapter_tensors().items()}
    if bad:
        next(iter(tensors.values()))[0, 0] = float("nan")
    save_torch(tensors, str(whole / ADAPTER))
    assert inspect_folder(whole).grade is (Grade.BROKEN if bad else Grade.COMPLETE)


def test_infinite_moments_of_the_optimizer_leave_only_the_weights(whole: Path) -> None:
    import torch

    torch.save({"state": {0: {"exp_avg": torch.tensor([1.0, float("inf")])}}, "param_groups": []}, whole / "optimizer.pt")
    found = inspect_folder(whole)
    assert found.grade is Grade.WEIGHTS_ONLY and codes(found) == {"non_finite"}


@pytest.mark.parametrize(
    ("kin", "shows"),
    [
        ({"name": "NAdam"}, "mu_product"),
        ({"name": "RAdam"}, "no amsgrad"),
        ({"name": "Adam", "weight_decay": 0.1}, "goes into the gradient"),
        ({"name": "Adam"}, None),
        ({"name": "AdamW", "amsgrad": True, "maximize": True}, None),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else "",
)
def test_another_optimizer_that_keeps_the_moments_of_adamw_is_not_taken_for_it(
    whole: Path, kin: dict[str, Any], shows: str | None
) -> None:
    import torch

    weight = torch.nn.Parameter(torch.ones(4, 8))
    options = {key: value for key, value in kin.items() if key != "name"}
    optimizer = getattr(torch.optim, kin["name"])([weight], **options)
    weight.grad = torch.ones(4, 8)
    optimizer.step()
    torch.save(optimizer.state_dict(), whole / "optimizer.pt")
    found = inspect_folder(whole)
    assert found.grade is (Grade.WEIGHTS_ONLY if shows else Grade.COMPLETE)
    assert [shows in one.message for one in found.problems if shows] == ([True] if shows else [])


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_moments_that_fit_no_tensor_of_the_adapter_leave_only_the_weights(whole: Path, moment: str) -> None:
    import torch

    state = torch.load(whole / "optimizer.pt")
    state["state"][0][moment] = state["state"][0][moment][:, :1].clone()
    torch.save(state, whole / "optimizer.pt")
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.WEIGHTS_ONLY, False, {"optimizer_mismatch"})


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_an_adapter_with_weights_of_the_base_is_sound_and_said_not_to_be_continuable(whole: Path, name: str) -> None:
    """PEFT saves embeddings with it that grew, or have an adapter. A run would refuse them at its receipt, a new one from its weights
    as well."""
    save_file({**adapter_tensors(), f"base_model.model.{name}": numpy.ones((9, 5), numpy.float32)}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"adapter_not_carried_on"})
    assert weights_fallback([found]) is None and name in found.problems[0].message
    write_json(whole / CONFIG, adapter_config(modules_to_save=["lm_head", "embed_tokens"]))
    assert inspect_folder(whole).continuable, "trained whole"


def test_the_bias_of_a_lora_half_needs_no_partner(whole: Path) -> None:
    biases = {
        name.replace(".weight", ".bias"): numpy.ones(8, numpy.float32) for name in adapter_tensors() if "lora_B" in name
    }
    save_file({**adapter_tensors(), **biases}, str(whole / ADAPTER))
    write_json(whole / CONFIG, adapter_config(lora_bias=True))
    found = inspect_folder(whole)
    assert found.grade is Grade.COMPLETE and "it sets lora_bias" in found.problems[0].message


def test_an_adapter_of_another_rank_than_its_configuration_is_broken(whole: Path) -> None:
    save_file(adapter_tensors(rank=8), str(whole / ADAPTER))
    assert codes(inspect_folder(whole)) == {"rank_mismatch"}


def test_a_layer_of_another_rank_that_the_configuration_names_is_sound(whole: Path) -> None:
    tensors = {name: tensor for name, tensor in adapter_tensors().items() if ".0." in name}
    tensors |= {name: tensor for name, tensor in adapter_tensors(rank=8).items() if ".1." in name}
    save_file(tensors, str(whole / ADAPTER))
    write_json(whole / CONFIG, adapter_config(rank_pattern={"layers.1.q_proj": 8}))
    assert inspect_folder(whole).grade is not Grade.BROKEN
    halves = {name: tensors[name.replace(".1.", ".0.") if "lora_B" in name else name] for name in tensors}
    save_file(halves, str(whole / ADAPTER))
    assert codes(inspect_folder(whole)) == {"rank_mismatch"}, "A of one rank, B of another"


@pytest.mark.parametrize("names", [[], ["base_model.model.lm_head.weight"]])
def test_an_adapter_without_a_lora_tensor_is_broken(whole: Path, names: list[str]) -> None:
    save_file({name: numpy.ones((9, 5), numpy.float32) for name in names}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"adapter_empty"}


def test_an_adapter_with_biases_is_whole_and_only_not_carried_on(whole: Path) -> None:
    """Of a pair PEFT gives lora_B alone a bias (lora_bias); nothing was lost."""
    write_json(whole / CONFIG, adapter_config(lora_bias=True))
    halves = [name for name in adapter_tensors() if "lora_B" in name]
    biases = {name.replace(".weight", ".bias"): numpy.zeros(8, numpy.float32) for name in halves}
    save_file({**adapter_tensors(), **biases}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"adapter_not_carried_on"})


@pytest.mark.parametrize("side", ["A", "B"])
def test_either_half_of_a_pair_that_is_lost_breaks_it(whole: Path, side: str) -> None:
    tensors = adapter_tensors()
    del tensors[f"base_model.model.layers.1.q_proj.lora_{side}.weight"]
    save_file(tensors, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"tensors_missing"}


@pytest.mark.parametrize(
    "broken", [{"r": "4"}, {"r": True}, {"r": 0}, {"lora_alpha": None}, {"peft_type": 3}, {"target_modules": 7}]
)
def test_an_adapter_configuration_of_the_wrong_types_is_broken(whole: Path, broken: dict[str, object]) -> None:
    write_json(whole / CONFIG, adapter_config(**broken))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"adapter_config_invalid"}


def test_an_adapter_configuration_that_names_code_is_not_continued(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(auto_mapping={"base_model_class": "X", "parent_library": "evil.module"}))
    found = inspect_folder(whole)
    assert not found.continuable and codes(found) == {"adapter_config_imports"}


def test_an_adapter_for_megatron_names_a_package_and_is_not_continued(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(megatron_config={"x": 1}, megatron_core="evil"))
    found = inspect_folder(whole)
    assert not found.continuable and "adapter_config_imports" in codes(found)


@pytest.mark.parametrize("parent", ["transformers.models.llama.modeling_llama", None])
def test_a_class_of_a_known_package_is_no_code_to_import(whole: Path, parent: str | None) -> None:
    write_json(whole / CONFIG, adapter_config(auto_mapping={"base_model_class": "X", "parent_library": parent}))
    found = inspect_folder(whole)
    assert found.continuable and not found.problems


def test_a_pickle_beside_the_adapter_is_told_and_not_opened(whole: Path) -> None:
    (whole / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    found = inspect_folder(whole)
    assert found.continuable and codes(found) == {"unused_pickle"}


@pytest.mark.parametrize("name", ["", STATE])
def test_what_every_user_may_change_is_told(whole: Path, name: str) -> None:
    (whole / name).chmod(0o757 if name == "" else 0o646)
    found = inspect_folder(whole)
    assert found.continuable and codes(found) == {"world_writable"}


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


def test_random_states_of_a_process_in_the_middle_may_not_be_missing(whole: Path) -> None:
    for rank in (0, 2):
        shutil.copy(whole / "rng_state.pth", whole / f"rng_state_{rank}.pth")
    assert codes(inspect_folder(whole)) == {"rng_missing"}


def test_a_broken_loss_scale_leaves_only_the_weights(whole: Path) -> None:
    (whole / "scaler.pt").write_bytes(b"\0" * 9)
    assert inspect_folder(whole).grade is Grade.WEIGHTS_ONLY


def test_an_old_pickled_adapter_is_listed_not_loaded(whole: Path) -> None:
    import torch

    (whole / ADAPTER).unlink()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in adapter_tensors().items()}, whole / "adapter_model.bin")
    found = inspect_folder(whole)
    assert found.grade is Grade.COMPLETE and not found.problems


def test_a_base_model_that_is_no_name_is_unknown(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(base_model_name_or_path=["a"]))
    found = inspect_folder(whole).adapter
    assert found is not None and found.base_model is None


def test_training_args_are_never_opened(whole: Path) -> None:
    os.mkfifo(whole / "unrelated")  # opening this one would hang
    (whole / "training_args.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    found = inspect_folder(whole)
    assert found.continuable and codes(found) == {"not_a_file"}


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", STATE, ADAPTER, CONFIG])
def test_a_pipe_or_a_link_in_the_place_of_a_file_is_not_opened(whole: Path, name: str) -> None:
    (whole / name).rename(whole.parent / "elsewhere")
    os.mkfifo(whole / name)
    assert not inspect_folder(whole).continuable
    (whole / name).unlink()
    (whole / name).symlink_to(whole.parent / "elsewhere")
    found = inspect_folder(whole)
    assert not found.continuable and codes(found) == {"link"}


def test_the_number_in_the_name_does_not_count(whole: Path) -> None:
    renamed = whole.rename(whole.with_name("checkpoint-9999"))
    found = inspect_folder(renamed)
    assert (found.step, found.continuable, codes(found)) == (327, True, {"step_mismatch"})


@pytest.mark.parametrize(
    ("text", "name"),
    [("tags:\n- trl\n- unsloth", "Unsloth"), ("tags:\n- llama-factory", "LLaMA-Factory"), ("axolotl version: `0.9`", "Axolotl"),
     ("tags:\n- trl\n- sft", "TRL"), ("controls", "Trainer")],
)  # fmt: skip
def test_the_model_card_tells_who_made_it(whole: Path, text: str, name: str) -> None:
    (whole / "README.md").write_text(text)
    assert inspect_folder(whole).made_by == name


def test_the_losses_are_the_last_ones_logged_at_or_before_the_step(whole: Path) -> None:
    rows = history([0.9, 0.8, 0.7])
    rows[2]["step"] = 400
    rows.insert(2, {"step": 2, "epoch": 0.02, "eval_loss": 1.5})
    rows.append({"step": 400, "epoch": 3.0, "train_loss": 9.0, "train_runtime": 1.0})
    write_state(whole, 327, 2.9, rows)
    found = inspect_folder(whole)
    assert (found.loss, found.eval_loss) == (0.8, 1.5)


def test_numbers_that_are_none_in_the_log_are_unknown_not_fatal(whole: Path) -> None:
    text = json.dumps({"global_step": 327, "epoch": 2.9, "max_steps": 339, "num_train_epochs": 3, "log_history": [
        {"step": 1, "loss": 1.0, "grad_norm": float("nan"), "learning_rate": float("inf"), "epoch": "?"},
        {"step": 2, "eval_loss": float("nan")}, {"step": 3, "loss": float("nan")}, {"no": "step"}, 7]})  # fmt: skip
    (whole / STATE).write_text(text)
    found = inspect_folder(whole)
    assert found.continuable and found.loss == 1.0 and found.eval_loss is None


def test_a_torn_save_of_a_real_repository_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1400"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "t5"})
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert inspect_folder(folder).grade is Grade.BROKEN


def test_what_is_no_folder_is_broken_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-2").symlink_to(tmp_path)
    for name in ("checkpoint-1", "checkpoint-2", "checkpoint-3"):
        assert inspect_folder(tmp_path / name).grade is Grade.BROKEN


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"target_modules": ".*q_proj"}, "not a list of layer names"),
        ({"target_modules": ["q_proj", "lm_head"]}, "the output layer"),
        ({"bias": "all"}, "it sets bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "it sets init_lora_weights"),
        ({"task_type": "SEQ_CLS"}, "it sets task_type"),
        ({"trainable_token_indices": [1]}, "it sets trainable_token_indices"),
        ({"of_a_newer_peft": True}, "it sets of_a_newer_peft"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e+300"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5"),
        ({"lora_dropout": "much"}, "lora_dropout is 'much'"),
    ],
)
def test_an_adapter_that_a_run_would_refuse_is_said_not_to_be_continuable(
    whole: Path, changed: dict[str, Any], told: str
) -> None:
    write_json(whole / "adapter_config.json", {**adapter_config(), **changed})
    found = inspect_folder(whole)
    assert not found.continuable and found.grade is Grade.COMPLETE
    assert any(problem.code == "adapter_not_carried_on" and told in problem.message for problem in found.problems)
    assert weights_fallback([found]) is None, "a new run from its weights would be refused as well"


@pytest.mark.parametrize("kind", ["int32", "int8", "bool"])
def test_an_adapter_of_whole_numbers_is_broken(whole: Path, kind: str) -> None:
    """Converted to them, all that is near zero is zero."""
    save_file({name: tensor.astype(kind) for name, tensor in adapter_tensors().items()}, whole / ADAPTER)
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and "not_fractions" in codes(found)


def test_so_is_an_older_pickle_of_whole_numbers(whole: Path) -> None:
    import torch

    (whole / ADAPTER).unlink()
    torch.save({name: torch.from_numpy(one).int() for name, one in adapter_tensors().items()}, whole / "adapter_model.bin")
    assert "not_fractions" in codes(inspect_folder(whole))


@pytest.mark.parametrize(("epoch", "code"), [(None, "epoch_unknown"), (1e308, "epoch_impossible")])
def test_an_epoch_that_cannot_be_leaves_only_the_weights(whole: Path, epoch: float | None, code: str) -> None:
    """It would be ranked first, or be refused once it was chosen."""
    write_state(whole, 327, epoch)
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, found.epoch) == (Grade.WEIGHTS_ONLY, False, None) and code in codes(found)


@pytest.mark.parametrize("numbers", [{"lora_r": MOST_RANK, "lora_alpha": MOST_ALPHA}, {"lora_dropout": 0.99}])
def test_what_a_checkpoint_may_be_of_is_what_a_run_may_ask_for(numbers: dict[str, Any]) -> None:
    assert RunConfig(**numbers)
    raw = adapter_config(**{name.replace("lora_r", "r"): value for name, value in numbers.items()})
    assert out_of_range(raw) is None
    beyond = {name: value + 1 for name, value in numbers.items()}
    for name, value in beyond.items():
        assert out_of_range({**raw, name.replace("lora_r", "r"): value}) is not None
        with pytest.raises(ValidationError):
            RunConfig(**{name: value})
