"""Checkpoints that plain Trainer really wrote here, continued without a manifest: what is proven and what is assumed is told."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.events import LossJumped, Step, Warned
from tests.engine.resume.elsewhere import go_on, states_of
from tests.engine.runs import adapter_bytes, plan, receipt, train


def test_it_goes_on_where_it_stood_with_what_is_proven_and_what_is_assumed_told(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    (last,) = [one for one in scan(run).checkpoints if one.name == "checkpoint-14"]
    assert (last.made_by, last.grade, last.continuable) == ("Trainer", "complete", True)
    events = go_on(run, trainers, taught_model)
    verdicts = receipt(events)
    proven = {item for item, verdict in verdicts.items() if verdict == "ok"}
    assert {"adapter_keys", "adapter_values", "adapter_config", "optimizer", "scheduler"} <= proven
    assert {"dataset", "tokenizer", "rng"} <= {item for item, verdict in verdicts.items() if verdict == "unknown"}
    logged = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in logged] == list(range(15, 22))
    assert last.loss is not None and logged[0].loss is not None and logged[0].loss < 1.6 * last.loss
    assert not [event for event in events if isinstance(event, LossJumped)]


def test_an_older_pickle_of_the_adapter_is_continued_too(run: Path, trainers: Path, taught_model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for checkpoint in run.glob("checkpoint-*"):
        torch.save(load_file(checkpoint / "adapter_model.safetensors"), checkpoint / "adapter_model.bin")
        (checkpoint / "adapter_model.safetensors").unlink()
    verdicts = receipt(go_on(run, trainers, taught_model))
    assert verdicts["adapter_values"] == verdicts["optimizer"] == "ok"


def test_random_states_of_several_processes_are_told_as_begun_anew(run: Path, trainers: Path, taught_model: Path) -> None:
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
        shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    assert receipt(go_on(run, trainers, taught_model))["rng"] == "changed"


def test_max_steps_and_a_fraction_of_an_epoch_end_where_they_say(run: Path, trainers: Path, taught_model: Path) -> None:
    events = go_on(run, trainers, taught_model, max_steps=17)
    assert [event.step for event in events if isinstance(event, Step)] == [15, 16, 17]
    other = Path(shutil.copytree(trainers / "run", run.with_name("other")))
    events = go_on(other, trainers, taught_model, epochs=2.5)
    assert [event.step for event in events if isinstance(event, Step)] == [15, 16, 17, 18]


def test_the_plan_of_a_foreign_run_says_that_it_is_continued(run: Path, trainers: Path, taught_model: Path) -> None:
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.mode == "continue" and decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-14"


def test_on_a_busy_machine_no_sound_run_is_refused_for_a_probe_of_a_few_tokens(
    run: Path, trainers: Path, taught_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import probe

    monkeypatch.setattr(probe.affordable, "__defaults__", (1e-9,))  # nothing is affordable: one row, cut to its least
    events = go_on(run, trainers, taught_model)
    assert receipt(events)["probe_loss"] == "unknown"
    (saved,) = [one.manifest for one in scan(run).checkpoints if one.name == "checkpoint-21"]
    assert saved is not None and saved.probe is not None and saved.probe.tokens == probe.MIN_TOKENS


def test_a_run_that_is_done_for_what_is_asked_trains_nothing(run: Path, trainers: Path, taught_model: Path) -> None:
    rows = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model}
    assert plan(epochs=2, **rows).mode == plan(max_steps=9, **rows).mode == "complete"
    goal = plan(stop_at_loss=50, **rows)
    assert (goal.mode, goal.reached) == ("complete", True)
    assert plan(epochs=2.5, **rows).mode == "continue"


def test_adam_goes_on_as_the_other_tool_had_it(run: Path, trainers: Path, taught_model: Path) -> None:
    """The moments alone are not the optimizer: what they are weighed with, and what is taken off the weights, belongs to it."""
    import torch

    file = run / "checkpoint-14" / "optimizer.pt"
    state = torch.load(file, weights_only=True)
    for group in state["param_groups"]:
        group.update(weight_decay=0.125, betas=(0.8, 0.95), eps=1e-6)
    torch.save(state, file)
    rows = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model}
    assert plan(**rows).config.weight_decay == 0.125
    told = [(one.saved, one.asked) for one in plan(weight_decay=0.5, **rows).differences]
    assert ("weight_decay 0.125", "weight_decay 0.5") in told
    train(max_steps=16, train_on="all", **rows)
    group = torch.load(run / "checkpoint-16" / "optimizer.pt", weights_only=True)["param_groups"][0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.125, (0.8, 0.95), 1e-6)


def test_an_adam_that_is_amsgrad_or_climbs_goes_on_so(run: Path, trainers: Path, taught_model: Path) -> None:
    import torch

    file = run / "checkpoint-14" / "optimizer.pt"
    state = torch.load(file, weights_only=True)
    for group in state["param_groups"]:
        group.update(amsgrad=True, maximize=True)
    for one in state["state"].values():
        one["max_exp_avg_sq"] = 4 * one["exp_avg_sq"]
    torch.save(state, file)
    rows = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model, "train_on": "all"}
    train(max_steps=16, **rows)
    saved = torch.load(run / "checkpoint-16" / "optimizer.pt", weights_only=True)
    assert {(group["amsgrad"], group["maximize"]) for group in saved["param_groups"]} == {(True, True)}
    assert any(bool((one["max_exp_avg_sq"] > one["exp_avg_sq"]).any()) for one in saved["state"].values())
    train(max_steps=17, **rows)  # from the checkpoint that was made here
    saved = torch.load(run / "checkpoint-17" / "optimizer.pt", weights_only=True)
    assert {(group["amsgrad"], group["maximize"]) for group in saved["param_groups"]} == {(True, True)}


@pytest.mark.parametrize(
    ("trained", "precision"),
    [(0.0, "float32"), (0.0, "bfloat16"), (1e-3, "float32")],
    ids=["as in the base model", "as in the base model, which is loaded in fewer bits", "of another base model"],
)
def test_embeddings_that_peft_saved_with_the_adapter_on_them_must_be_those_of_the_base_model(
    trained: float, precision: str, trainers: Path, taught_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    rows = {"output": tmp_path / "run", "dataset": trainers / "data.jsonl", "model": taught_model, "train_on": "all"}
    train(stop_at=2, save_steps=2, target_modules="q_proj,embed_tokens", lora_r=4, **rows)
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    for made_here in (folder / "manifest.json", tmp_path / "run" / "run.toml"):
        made_here.unlink()
    weights = folder / "adapter_model.safetensors"
    embeddings = load_file(taught_model / "model.safetensors")["model.embed_tokens.weight"] + trained
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file({**load_file(weights), name: embeddings}, weights, {"format": "pt"})
    if trained:
        with pytest.raises(CannotContinue, match="base_layer"):
            train(**rows)
    else:
        verdicts = receipt(train(**rows, precision=precision)[1])
        assert verdicts["adapter_keys"] == verdicts["adapter_values"] == "ok"


def test_what_nothing_that_was_saved_tells_is_told_as_assumed(run: Path, trainers: Path, taught_model: Path) -> None:
    """How it clipped gradients, and that it measured an eval loss by which it was to stop: this goes on without."""
    rows = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model, "train_on": "all"}

    def told(**flags: Any) -> list[tuple[str, str]]:
        decided = plan(**rows, **flags)
        return [(one.saved, one.asked) for one in decided.differences if (one.item, one.winner) == ("settings", "assumed")]

    assert told() == [("-", "max_grad_norm 1")] and told(max_grad_norm=0.3) == []
    for path in states_of(run):
        state = json.loads(path.read_text())
        state["log_history"].append({"step": state["global_step"], "epoch": state["epoch"], "eval_loss": 2.5})
        state["stateful_callbacks"]["EarlyStoppingCallback"] = {"args": {"early_stopping_patience": 1}, "attributes": {}}
        path.write_text(json.dumps(state))
    assert told()[1:] == [("eval loss 2.50", "no eval loss"), ("EarlyStoppingCallback", "-")]
    assert told(eval_fraction=0.2, max_grad_norm=0) == [("EarlyStoppingCallback", "-")]


def test_what_is_expected_of_a_continued_run_are_the_steps_that_are_left(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    from engine.data.read import Reading
    from engine.data.report import dataset_report
    from engine.training.expect import expect

    report = dataset_report(str(trainers / "data.jsonl"), Reading(), None, "all", 256)
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model, train_on="all")
    assert expect(decided, report).steps == 7


def test_a_run_that_was_limited_says_what_is_left_of_that(run: Path, trainers: Path, taught_model: Path) -> None:
    for state in run.glob("checkpoint-*/trainer_state.json"):
        told = json.loads(state.read_text())
        state.write_text(json.dumps(told | {"max_steps": 16}))
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model, train_on="all")
    assert decided.length is not None and decided.length.total_steps == 16
    assert decided.epochs_left == pytest.approx(2 / 7, abs=0.01)


def test_a_run_over_a_stream_keeps_its_number_of_steps(run: Path, trainers: Path, taught_model: Path) -> None:
    """It has no epochs: what Trainer calls so is the share of its steps that is done, out of sys.maxsize epochs."""
    for path in states_of(run):
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "num_train_epochs": 2**63 - 1, "epoch": state["global_step"] / 21}))
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.length is not None and decided.length.total_steps == 21
    assert decided.saved_learning_rate == decided.next_learning_rate
    (told,) = [one for one in decided.differences if one.item == "batch_geometry"]
    assert (told.asked, told.winner) == ("4 x 1", "assumed") and "from a stream" in told.reason


def test_a_state_of_another_version_is_read(run: Path, trainers: Path, taught_model: Path) -> None:
    """Without the batch size, as older Trainers wrote it, and with a field that this one does not know."""
    for path in states_of(run):
        state = json.loads(path.read_text())
        del state["train_batch_size"]
        path.write_text(json.dumps({**state, "tokens_seen_by_a_fork": 7}))
    events = go_on(run, trainers, taught_model)
    assert [event.step for event in events if isinstance(event, Step)] == list(range(15, 22))


def test_rows_of_a_step_that_are_not_saved_follow_from_the_steps_of_an_epoch(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """A third of public runs are of transformers before 4.36, which saved no batch size: they went on in half as many steps."""
    for path in states_of(run):
        state = json.loads(path.read_text())
        del state["train_batch_size"]
        state["epoch"] = round(state["epoch"], 2)
        path.write_text(json.dumps(state))
    flags: dict[str, Any] = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model}
    decided = plan(**flags)
    assert (decided.config.batch_size, decided.config.grad_accum) == (4, 1)
    assert decided.saved_learning_rate == decided.next_learning_rate
    (told,) = [one for one in decided.differences if one.item == "batch_geometry"]
    assert (told.saved, told.asked, told.winner) == ("7 steps an epoch", "4 x 1", "assumed")
    assert plan(**flags, batch_size=2).config.grad_accum == 1
    _outcome, events = train(**flags, train_on="all")
    assert [event.step for event in events if isinstance(event, Step)] == list(range(15, 22))


def test_random_states_that_an_older_numpy_pickled_are_restored(run: Path, trainers: Path, taught_model: Path) -> None:
    for path in run.glob("checkpoint-*/rng_state.pth"):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert receipt(go_on(run, trainers, taught_model))["rng"] == "unknown"


def test_random_states_that_cannot_be_read_start_anew_and_are_told(run: Path, trainers: Path, taught_model: Path) -> None:
    import torch

    for path in run.glob("checkpoint-*/rng_state.pth"):
        torch.save({"python": [3, [1], None]}, path)
    assert receipt(go_on(run, trainers, taught_model))["rng"] == "changed"


def test_a_run_over_other_rows_gives_way_to_one_that_these_rows_make(
    run: Path, trainers: Path, taught_model: Path, tmp_path: Path
) -> None:
    """Two runs share a folder: 28 rows of 4 make 7 steps an epoch; the other, further one had 15."""
    other = Path(shutil.copytree(run / "checkpoint-14", run / "checkpoint-45"))
    state = json.loads((other / "trainer_state.json").read_text())
    logged = [{**row, "step": 3 * row["step"], "loss": row["loss"] + 1} for row in state["log_history"]]
    (other / "trainer_state.json").write_text(
        json.dumps({**state, "global_step": 45, "epoch": 3.0, "max_steps": 60, "num_train_epochs": 4, "log_history": logged})
    )
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-14"
    (passed,) = decided.passed_over
    assert "15 steps of 4 rows at a time, which 28 rows do not make" in passed.reason
    for step in (7, 14):  # nothing else is there: it is told as another geometry
        shutil.rmtree(run / f"checkpoint-{step}")
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-45"
    assert [one.item for one in decided.differences if one.item == "batch_geometry"]


def test_of_two_runs_in_a_folder_the_settings_are_those_of_the_one_that_is_continued(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """The other came further, over other rows, with another peak and rank."""
    import torch

    other = Path(shutil.copytree(run / "checkpoint-14", run / "checkpoint-45"))
    state = json.loads((other / "trainer_state.json").read_text())
    (other / "trainer_state.json").write_text(
        json.dumps({**state, "global_step": 45, "epoch": 3.0, "max_steps": 60, "num_train_epochs": 4, "log_history": []})
    )
    shape = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**shape, "lora_alpha": 99}))
    saved = torch.load(other / "scheduler.pt")
    torch.save({**saved, "last_epoch": 45, "base_lrs": [0.9] * 2, "_last_lr": [0.5] * 2}, other / "scheduler.pt")
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-14"
    assert (decided.config.learning_rate, decided.config.lora_alpha, decided.config.epochs) == (5e-3, 16, 3)
    assert decided.saved_learning_rate == decided.next_learning_rate


def test_an_optimizer_that_keeps_all_in_one_group_goes_on(run: Path, trainers: Path, taught_model: Path) -> None:
    """As `AdamW(model.parameters())` does; Trainer's own has a second, empty one."""
    import torch

    other = Path(shutil.copytree(run, run.with_name("other")))
    for path in other.glob("checkpoint-*/optimizer.pt"):
        content = torch.load(path)
        torch.save({**content, "param_groups": content["param_groups"][:1]}, path)
    verdicts = receipt(go_on(other, trainers, taught_model, max_steps=16))
    assert verdicts["optimizer"] == verdicts["scheduler"] == "ok"
    go_on(run, trainers, taught_model, max_steps=16)
    assert adapter_bytes(other) == adapter_bytes(run)


def test_a_log_of_all_tokens_is_gone_on_with_on_all_tokens_and_that_is_told(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """The default of TRL is to train on a whole chat, the one here on what the assistant says."""
    _outcome, events = train(output=run, dataset=trainers / "data.jsonl", model=taught_model, batch_size=4)
    (told,) = [event for event in events if isinstance(event, Warned) and event.code == "train_on"]
    assert "with --train-on all it is" in told.message and "goes on with --train-on all" in told.message
    assert receipt(events)["probe_loss"] == "unknown"
    (last,) = [one for one in scan(run).checkpoints if one.name == "checkpoint-14"]
    first = next(event for event in events if isinstance(event, Step))
    assert first.loss is not None and last.loss is not None and first.loss < 1.6 * last.loss
    assert plan(output=run).config.train_on == "all"


def test_other_tokens_than_those_of_the_log_are_trained_on_where_they_are_asked_for(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    asked: dict[str, Any] = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model, "batch_size": 4}
    _outcome, events = train(**asked, train_on="assistant")
    assert receipt(events)["probe_loss"] == "changed"
