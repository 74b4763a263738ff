"""The run at work, without a screen: what it is asked, what it tells, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import hardware
from engine.config import RunConfig
from engine.errors import OutputError
from engine.events import RunStopped
from engine.resume.plan import ResumePlan
from tests.tui.scripted import Scripted, started, step
from tui.at_work import RunAtWork
from tui.screens.result import outcome_text

Make = Callable[..., RunAtWork]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a run that does what it is told, without importing what trains."""
    monkeypatch.setattr(hardware, "load_libraries", lambda: None)
    plan = ResumePlan("fresh", RunConfig(dataset="d", model="m"), Path("out/w"), "r", None, None, "as asked")
    yield lambda *script: RunAtWork(plan, Scripted(*script))


def test_what_was_told_is_seen_once_it_is_taken_in(run: Make) -> None:
    at_work = run()
    at_work.tell(step(1, 0.5), {})
    assert at_work.live.step is None
    at_work.take_in()
    assert at_work.live.step == step(1, 0.5)


def test_the_first_reason_to_stop_counts_and_the_last_word_on_what_follows(run: Make) -> None:
    at_work = run(started())
    at_work.stop("user", then="start")
    at_work.stop("SIGTERM", then="exit")
    reasons: list[Any] = []
    at_work._runner.run = lambda plan, emit, should_stop: reasons.append(should_stop())  # type: ignore[method-assign, union-attr]
    at_work.carry_out()
    assert reasons == ["user"] and at_work.then == "exit"


def test_a_run_that_was_to_move_and_is_stopped_after_all_has_not_moved(run: Make) -> None:
    at_work = run(started())
    at_work.stop("detach", then="process")
    at_work.stop("user")
    reasons: list[Any] = []
    at_work._runner.run = lambda plan, emit, should_stop: reasons.append(should_stop())  # type: ignore[method-assign, union-attr]
    at_work.carry_out()
    assert reasons == ["user"]


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_had_stopped_to_move_and_does_not_has_ended_as_it_stopped(run: Make, late: bool) -> None:
    stopped = RunStopped("detach", 5, 0.1, "checkpoint-5")
    at_work = run(started())
    at_work.stop("detach", then="process")
    at_work.tell(stopped, {})
    if not late:
        at_work.take_in()
        assert at_work.live.ended is None
    at_work.leave("SIGHUP")
    assert at_work.live.ended == stopped and "checkpoint-5" in outcome_text(at_work).plain


def test_whoever_leaves_stops_a_run_that_is_here_and_leaves_a_detached_one_at_work(run: Make) -> None:
    here, elsewhere = run(), run()
    elsewhere.detached = True
    here.leave("SIGHUP")
    elsewhere.leave("SIGHUP")
    assert here.live.stopping and not here.left
    assert elsewhere.left and not elsewhere.live.stopping


@pytest.mark.parametrize("fault", [OutputError("the disk is full"), ValueError("a fault")])
def test_a_run_that_fails_has_ended_with_an_error(run: Make, fault: Exception) -> None:
    at_work = run(fault)
    at_work.carry_out()
    assert not at_work.running and at_work.outcome is None
    assert at_work.error is not None and str(fault) in str(at_work.error)
