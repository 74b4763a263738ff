"""A loss that leaves its path: warn, stop, or go back; and a loss that is good enough."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue, ConfigError, LoraTuiError
from engine.events import LossJumped, RolledBack, RunStarted, Step
from engine.journal import read_journal
from tests.conftest import chats, taught, write_jsonl
from tests.engine.runs import losses, plan, receipt, train

FLAGS: dict[str, Any] = {
    "batch_size": 4,
    "scheduler": "constant",
    "warmup": 0,
    "logging_steps": 1,
    "save_steps": 4,
    "keep": 2,
}


@pytest.fixture(scope="module")
def falling(tmp_path_factory: pytest.TempPathFactory, taught_model: Path) -> Path:
    """A run of 40 steps whose loss falls, continued by the tests at a rate that makes it explode."""
    folder = tmp_path_factory.mktemp("falling")
    data = write_jsonl(folder / "data.jsonl", chats(26))
    train(dataset=data, model=taught_model, output=folder / "run", max_steps=40, learning_rate=5e-3, **FLAGS)
    return folder / "run"


@pytest.fixture
def run(falling: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(falling, tmp_path / "run"))


EXPLODES: dict[str, Any] = {"learning_rate": 1.0, "max_steps": 70, "max_grad_norm": 0}


def of(events: list[Any], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_rate_far_too_high_is_warned_of_with_its_causes_and_the_way_back(run: Path) -> None:
    outcome, events = train(output=run, **{**EXPLODES, "learning_rate": 0.5})
    jump = next(jump for jump in of(events, LossJumped) if jump.kind != "spike")
    assert outcome.state == "finished"
    assert jump.checkpoint == "checkpoint-40" and jump.good_until == 40
    assert any("0.005" in cause for cause in jump.causes)


def test_stop_ends_the_run_and_what_was_trained_after_the_jump_is_not_gone_on_from(run: Path) -> None:
    outcome, events = train(output=run, on_jump="stop", **EXPLODES)
    assert outcome.state == "jumped" and events[-1].type == "run_stopped"
    assert events[-1].checkpoint == "checkpoint-40"  # type: ignore[attr-defined]
    assert plan(output=run).checkpoint.name == "checkpoint-40"  # type: ignore[union-attr]
    aside = {path.name.split(".")[0] for path in (run / ".trash").iterdir()}
    assert f"checkpoint-{outcome.step}" in aside  # saved first: even a false alarm loses nothing


def test_rollback_goes_back_with_half_the_rate_at_most_three_times_and_tells_each(run: Path) -> None:
    outcome, events = train(output=run, on_jump="rollback", **EXPLODES)
    back = of(events, RolledBack)
    assert outcome.state == "jumped"
    assert [one.learning_rate for one in back] == [0.5, 0.25, 0.125]
    assert {(one.checkpoint, one.to_step) for one in back} == {("checkpoint-40", 40)}
    assert [one.number for one in back] == [1, 2, 3]
    assert len([event for event in events if event.type == "resume_checked"]) == 4
    records = list(read_journal(run))
    attempts = [record["attempt"] for record in records if record["type"] == "run_started"]
    assert attempts == sorted(set(attempts)) and len(attempts) == 5


def test_a_rollback_that_helps_finishes_the_run_from_where_it_was_good(run: Path) -> None:
    before = losses(run)
    outcome, events = train(output=run, on_jump="rollback", **{**EXPLODES, "learning_rate": 0.03, "max_steps": 70})
    assert of(events, RolledBack), "the rate was meant to be too high"
    assert outcome.state == "finished" and outcome.step == 70
    assert losses(run)[:40] == before
    last = [event for event in events if event.type == "resume_checked"][-1]
    assert not [item for item in last.items if item["verdict"] == "failed"]  # type: ignore[attr-defined]
    assert max(checkpoint.step or 0 for checkpoint in scan(run).checkpoints) == 70


def test_without_a_good_checkpoint_a_rollback_begins_again(tmp_path: Path, taught_model: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", taught())  # known by heart: the loss can only rise
    flags = {**FLAGS, "save_steps": 100, "max_steps": 40, "max_grad_norm": 0, "learning_rate": 1.0}
    _outcome, events = train(dataset=data, model=taught_model, output=tmp_path / "run", on_jump="rollback", **flags)
    back = of(events, RolledBack)
    assert back and back[0].checkpoint is None and back[0].to_step == 0
    assert [event.step for event in of(events, RunStarted)][:2] == [0, 0]


def test_a_run_finishes_once_its_loss_is_low_enough_and_says_so_when_asked_again(tmp_path: Path, taught_model: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", chats(26))
    out = tmp_path / "run"
    flags = {**FLAGS, "max_steps": 200, "learning_rate": 5e-3}
    outcome, events = train(dataset=data, model=taught_model, output=out, stop_at_loss=3.0, **flags)
    assert outcome.state == "finished" and outcome.step < 200 and (out / "final").is_dir()
    told = [event.loss for event in of(events, Step)]
    assert median(told[-10:]) <= 3.0
    assert plan(output=out).mode == "complete"
    assert plan(output=out, stop_at_loss=0).mode == "continue"


def test_the_bounds_of_the_advice_are_settings_and_must_be_in_order(run: Path) -> None:
    from engine.resume.report import check_report

    train(output=run, max_steps=41, loss_nearly=50, loss_reached=40)
    assert check_report(scan(run))["advice"]["state"] == "reached"
    with pytest.raises(ConfigError, match="loss-reached"):
        plan(output=run, loss_nearly=0.2)


def test_an_accepted_dataset_of_another_kind_is_no_reset(run: Path, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": f"{index} zq xj {index * 7919}" * 3} for index in range(26)])
    _outcome, events = train(output=run, dataset=other, accept="dataset", max_steps=50, learning_rate=5e-3)
    assert receipt(events)["dataset"] == "changed"
    assert not [jump for jump in of(events, LossJumped) if jump.kind == "reset_at_resume"]


def test_going_back_to_a_checkpoint_that_is_gone_is_told_as_that(run: Path) -> None:
    import shutil

    from engine.resume.plan import roll_back

    begun = plan(output=run, **EXPLODES)
    assert begun.checkpoint is not None and roll_back(begun, None).checkpoint == begun.checkpoint
    shutil.rmtree(begun.checkpoint.path)
    with pytest.raises(CannotContinue, match="checkpoint-40"):
        roll_back(begun, None)


def test_the_last_good_checkpoint_stays_however_long_the_run_goes_on_after_a_warning(run: Path) -> None:
    """It is what the warning names, and what a person goes back to."""
    _outcome, events = train(output=run, **{**EXPLODES, "learning_rate": 0.5, "max_steps": 160})
    jump = next(jump for jump in of(events, LossJumped) if jump.kind != "spike")
    assert jump.checkpoint == "checkpoint-40"
    assert {"checkpoint-40", "checkpoint-160"} <= {one.name for one in scan(run).checkpoints}
    assert "good until step 40" in plan(output=run, max_steps=200).reason


def test_a_run_that_is_killed_between_two_rollbacks_has_only_the_rest_of_them(run: Path) -> None:
    from engine.journal import Journal

    journal = Journal(run)
    for number in (1, 2):
        journal.write(RolledBack(44, "checkpoint-40", 40, 0.5**number, number, ()))
    journal.close()
    _outcome, events = train(output=run, on_jump="rollback", **EXPLODES)
    assert [one.number for one in of(events, RolledBack)] == [3]
    again = Journal(run)
    assert again.rolled_back == 0  # it came to its end; whoever begins it again has all of them
    again.close()


def test_a_run_that_is_killed_right_after_a_rollback_goes_on_at_the_rate_that_was_told(run: Path) -> None:
    from engine.folder import source_of_run

    rates = []

    def watch(event: Any) -> None:
        if isinstance(event, RolledBack):
            own = source_of_run(run)
            assert own is not None
            rates.append((event.learning_rate, own.values["learning_rate"]))

    train(output=run, on_jump="rollback", watch=watch, **EXPLODES)
    assert rates == [(0.5, 0.5), (0.25, 0.25), (0.125, 0.125)]


def test_weights_that_are_lost_after_a_jump_send_back_to_before_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved after the jump has sound numbers, and is the ruined model."""
    from engine.training import saving

    looked: list[int] = []

    def all_finite(values: Any) -> bool:
        looked.append(1)
        return len(looked) < 6

    monkeypatch.setattr(saving, "all_finite", all_finite)
    with pytest.raises(LoraTuiError, match="no longer finite") as told:
        train(output=run, **{**EXPLODES, "learning_rate": 0.5})
    assert (run / "checkpoint-56").is_dir()
    assert "checkpoint-40" in told.value.detail and "checkpoint-40" in told.value.fix


def test_where_an_attempt_began_stays_while_it_is_all_that_there_is_to_go_back_to(
    tmp_path: Path, taught_model: Path
) -> None:
    """Its loss was last logged before the step at which it was stopped and saved: no checkpoint is from up to then."""
    data = write_jsonl(tmp_path / "data.jsonl", chats(26))
    flags = {**FLAGS, "logging_steps": 4, "keep": 1}
    asked = {**flags, "save_steps": 100, "learning_rate": 5e-3, "max_steps": 60}
    train(stop_at=22, dataset=data, model=taught_model, output=tmp_path / "run", **asked)
    rate = {**EXPLODES, "max_steps": 60}
    _outcome, events = train(output=tmp_path / "run", on_jump="rollback", **flags, **rate)
    assert {(one.checkpoint, one.to_step) for one in of(events, RolledBack)} == {("checkpoint-22", 22)}


def test_checkpoints_that_a_person_took_away_meanwhile_are_not_gone_back_to(run: Path) -> None:
    import shutil

    def watch(event: Any) -> None:
        if isinstance(event, LossJumped):
            shutil.rmtree(run / "checkpoint-40", ignore_errors=True)

    _outcome, events = train(output=run, on_jump="rollback", watch=watch, keep=9, **EXPLODES)
    back = of(events, RolledBack)
    assert back and {(one.checkpoint, one.to_step) for one in back} == {("checkpoint-36", 36)}


def test_a_run_that_goes_back_to_where_its_loss_was_low_enough_ends_there(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--stop-at-loss is asked for after the loss had left its path: where it is then, it is not reached."""
    from engine.training import saving

    goal = 1.05 * median([loss for _step, loss in losses(run)][-10:])
    train(output=run, **{**EXPLODES, "learning_rate": 0.5, "max_steps": 60})
    monkeypatch.setattr(saving, "all_finite", lambda values: False)
    asked = {**EXPLODES, "max_steps": 100, "stop_at_loss": goal}
    assert plan(output=run, **asked).mode == "continue"
    outcome, events = train(output=run, on_jump="rollback", **asked)
    assert [(one.checkpoint, one.to_step) for one in of(events, RolledBack)] == [("checkpoint-40", 40)]
    assert (outcome.state, outcome.step, events[-1].type) == ("finished", 40, "run_finished")


def test_what_is_saved_of_a_jump_never_stands_where_a_killed_run_would_go_on_from_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jump was told by then, and nothing would answer it a second time."""
    from engine.checkpoints import trash

    standing: list[set[str]] = []

    def watch(event: Any) -> None:
        if event.type == "checkpoint_saved":
            standing.append({path.name for path in run.glob("checkpoint-*")})

    to_trash = trash.to_trash
    monkeypatch.setattr(trash, "to_trash", lambda path: (standing.append({path.name}), to_trash(path))[1])
    outcome, _events = train(output=run, on_jump="stop", watch=watch, **EXPLODES)
    assert standing and f"checkpoint-{outcome.step}" not in set().union(*standing)
    assert outcome.set_aside[-1] == f"checkpoint-{outcome.step}"
