"""Runs told apart: by their ids, else by their losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.checkpoints import lineage
from engine.checkpoints.checkpoint import Checkpoint, Grade, LogRow
from engine.checkpoints.lineage import assign_runs, group, losses
from engine.checkpoints.scan import scan


def made(name: str, losses: list[float], run_id: str | None = None, **more: Any) -> Checkpoint:
    """A checkpoint whose losses were logged at steps 1, 2, ..."""
    step, cursor = more.pop("step", len(losses)), SimpleNamespace(given_up=more.pop("given_up", 0.0))
    values: dict[str, Any] = {
        "name": name, "path": Path(name), "grade": Grade.COMPLETE, "run": "unknown", "made_by": "Trainer", "step": step,
        "epoch": step / 10, "loss": None, "eval_loss": None, "max_steps": 30, "total_epochs": 3.0, "saved_at": None, "bytes": 0,
        "files": (), "continuable": True, "problems": (), "adapter": None,
        "history": tuple(LogRow(number + 1, None, loss, None, None) for number, loss in enumerate(losses)),
        "manifest": SimpleNamespace(run_id=run_id, cursor=cursor) if run_id else None,
    }  # fmt: skip
    return Checkpoint(**{**values, **more})


def runs(*checkpoints: Checkpoint) -> list[set[str]]:
    return sorted(({member.name for member in members} for members in group(checkpoints)), key=sorted)


@pytest.mark.parametrize("name", ["G02", "G06", "G10", "G17", "G30"])
def test_the_runs_of_real_folders_are_told_apart(histories: Path, name: str) -> None:
    folder = histories / "groups" / name
    facts = json.loads((folder / "FACTS.json").read_text())
    there = {path.name for path in folder.glob("checkpoint-*")}
    expected = sorted((set(members) & there for members in facts["runs"].values()), key=sorted)
    found: dict[str, set[str]] = {}
    for checkpoint in scan(folder).checkpoints:
        found.setdefault(checkpoint.run, set()).add(checkpoint.name)
    assert sorted(found.values(), key=sorted) == expected


def test_a_shorter_history_that_begins_the_longer_is_the_same_run() -> None:
    assert runs(made("a", [3, 2.0]), made("b", [3, 2.0005, 1]), made("c", [3, 2.01, 1])) == [{"a", "b"}, {"c"}]


def test_a_common_stem_belongs_to_the_longest() -> None:
    assert runs(made("stem", [3]), made("short", [3, 2]), made("long", [3, 1, 1])) == [{"long", "stem"}, {"short"}]


def test_different_ids_are_different_runs_whatever_the_losses_say() -> None:
    assert runs(made("a", [3, 2], "x"), made("b", [3, 2, 1], "y"), made("c", [9], "x")) == [{"a", "c"}, {"b"}]


def test_what_another_tool_added_to_a_run_with_an_id_belongs_to_it() -> None:
    """Or a checkpoint that lost its manifest: to begin again from before it would be to lose it."""
    assert runs(made("ours", [3, 2], "x"), made("further", [3, 2, 1])) == [{"further", "ours"}]
    assert runs(made("ours", [3], "x"), made("a", [3, 2]), made("b", [3, 1, 1])) == [{"a"}, {"b", "ours"}]
    assert runs(made("ours", [], "x", step=5), made("other", [3, 2])) == [{"other"}, {"ours"}], "no losses tell nothing"


def test_losses_that_differ_by_one_in_the_third_digit_are_the_same() -> None:
    assert runs(made("a", [3.918, 2.0]), made("b", [3.919, 2.0, 1.5])) == [{"a", "b"}]


def test_a_stock_checkpoint_that_a_run_with_an_id_continued_belongs_to_it() -> None:
    assert runs(made("stock", [3, 2]), made("ours", [3, 2, 1], "x")) == [{"ours", "stock"}]


def test_one_saved_before_the_first_log_goes_to_the_run_planned_alike() -> None:
    found = runs(made("new", [], step=2), made("run", [3, 2, 1]), made("other", [5, 4], max_steps=7))
    assert found == [{"new", "run"}, {"other"}]


def test_what_was_trained_before_an_epoch_was_begun_anew_counts_as_for_the_choice() -> None:
    (first, *_rest) = group((made("a", [3, 2, 1], "x"), made("b", [5, 4], "y", given_up=0.5)))
    assert [one.name for one in first] == ["b"]


def test_the_run_that_came_furthest_is_the_first_and_a_recorded_id_is_kept() -> None:
    named = assign_runs((made("a", [3]), made("b", [5, 4, 3]), made("c", [1], "run-1")))
    assert [checkpoint.run for checkpoint in named] == ["run-3", "run-2", "run-1"]


def test_a_history_is_looked_through_once_however_many_checkpoints_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(lineage, "losses", lambda one: (looked.append(one.name), losses(one))[1])
    found = [made(f"{number}", [3 - step / 100 for step in range(number)]) for number in range(60)]
    assert len(group(found)) == 2  # the one before anything was logged was planned for another ratio
    assert sorted(looked) == sorted(one.name for one in found)


def test_equal_losses_at_other_steps_are_another_run() -> None:
    sparse = made(
        "sparse", [], step=20, history=tuple(LogRow(step, None, loss, None, None) for step, loss in ((10, 3), (20, 2)))
    )
    assert runs(made("dense", [3, 2, 1]), sparse) == [{"dense"}, {"sparse"}]


def test_an_eval_loss_between_the_losses_tells_no_run_from_another() -> None:
    measured = (LogRow(1, None, 3, None, None), LogRow(1, None, None, 2.5, None), LogRow(2, None, 2, None, None))
    assert runs(made("measured", [], step=2, history=measured), made("further", [3, 2, 1])) == [{"further", "measured"}]


@pytest.mark.parametrize("other", [{"max_steps": 31}, {"epoch": 0.25}, {"epoch": None}])
def test_one_saved_before_the_first_log_stands_alone_where_the_other_was_planned_otherwise(other: dict[str, Any]) -> None:
    """Another length of the run, or other steps to an epoch; or nothing that tells them."""
    assert runs(made("new", [], step=2, **other), made("run", [3, 2, 1])) == [{"new"}, {"run"}]


def test_runs_of_unknown_length_are_not_taken_for_one() -> None:
    assert len(runs(made("new", [], step=2, max_steps=None), made("run", [3, 2, 1], max_steps=None))) == 2


def test_one_that_does_not_say_where_it_stood_stands_alone() -> None:
    silent = replace(made("silent", [], step=2), step=None)
    assert runs(silent, made("run", [3, 2, 1])) == [{"run"}, {"silent"}]


def test_the_checkpoints_of_a_run_are_in_order_of_step() -> None:
    ((*members,),) = group((made("b", [3, 2, 1]), made("c", [3]), made("a", [3, 2])))
    assert [one.step for one in members] == [1, 2, 3]


def test_a_run_that_was_extended_is_planned_like_either_of_its_plans() -> None:
    extended = made("b", [3, 2, 1, 1], max_steps=60)
    for length in (30, 60):
        assert runs(made("new", [], step=2, max_steps=length), made("a", [3, 2, 1]), extended) == [{"a", "b", "new"}]
