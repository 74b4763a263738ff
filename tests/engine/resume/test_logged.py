"""The schedule of another tool's run, read off its log."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.checkpoints.checkpoint import Checkpoint, Grade, LogRow
from engine.checkpoints.rates import SavedRates
from engine.config import RunConfig
from engine.course.steps import learning_rate_at
from engine.resume.differences import logged_geometry_difference
from engine.resume.logged import LoggedSchedule, _of_saved, logged_accumulation, logged_batches, logged_schedule, misfit


def checkpoint(rates: dict[int, float | None], total: int | None) -> Checkpoint:
    return Checkpoint(
        "checkpoint-9", Path("checkpoint-9"), Grade.COMPLETE, "run-1", "Trainer", max(rates, default=0), 1.0, None, None, total, None,
        None, 0, (), True, (), tuple(LogRow(step, None, 1.0, None, rate) for step, rate in rates.items()), None, None,
    )  # fmt: skip


def rates(scheduler: str, peak: float, warmup: int, total: int, steps: range, behind: int) -> dict[int, float | None]:
    config = RunConfig(scheduler=scheduler, learning_rate=peak, warmup=warmup)
    return {step: learning_rate_at(config, total, step - behind) for step in steps}


@given(
    scheduler=st.sampled_from(["linear", "cosine", "constant"]),
    peak=st.sampled_from([2e-4, 5e-5, 1e-3, 3.7e-4]),
    total=st.integers(100, 3_000),
    warm=st.floats(0, 0.3),
    every=st.sampled_from([1, 5, 10]),
    done=st.floats(0.5, 1),
    behind=st.sampled_from([0, 1]),
)
def test_it_gives_every_rate_that_is_still_to_come(
    scheduler: str, peak: float, total: int, warm: float, every: int, done: float, behind: int
) -> None:
    warmup, last = int(warm * total), max(6 * every, int(done * total))
    given = rates(scheduler, peak, warmup, total, range(every, last + 1, every), behind)
    found = logged_schedule(checkpoint(given, total))
    assert found is not None
    config = RunConfig(scheduler=found.scheduler, learning_rate=found.learning_rate, warmup=found.warmup_steps)
    ahead = rates(scheduler, peak, warmup, total, range(last, total), 0)
    if last >= warmup:
        for step, rate in ahead.items():
            assert learning_rate_at(config, total, step) == pytest.approx(rate, abs=1e-3 * peak)


def test_a_schedule_of_another_kind_is_not_known() -> None:
    polynomial = {step: 1e-4 * (1 - step / 100) ** 2 for step in range(1, 60)}
    assert logged_schedule(checkpoint(dict(polynomial), 100)) is None


@pytest.mark.parametrize("given", [{}, {1: 1e-4, 2: 9e-5}, {1: None, 2: None, 3: None}, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}])
def test_too_little_tells_nothing(given: dict[int, float | None]) -> None:
    assert logged_schedule(checkpoint(given, 10)) is None


def test_without_a_length_nothing_is_told() -> None:
    known = checkpoint(rates("linear", 1e-4, 0, 100, range(1, 50), 1), 100)
    assert logged_schedule(known) == LoggedSchedule("linear", 1e-4, 0, 100)
    assert logged_schedule(replace(known, max_steps=None)) is None


@pytest.mark.parametrize(
    ("rows", "step", "epoch", "times"), [(28, 8, 2.0, 2), (28, 14, 2.0, 1), (26, 7, 1.0, 1), (28, 5, 1.0, 1)]
)
def test_batches_added_up_for_a_step_are_those_that_give_its_steps_an_epoch(
    rows: int, step: int, epoch: float, times: int
) -> None:
    known = replace(checkpoint({1: 1e-4}, 100), step=step, epoch=epoch, batch_size=4)
    assert logged_accumulation(known, RunConfig(batch_size=4), rows) == times


@pytest.mark.parametrize(
    ("rows", "step", "epoch", "total", "found"),
    [
        (1000, 10, 0.08, 375, (8, 1)),
        (1000, 10, 0.06, 501, (6, 1)),
        (1000, 10, 0.05, 555, None),
        (1000, 10, 0.02, 1500, (2, 1)),
        (1000, 20, 1.27, 48, (8, 8)),
        (1010, 20, 0.91, 66, (8, 6)),
        (5, 3, 3.0, 9, (5, 1)),
        (3, 20, 0.91, 66, None),
        (10_000, 100, 0.32, 936, (8, 4)),
    ],
)
def test_rows_of_a_step_that_were_not_saved_are_those_that_give_its_steps_an_epoch(
    rows: int, step: int, epoch: float, total: int, found: tuple[int, int] | None
) -> None:
    known = replace(checkpoint({}, total), step=step, epoch=epoch, total_epochs=3.0)
    assert logged_batches(known, rows) == found
    assert logged_batches(replace(known, batch_size=4), rows) is None


def test_a_run_that_dropped_what_made_no_whole_step_is_told_of_as_before() -> None:
    """1563 batches added up by fours: 390 steps an epoch, and the epoch that was saved goes by batches (of a public run)."""
    known = replace(checkpoint({}, 1170), step=1000, epoch=4000 / 1563, total_epochs=3.0, batch_size=4)
    (told,) = logged_geometry_difference(known, RunConfig(batch_size=4, grad_accum=4), 6250)
    assert (told.asked, told.winner) == ("4 x 4", "assumed")


def test_an_epoch_that_has_two_digits_by_chance_is_told_with_the_batches_it_was_found_by() -> None:
    """1250 batches added up by fours: 312 steps an epoch, and 0.32 of it after a hundred, to the last digit."""
    known = replace(checkpoint({}, 936), step=100, epoch=0.32, total_epochs=3.0)
    (told,) = logged_geometry_difference(known, RunConfig(batch_size=8, grad_accum=4), 10_000)
    assert (told.saved, told.asked, told.winner) == ("313 steps an epoch", "8 x 4", "assumed")


@pytest.mark.parametrize(("step", "times", "told"), [(8, 2, [("assumed", "4 x 2")]), (14, 1, [])])
def test_batches_that_were_found_by_the_steps_of_an_epoch_are_told_as_assumed(
    step: int, times: int, told: list[tuple[str, str]]
) -> None:
    """That they give the steps they were found by proves nothing: packed rows make fewer steps too."""
    known = replace(checkpoint({1: 1e-4}, 100), step=step, epoch=2.0, batch_size=4)
    found = logged_geometry_difference(known, RunConfig(batch_size=4, grad_accum=times), 28)
    assert [(one.winner, one.asked) for one in found] == told


@given(batches=st.integers(2, 400), times=st.integers(1, 16), share=st.floats(0.01, 1), epochs=st.integers(1, 4))
def test_batches_added_up_are_found_wherever_the_run_stands(batches: int, times: int, share: float, epochs: int) -> None:
    """The epoch as transformers' Trainer counts it: after each batch of a step, by the batches of an epoch."""
    step, epoch = 0, 0.0
    last = max(1, round(share * epochs * math.ceil(batches / times)))
    while step < last:
        whole, into = divmod(step, math.ceil(batches / times))
        epoch = whole + min(batches, (into + 1) * times) / batches
        step += 1
    known = replace(checkpoint({1: 1e-4}, 10_000), step=step, epoch=epoch, batch_size=4)
    found = logged_accumulation(known, RunConfig(batch_size=4), 4 * batches)
    assert math.ceil(batches / found) == math.ceil(batches / times)
    if step % math.ceil(batches / times):
        assert found == times


@pytest.mark.parametrize(
    ("max_steps", "total_epochs", "limited"),
    [(20, 1.0, True), (58, 1.0, False), (174, 3.0, False), (29, 1.0, True), (None, 1.0, False)],
)
def test_a_run_that_was_to_end_within_an_epoch_keeps_its_number_of_steps(
    max_steps: int | None, total_epochs: float, limited: bool
) -> None:
    known = replace(checkpoint({1: 1e-4}, max_steps), step=10, epoch=10 / 58, total_epochs=total_epochs)
    assert known.was_limited is limited


def test_a_run_that_did_all_its_steps_has_nothing_left_and_its_epochs_are_those_it_came_to() -> None:
    done = replace(checkpoint({1: 1e-4}, 13), step=13, epoch=1.3, total_epochs=2.0)
    assert (done.planned_epochs, done.remaining_epochs) == (pytest.approx(1.3), 0.0)
    before = replace(done, step=10, epoch=1.0)
    assert (before.planned_epochs, before.remaining_epochs) == (pytest.approx(1.3), pytest.approx(0.3))
    rounded = replace(checkpoint({1: 1e-4}, 932), step=932, epoch=3.9957, total_epochs=4.0)
    assert (rounded.planned_epochs, rounded.remaining_epochs) == (4.0, 0.0)


@given(
    rows=st.integers(4, 900), times=st.integers(1, 16), size=st.integers(1, 8), share=st.floats(0.01, 1), epochs=st.integers(1, 4),
    drops=st.booleans(),
)  # fmt: skip
def test_no_run_over_these_rows_is_said_to_be_over_others(
    rows: int, times: int, size: int, share: float, epochs: int, drops: bool
) -> None:
    """The epoch as transformers' Trainer counts it, of all versions: what is left over for no whole step is one, or is dropped."""
    batches = math.ceil(rows / size)
    each = max(1, batches // times) if drops else math.ceil(batches / times)
    step = max(1, round(share * epochs * each))
    whole, into = divmod(step, each)
    epoch = whole + min(batches, into * times) / batches
    known = replace(checkpoint({1: 1e-4}, 100_000), step=step, epoch=epoch, batch_size=size)
    assert misfit(known, rows) is None
    assert misfit(replace(known, epoch=round(epoch, 2) or 0.01), rows) is None or round(epoch, 2) == 0


def test_a_run_of_more_steps_an_epoch_than_these_rows_make_is_over_others() -> None:
    known = replace(checkpoint({1: 1e-4}, 100), step=45, epoch=3.0, batch_size=4)
    assert misfit(known, 26) is not None
    assert misfit(replace(known, batch_size=None), 26) is None


@given(
    scheduler=st.sampled_from(["linear", "cosine", "constant"]),
    total=st.integers(20, 200_000),
    warm=st.floats(0, 1.5),
    done=st.floats(0.05, 0.95),
    every=st.sampled_from([1, 10, 500, None]),
)
@example(scheduler="linear", total=20, warm=1.0, done=0.5, every=500)
def test_the_saved_rate_and_what_was_logged_give_the_rates_ahead_or_it_is_said_to_be_unsure(
    scheduler: str, total: int, warm: float, done: float, every: int | None
) -> None:
    warmup, step, peak = int(warm * total), max(1, int(done * total)), 3e-4
    config = RunConfig(scheduler=scheduler, learning_rate=peak, warmup=warmup)
    steps = range(every, min(step, 40 * every) + 1, every) if every else ()
    rated = [LogRow(at, None, 1.0, None, learning_rate_at(config, total, at - 1)) for at in steps]
    found = _of_saved(SavedRates(step, peak, learning_rate_at(config, total, step)), rated, total)
    assert found is not None
    guess = RunConfig(scheduler=found.scheduler, learning_rate=found.learning_rate, warmup=found.warmup_steps)
    same = all(
        math.isclose(
            learning_rate_at(guess, total, at), learning_rate_at(config, total, at), rel_tol=1e-3, abs_tol=1e-3 * peak
        )
        for at in range(step, total, max(1, total // 50))
    )
    # A kind that is not taken is named. Half way up a warmup over the whole run stands where half a linear descent does.
    assert same or scheduler in found.others or (scheduler == found.scheduler and found.others)


@pytest.mark.parametrize("left", [1e-21, 5e-324])
def test_a_saved_rate_of_almost_nothing_is_no_error(left: float) -> None:
    assert _of_saved(SavedRates(5, 3e-4, left), [], 10) is None
