"""The learning rate of another tool's run: by what was logged and saved, and what is only assumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.events import Step
from tests.engine.resume.elsewhere import go_on, states_of
from tests.engine.runs import plan, receipt, train


def test_without_a_word_it_keeps_the_other_tools_schedule_and_batches(run: Path, trainers: Path, taught_model: Path) -> None:
    _outcome, events = train(output=run, dataset=trainers / "data.jsonl", model=taught_model, train_on="all")
    assert {item: receipt(events)[item] for item in ("schedule", "batch_geometry")} == {
        "schedule": "ok", "batch_geometry": "ok"
    }  # fmt: skip
    logged = {event.step: event.learning_rate for event in events if isinstance(event, Step)}
    assert logged == pytest.approx({step: 5e-3 * (22 - step) / 21 for step in range(15, 22)})


def test_what_is_asked_wins_over_the_other_tools_schedule_and_is_told(run: Path, trainers: Path, taught_model: Path) -> None:
    verdicts = receipt(go_on(run, trainers, taught_model, scheduler="cosine"))
    assert verdicts["schedule"] == "changed"


def test_with_few_logged_rates_the_saved_scheduler_tells_the_rest(run: Path, trainers: Path, taught_model: Path) -> None:
    """Trainer logs every tenth step or fewer; its scheduler keeps the peak and the rate that comes next."""
    for path in states_of(run):
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "log_history": [row for row in state["log_history"] if row["step"] == 7]}))
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.saved_learning_rate == decided.next_learning_rate == pytest.approx(5e-3 * 7 / 21)
    assert not [one for one in decided.differences if one.item == "schedule"]
    _outcome, events = train(output=run, dataset=trainers / "data.jsonl", model=taught_model, train_on="all")
    assert (receipt(events)["scheduler"], receipt(events)["schedule"]) == ("ok", "ok")
    logged = {event.step: event.learning_rate for event in events if isinstance(event, Step)}
    assert logged == pytest.approx({step: 5e-3 * (22 - step) / 21 for step in range(15, 22)})


def test_a_schedule_that_is_not_known_goes_on_from_its_peak_and_the_join_is_told(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    import torch

    for path in run.glob("checkpoint-*/scheduler.pt"):
        torch.save({**torch.load(path), "_last_lr": [5e-3 * (1 / 3) ** 2] * 2, "base_lrs": [5e-3] * 2}, path)
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert decided.config.learning_rate == 5e-3
    (told,) = [one for one in decided.differences if one.item == "schedule"]
    assert "from 0.000556 to" in told.reason


@pytest.mark.parametrize(
    ("scheduler", "share"),
    [
        ("linear", lambda done: 1e-4 + (1 - 1e-4) * (1 - done)),  # transformers' polynomial as it is by default
        ("cosine", lambda done: 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2),  # its cosine_with_min_lr
    ],
)
def test_a_schedule_that_is_not_known_goes_on_by_the_one_that_is_nearest(
    scheduler: str, share: Callable[[float], float], run: Path, trainers: Path, taught_model: Path
) -> None:
    for path in states_of(run):
        state = json.loads(path.read_text())
        for row in state["log_history"]:
            row["learning_rate"] = 5e-3 * share((row["step"] - 1) / 21)
        path.write_text(json.dumps(state))
    with_schedule(run, 5e-3, 14, 5e-3 * share(14 / 21))
    decided = plan(output=run, dataset=trainers / "data.jsonl", model=taught_model)
    assert (decided.config.scheduler, decided.config.learning_rate, decided.config.warmup) == (scheduler, 5e-3, 0)
    (told,) = [one for one in decided.differences if one.item == "schedule"]
    assert told.winner == "assumed" and "its kind is not known here" in told.reason


def with_schedule(run: Path, base: float, step: int, rate: float) -> None:
    """Have its scheduler say that it stands at `step` with `rate` next."""
    import torch

    for path in run.glob("checkpoint-*/scheduler.pt"):
        torch.save({**torch.load(path), "_last_lr": [rate] * 2, "base_lrs": [base] * 2}, path)


def test_a_schedule_that_several_kinds_would_give_is_assumed_and_told_not_proven(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """Nothing was logged, and the rate stands at its peak: constant from the first step on, or linear with a warmup up to here."""
    for path in states_of(run):
        path.write_text(json.dumps({**json.loads(path.read_text()), "log_history": []}))
    with_schedule(run, 5e-3, 14, 5e-3)
    flags: dict[str, Any] = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model}
    decided = plan(**flags)
    assert (decided.config.scheduler, decided.config.warmup, decided.next_learning_rate) == ("constant", 0, 5e-3)
    (told,) = [one for one in decided.differences if one.item == "schedule"]
    assert told.winner == "assumed" and "linear, cosine would give what was logged as well" in told.reason
    assert not [one for one in plan(**flags, scheduler="constant").differences if one.item == "schedule"]
    _outcome, events = train(**flags, train_on="all")
    assert receipt(events)["schedule"] == "changed"


def test_a_rate_that_stays_at_its_peak_may_be_one_that_falls_at_the_end(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """transformers' warmup_stable_decay; its "constant" is a function without settings, and cannot be that."""
    import torch

    for path in states_of(run):
        state = json.loads(path.read_text())
        for row in state["log_history"]:
            row["learning_rate"] = 5e-3
        path.write_text(json.dumps(state))
    with_schedule(run, 5e-3, 14, 5e-3)
    flags: dict[str, Any] = {"output": run, "dataset": trainers / "data.jsonl", "model": taught_model}

    def told(**more: Any) -> list[tuple[str, str]]:
        differences = plan(**flags, **more).differences
        return [(one.winner, one.reason.partition(",")[0]) for one in differences if one.item == "schedule"]

    assert told() == [("assumed", "warmup_stable_decay")] and told(scheduler="constant") == []
    for path in run.glob("checkpoint-*/scheduler.pt"):
        torch.save(torch.load(path) | {"lr_lambdas": [None, None]}, path)
    assert told() == []


def test_where_another_kind_of_scheduler_stands_is_taken_up(run: Path, trainers: Path, taught_model: Path) -> None:
    """As CosineAnnealingLR, which has no functions to compute by."""
    import torch

    for path in run.glob("checkpoint-*/scheduler.pt"):
        content = torch.load(path)
        del content["lr_lambdas"]
        torch.save(content, path)
    events = go_on(run, trainers, taught_model, max_steps=16)
    assert receipt(events)["scheduler"] == receipt(events)["optimizer"] == "ok"
    assert (
        next(event.learning_rate for event in events if isinstance(event, Step))
        == plan(
            output=trainers / "run", dataset=trainers / "data.jsonl", model=taught_model, max_steps=16
        ).next_learning_rate
    )


def test_moments_that_are_given_up_take_no_place_in_the_schedule_with_them(
    run: Path, trainers: Path, taught_model: Path
) -> None:
    """An optimizer that cannot be loaded kept the scheduler from being loaded behind it: its rates began anew."""
    import torch

    for path in run.glob("checkpoint-*/optimizer.pt"):
        content = torch.load(path)
        content["param_groups"][0]["params"].pop()
        torch.save(content, path)
    verdicts = receipt(go_on(run, trainers, taught_model, max_steps=16, accept=("optimizer",)))
    assert (verdicts["optimizer"], verdicts["scheduler"]) == ("changed", "ok")
