"""The snapshot that the training screen draws from: what folding events into it keeps, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.events import LossJumped, ResumeChecked, RolledBack, RunFailed, RunFinished, RunStarted, RunStopped, Warned
from tests.tui.scripted import started, step
from tui import i18n
from tui.live import LINES, POINTS, Curve, begun, curve_of, fold


def folded(*events: Any) -> Any:
    live = begun()
    for second, event in enumerate(events):
        live = fold(live, event, float(second))
    return live


def grown(count: int) -> Curve:
    curve = Curve()
    for number in range(1, count + 1):
        curve = curve.add(number, float(number))
    return curve


@given(st.integers(1, 9_000))
def test_a_curve_stays_small_whatever_it_was_given(count: int) -> None:
    assert len(grown(count).points) < 2 * POINTS


@given(st.integers(1, 9_000))
def test_a_curve_always_ends_with_the_newest_point(count: int) -> None:
    assert grown(count).points[-1] == (count, float(count))


@given(st.integers(1, 9_000))
def test_a_curve_is_thinned_evenly(count: int) -> None:
    curve = grown(count)
    steps = [number for number, _value in curve.points]
    gaps = {after - before for before, after in pairwise(steps[:-1])}
    assert gaps <= {curve.stride}


@given(st.integers(0, 9_000))
def test_many_points_at_once_obey_the_same_bounds(count: int) -> None:
    points = [(number, float(number)) for number in range(count)]
    curve = curve_of(points)
    assert len(curve.points) <= 2 * POINTS
    assert curve.points[-1:] == tuple(points[-1:])


def test_a_curve_can_grow_on_from_a_history() -> None:
    curve = curve_of((number, 1.0) for number in range(5_000))
    for number in range(5_000, 9_000):
        curve = curve.add(number, 1.0)
    assert len(curve.points) < 2 * POINTS
    assert [number for number, _value in curve.points] == sorted({number for number, _value in curve.points})


def test_a_fresh_run_has_no_join() -> None:
    assert folded(started()).join is None


def test_the_join_is_where_the_attempt_took_over() -> None:
    assert folded(started(checkpoint="checkpoint-8", step=8, epoch=1.15)).join == 8


def test_the_smoothed_line_of_a_constant_loss_is_that_loss() -> None:
    live = folded(started(), *(step(number, 2.5) for number in range(1, 30)))
    assert {round(value, 9) for _step, value in live.smooth.points} == {2.5}


def test_the_smoothed_line_goes_on_through_a_join() -> None:
    steps = [step(number, 3.0 / number) for number in range(1, 41)]
    joined = begun((one.step, one.loss) for one in steps[:25] if one.loss is not None)
    for event in (started(checkpoint="checkpoint-25", step=25), *steps[25:]):
        joined = fold(joined, event, 0.0)
    assert joined.smooth.points == folded(started(), *steps).smooth.points


def test_a_loss_that_is_not_a_number_does_not_spoil_the_smoothed_line() -> None:
    live = folded(started(), step(1, 2.0), step(2, float("nan")), step(3, 2.0))
    assert live.smooth.points[-1] == (3, 2.0)


def test_time_left_is_unknown_before_two_steps() -> None:
    assert folded(started(), step(1, 2.0)).seconds_left is None


def test_time_left_is_the_mean_pace_times_what_is_left() -> None:
    live = folded(started(), step(1, 2.0), step(2, 2.0), step(3, 2.0))
    assert live.started is not None
    assert live.seconds_left == live.started.total_steps - 3  # one event a second


def test_a_run_that_is_stopping_has_no_time_left_to_tell() -> None:
    """It will not take the steps that are left; one that moves elsewhere takes none for a while."""
    assert replace(folded(started(), step(1, 2.0), step(2, 2.0)), stopping=True).seconds_left is None


def test_the_list_of_happenings_keeps_the_latest() -> None:
    live = folded(started(), *(Warned("x", f"word {number}") for number in range(LINES + 50)))
    assert len(live.happenings) == LINES
    assert live.happenings[-1].event == Warned("x", f"word {LINES + 49}")


def test_a_receipt_and_a_jump_are_kept_until_they_are_answered() -> None:
    receipt = ResumeChecked("checkpoint-8", ())
    jump = LossJumped(60, "divergence", 1.0, 4.4, 4.4, False)
    live = folded(started(), receipt, step(1, 2.0), jump, step(2, 2.0))
    assert (live.receipt, live.jump) == (receipt, jump)


def test_the_end_is_the_end() -> None:
    end = RunFinished(100, 2.0, 0.21, None, 60.0, "out/w/final", {})
    assert (folded(started(), end).phase, folded(started(), end).ended) == ("finished", end)


def test_an_attempt_that_failed_before_it_started_is_not_the_end_of_the_next_one() -> None:
    failed = RunFailed(None, "the device's memory is too small", "", "", 1)
    assert folded(failed, started()).ended is None


def test_a_run_that_moves_to_a_process_of_its_own_has_not_ended_by_stopping() -> None:
    live = replace(folded(started(), step(1, 2.0)), stopping=True, moving=True)
    live = fold(live, RunStopped(1, 0.1, "detach", "checkpoint-1"), 3.0)
    assert live.ended is None and live.moving
    live = fold(live, started(checkpoint="checkpoint-1", step=1), 4.0)
    assert not live.moving and live.join == 1


def test_a_rollback_turns_what_came_before_it_into_history_and_drops_what_came_after() -> None:
    jumped = LossJumped(4, "divergence", 1.0, 5.0, 5.0, False)
    back = RolledBack(4, "checkpoint-2", 2, 1e-4, 1, ("checkpoint-4",))
    again = started(checkpoint="checkpoint-2", step=2)
    live = folded(started(), step(1, 2.0), step(2, 1.0), step(3, 4.0), step(4, 5.0), jumped, back, again, step(3, 0.9))
    assert live.history.points == ((1, 2.0), (2, 1.0)) and live.loss_curve.points == ((3, 0.9),)
    assert live.join == 2 and live.jump is None
    assert [one.kind for one in live.happenings] == ["started", "jumped", "rolled_back", "started"]


def test_the_band_of_the_chart_is_what_the_run_aims_for() -> None:
    from tui.training_text import picture

    assert picture(begun()).band == (0.1, 0.3)
    config = {"loss_too_low": 0.5, "loss_reached": 1.5}
    started = RunStarted("r", "out", None, 0, 0.0, 9, 1.0, 9, 9, {}, config)
    assert picture(fold(begun(), started, 0.0)).band == (0.5, 1.5)


def test_an_ended_run_has_no_time_left() -> None:
    from tui.training_text import tiles_text

    live = fold(fold(begun(), started(), 0.0), step(3, 1.0), 1.0)
    assert "left" in tiles_text(live, 140, None).plain
    assert "left" not in tiles_text(fold(live, RunStopped(3, 1.0, "user", None), 2.0), 140, None).plain


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
def test_the_curve_takes_half_of_the_axis_or_more_and_the_axis_no_more_than_the_run(run: tuple[int, int]) -> None:
    from tui.training_text import picture

    total, done = run
    end = picture(folded(started(total_steps=total), step(done, 1.0))).last_step
    assert end is not None and done <= end <= total and (end == total or end // 2 < done)


def test_the_axis_of_a_run_that_has_ended_goes_no_further_than_its_curve() -> None:
    from tui.training_text import picture

    assert picture(folded(started(total_steps=300), step(160, 1.0), RunStopped(160, 1.0, "user", None))).last_step is None


def test_before_the_first_step_the_axis_is_the_whole_run() -> None:
    from tui.training_text import picture

    assert picture(folded(started(total_steps=300))).last_step == 300


def test_a_jump_at_the_join_is_kept_when_it_has_been_answered() -> None:
    reset = LossJumped(9, "reset_at_resume", 1.0, 4.4, 4.4, True)
    spike = LossJumped(20, "spike", 1.0, 4.4, 4.4, False)
    live = fold(replace(folded(started(checkpoint="checkpoint-8", step=8), reset), jump=None), spike, 9.0)
    assert (live.reset, live.jump) == (reset, spike)


def test_the_receipt_begins_with_the_probe_and_then_what_is_not_as_it_was() -> None:
    from tui.training_text import receipt_text

    def item(name: str, verdict: str) -> dict[str, str]:
        return {"item": name, "expected": "", "found": "b", "verdict": verdict, "detail": ""}

    found = (item("optimizer", "ok"), item("rng", "unknown"), item("schedule", "changed"), item("probe_loss", "ok"))
    lines = receipt_text(ResumeChecked("checkpoint-8", found)).plain.splitlines()
    assert lines[1:] == ["ok      probe_loss: - → b", "changed schedule: - → b", "unknown rng: - → b", "ok      optimizer"]


def test_what_was_chosen_is_called_as_its_field() -> None:
    from tui.training_text import events_text

    chosen = {"device": "cpu · none", "lora_kernel": "fused"}
    lines = events_text(folded(started(choices=chosen)).happenings).plain.splitlines()
    i18n.install("zh_CN")
    translated = events_text(folded(started(choices=chosen)).happenings).plain.splitlines()
    assert lines[1:] == ["device cpu · none", "lora kernel fused"] and translated[2] == "LoRA 内核 fused"


def test_causes_of_a_jump_that_a_strangers_journal_tells_move_no_cursor() -> None:
    from tui.training_text import jump_text

    jump = LossJumped(3, "spike", 0.1, 4.4, 44.0, False, causes=("\x1b[2J gone",))
    assert "- ^[[2J gone" in jump_text(jump, ()).plain
