"""Grades: each way a folder can be wrong has its grade and its code, and nothing of it is executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.lora_fields import MOST_ALPHA, MOST_RANK, out_of_range
from engine.config import RunConfig
from tests.engine.checkpoints.folders import (
    adapter_config,
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


def test_a_pickle_beside_the_adapter_is_told_and_not_opened(whole: Path) -> None:
    (whole / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    found = inspect_folder(whole)
    assert found.continuable and codes(found) == {"unused_pickle"}


@pytest.mark.parametrize("name", ["", STATE])
def test_what_every_user_may_change_is_told(whole: Path, name: str) -> None:
    (whole / name).chmod(0o757 if name == "" else 0o646)
    found = inspect_folder(whole)
    assert found.continuable and codes(found) == {"world_writable"}


def test_random_states_of_a_process_in_the_middle_may_not_be_missing(whole: Path) -> None:
    for rank in (0, 2):
        shutil.copy(whole / "rng_state.pth", whole / f"rng_state_{rank}.pth")
    assert codes(inspect_folder(whole)) == {"rng_missing"}


def test_a_broken_loss_scale_leaves_only_the_weights(whole: Path) -> None:
    (whole / "scaler.pt").write_bytes(b"\0" * 9)
    assert inspect_folder(whole).grade is Grade.WEIGHTS_ONLY


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
