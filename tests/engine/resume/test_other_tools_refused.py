"""Checkpoints of plain Trainer in which something is wrong that no file shows by itself: refused, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.resume.recommend import recommend
from tests.engine.resume.test_other_tools import go_on
from tests.engine.resume.test_receipt import change_json, change_tensors, forgotten
from tests.engine.runs import plan, receipt


def test_an_adapter_without_effect_is_refused_by_its_probe(run: Path, trainers: Path, taught_model: Path) -> None:

    for checkpoint in run.glob("checkpoint-*"):
        change_tensors(checkpoint, forgotten)
    with pytest.raises(CannotContinue, match="probe_loss"):
        go_on(run, trainers, taught_model)


def test_moments_of_another_optimizer_are_not_taken_for_adams(run: Path, trainers: Path, taught_model: Path) -> None:
    import torch

    for path in run.glob("checkpoint-*/optimizer.pt"):
        state = torch.load(path)
        state["state"] = {key: {"step": one["step"], "sum": one["exp_avg"]} for key, one in state["state"].items()}
        torch.save(state, path)
    assert {one.grade for one in scan(run).checkpoints} == {"weights-only"}
    with pytest.raises(CannotContinue, match="another optimizer than AdamW"):
        go_on(run, trainers, taught_model)


def test_moments_that_are_none_are_not_adams(run: Path) -> None:
    """As SGD without momentum leaves them."""
    import torch

    for path in run.glob("checkpoint-*/optimizer.pt"):
        torch.save({**torch.load(path), "state": {}}, path)
    assert {one.grade for one in scan(run).checkpoints} == {"weights-only"}


def groups_of_their_own(parameters: list[Any]) -> list[dict[str, Any]]:
    """As LoRA+ has them: lora_B learns faster."""
    return [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 1.0}, {"params": []}, {"params": []}]


def embeddings_apart(parameters: list[Any]) -> list[dict[str, Any]]:
    return [{"params": parameters[1:]}, {"params": parameters[:1], "lr": 1.0}]


@pytest.mark.parametrize("groups", [groups_of_their_own, embeddings_apart])
def test_groups_of_parameters_with_rates_of_their_own_are_told_before_a_run_is_asked_for(
    groups: Callable[[list[Any]], list[dict[str, Any]]], run: Path, trainers: Path, taught_model: Path
) -> None:
    import torch

    content = torch.load(run / "checkpoint-14" / "optimizer.pt")
    shared = {key: value for key, value in content["param_groups"][0].items() if key != "params"}
    content["param_groups"] = [{**shared, **one} for one in groups(content["param_groups"][0]["params"])]
    torch.save(content, run / "checkpoint-14" / "optimizer.pt")
    assert [one.code for one in scan(run).checkpoints[1].problems] == ["optimizer_groups"]
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-7"


def test_a_scheduler_that_no_schedule_here_goes_on_for_is_told_before_a_run_is_asked_for(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    import torch

    by = torch.optim.lr_scheduler
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    for one in (
        by.ReduceLROnPlateau(optimizer),
        by.SequentialLR(optimizer, [by.ConstantLR(optimizer), by.ConstantLR(optimizer)], [3]),
        by.OneCycleLR(optimizer, 5e-3, 21),
        by.CyclicLR(optimizer, 1e-3, 5e-3, cycle_momentum=False),
    ):
        torch.save(one.state_dict(), run / "checkpoint-14" / "scheduler.pt")
        (problem,) = scan(run).checkpoints[1].problems
        assert problem.code == "other_scheduler" and type(one).__name__ in problem.message
        decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
        assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-7"


def change_moments(run: Path, change: Callable[[dict[int, dict[str, Any]]], None]) -> None:
    """Change what optimizer.pt keeps of each parameter, in all checkpoints of `run`."""
    import torch

    for path in run.glob("checkpoint-*/optimizer.pt"):
        content = torch.load(path)
        change(content["state"])
        torch.save(content, path)


def lost(*parameters: int) -> Callable[[dict[int, dict[str, Any]]], None]:
    def change(state: dict[int, dict[str, Any]]) -> None:
        for number in parameters:
            del state[number]

    return change


def moments_of_the_next_parameter(state: dict[int, dict[str, Any]]) -> None:
    state[3]["exp_avg"], state[4]["exp_avg"] = state[4]["exp_avg"], state[3]["exp_avg"]


def one_number_for_all(state: dict[int, dict[str, Any]]) -> None:
    state[3]["exp_avg"] = state[3]["exp_avg"].flatten()[:1].clone().as_strided(state[3]["exp_avg"].shape, (0, 0))


def negative_moments(state: dict[int, dict[str, Any]]) -> None:
    state[3]["exp_avg_sq"].neg_()


def half_of_the_moments(state: dict[int, dict[str, Any]]) -> None:
    del state[3]["exp_avg"]


def no_step(state: dict[int, dict[str, Any]]) -> None:
    del state[3]["step"]


def a_list_as_step(state: dict[int, dict[str, Any]]) -> None:
    state[3]["step"] = [1]


def a_step_beyond_counting(state: dict[int, dict[str, Any]]) -> None:
    state[0]["step"] = 10**400


@pytest.mark.parametrize(
    "change",
    [
        moments_of_the_next_parameter,
        one_number_for_all,
        negative_moments,
        half_of_the_moments,
        no_step,
        a_list_as_step,
    ],
    ids=lambda one: one.__name__,
)
def test_moments_that_no_step_can_be_computed_from_are_refused_whatever_is_accepted(
    run: Path, trainers: Path, taught_model: Path, change: Callable[[dict[int, dict[str, Any]]], None]
) -> None:
    """Adam's kernel reads beyond a smaller tensor (the process dies), and takes the root of a negative one."""
    change_moments(run, change)
    with pytest.raises(CannotContinue) as refused:
        go_on(run, trainers, taught_model, accept=("optimizer",))
    assert "optimizer: " in refused.value.detail and ".layers.0.self_attn.v_proj.lora_B.weight" in refused.value.detail
    assert "--accept" not in refused.value.fix


def test_a_step_that_the_library_cannot_hold_is_the_checkpoint_s_fault(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    change_moments(run, a_step_beyond_counting)
    with pytest.raises(CannotContinue) as refused:
        go_on(run, trainers, taught_model)
    assert "optimizer: " in refused.value.detail


@pytest.mark.parametrize("name", ["last_epoch", "_step_count"])
def test_a_scheduler_that_stands_at_no_step_is_the_checkpoint_s_fault(
    name: str, run: Path, trainers: Path, taught_model: Path
) -> None:
    import torch

    for path in run.glob("checkpoint-*/scheduler.pt"):
        torch.save(torch.load(path) | {name: {}}, path)
    with pytest.raises(CannotContinue) as refused:
        go_on(run, trainers, taught_model)
    assert "scheduler: " in refused.value.detail


def test_nothing_of_a_scheduler_but_where_it_stands_is_taken_up(run: Path, trainers: Path, taught_model: Path) -> None:
    """torch puts whatever is in the file over the scheduler's own attributes, its methods too."""
    import torch

    for path in run.glob("checkpoint-*/scheduler.pt"):
        torch.save(torch.load(path) | {"step": 7, "optimizer": "x"}, path)
    assert receipt(go_on(run, trainers, taught_model))["scheduler"] == "ok"


def test_moments_that_are_a_number_are_the_checkpoint_s_fault(run: Path, trainers: Path, taught_model: Path) -> None:
    change_moments(run, lambda state: state.update({3: 1.5}))  # type: ignore[dict-item]
    with pytest.raises(CannotContinue, match=r"v_proj\.lora_B\.weight was trained and has no moments"):
        go_on(run, trainers, taught_model)


def test_moments_that_one_parameter_lacks_start_anew_where_that_is_accepted(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    change_moments(run, lost(3))
    with pytest.raises(CannotContinue, match=r"v_proj\.lora_B\.weight was trained and has no moments") as refused:
        go_on(run, trainers, taught_model)
    assert "--accept optimizer" in refused.value.fix
    events = go_on(run, trainers, taught_model, accept=("optimizer",))
    assert receipt(events)["optimizer"] == "changed"


@pytest.mark.parametrize("kept", [None, (1,)], ids=["none", "of another shape"])
def test_an_amsgrad_without_its_highest_is_refused_before_its_first_step(
    run: Path, trainers: Path, taught_model: Path, kept: tuple[int, ...] | None
) -> None:
    import torch

    for path in run.glob("checkpoint-*/optimizer.pt"):
        content = torch.load(path)
        for group in content["param_groups"]:
            group["amsgrad"] = True
        for one in content["state"].values() if kept else ():
            one["max_exp_avg_sq"] = torch.ones(kept)
        torch.save(content, path)
    with pytest.raises(CannotContinue) as refused:
        go_on(run, trainers, taught_model)
    assert "max_exp_avg_sq" in refused.value.detail and "--accept" not in refused.value.fix


def test_a_layer_that_was_never_trained_needs_no_moments(run: Path, trainers: Path, taught_model: Path) -> None:
    """Such as the adapters of a model's eyes, where all rows are text: their lora_B is still zero."""

    change_moments(run, lost(2, 3))
    for checkpoint in run.glob("checkpoint-*"):
        change_tensors(checkpoint, without_layer_0s_v_proj)
    assert receipt(go_on(run, trainers, taught_model))["optimizer"] == "ok"


def without_layer_0s_v_proj(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: one * ("layers.0.self_attn.v_proj.lora_B" not in name) for name, one in tensors.items()}


def test_an_adapter_that_is_zero_after_its_steps_is_refused_although_its_file_is_sound(
    run: Path, trainers: Path, taught_model: Path
) -> None:

    for checkpoint in run.glob("checkpoint-*"):
        change_tensors(checkpoint, forgotten)
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        rows = [{key: value for key, value in row.items() if key != "loss"} for row in state["log_history"]]
        (checkpoint / "trainer_state.json").write_text(json.dumps({**state, "log_history": rows}))
    with pytest.raises(CannotContinue) as refused:
        go_on(run, trainers, taught_model)
    assert "adapter_values: " in refused.value.detail and "The adapter is not there" in refused.value.detail
    assert "--accept" not in refused.value.fix


def test_a_number_that_no_run_can_have_is_the_checkpoint_s_fault(run: Path, trainers: Path, taught_model: Path) -> None:
    """Taken up as a setting it was a wrong flag that nobody had given."""
    for checkpoint in run.glob("checkpoint-*"):
        change_json(checkpoint / "adapter_config.json", lora_dropout=1.5)
    asked = {"dataset": trainers / "data.jsonl", "model": taught_model}
    for named in ({"output": run}, {"resume": run / "checkpoint-14"}, {"init_from": run / "checkpoint-14"}):
        with pytest.raises(CannotContinue) as refused:
            plan(**asked, **named)
        assert "lora_dropout is 1.5" in refused.value.detail and "mend" not in refused.value.fix


def test_of_whole_models_the_way_on_is_to_take_one_as_the_base(run: Path, trainers: Path, taught_model: Path) -> None:
    """No mended file would make an adapter of them."""
    for checkpoint in run.glob("checkpoint-*"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (checkpoint / name).unlink()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(taught_model / name, checkpoint)
    way = f"--model {run}/checkpoint-14"
    with pytest.raises(CannotContinue) as refused:
        plan(dataset=trainers / "data.jsonl", model=taught_model, output=run)
    assert way in refused.value.fix and "mend" not in refused.value.fix
    assert way in recommend(scan(run)).reason
