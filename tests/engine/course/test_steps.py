from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.config import RunConfig
from engine.course.steps import (
    Length,
    Position,
    chosen_batch_size,
    learning_rate_at,
    position_at,
    run_length,
    save_interval,
    warmup_note,
    warmup_steps,
)

rows_ = st.integers(1, 500)
batch_ = st.integers(1, 64)
epochs_ = st.integers(1, 6) | st.floats(0.1, 6)


def walk(rows: int, batch: int, at: Position, steps: int) -> Position:
    """Where a run stands after `steps` more steps."""
    for _step in range(steps):
        done = at.rows_consumed + batch
        at = Position(at.step + 1, at.epoch + 1, 0) if done >= rows else Position(at.step + 1, at.epoch, done)
    return at


@given(rows_, batch_, epochs_, st.data())
def test_the_length_is_the_same_from_wherever_it_is_counted(
    rows: int, batch: int, epochs: float, data: st.DataObject
) -> None:
    config = RunConfig(epochs=epochs)
    whole = run_length(config, rows, batch, Position(0, 0, 0))
    at = walk(rows, batch, Position(0, 0, 0), data.draw(st.integers(0, min(whole.total_steps, 300))))
    assert run_length(config, rows, batch, at).total_steps == whole.total_steps


@given(rows_, batch_, st.integers(1, 6))
def test_whole_epochs_end_with_their_rows(rows: int, batch: int, epochs: int) -> None:
    length = run_length(RunConfig(epochs=epochs), rows, batch, Position(0, 0, 0))
    assert length == Length(epochs * math.ceil(rows / batch), epochs, math.ceil(rows / batch))


@given(rows_, batch_, st.integers(1, 400), st.data())
def test_max_steps_is_the_length_and_its_epochs_are_where_it_ends(
    rows: int, batch: int, steps: int, data: st.DataObject
) -> None:
    config = RunConfig(max_steps=steps)
    end = walk(rows, batch, Position(0, 0, 0), steps).epochs(rows)
    at = walk(rows, batch, Position(0, 0, 0), data.draw(st.integers(0, min(steps, 100))))
    length = run_length(config, rows, batch, at)
    assert length.total_steps == steps
    assert math.isclose(length.total_epochs, end)


@given(rows_, batch_, batch_, st.integers(1, 4), st.data())
def test_another_batch_size_ends_at_the_same_epoch(rows: int, old: int, new: int, epochs: int, data: st.DataObject) -> None:
    config = RunConfig(epochs=epochs)
    steps = data.draw(st.integers(0, min(run_length(config, rows, old, Position(0, 0, 0)).total_steps, 200)))
    at = walk(rows, old, Position(0, 0, 0), steps)
    assume(at.epoch < epochs)
    length = run_length(config, rows, new, at)
    assert walk(rows, new, at, length.total_steps - at.step) == Position(length.total_steps, epochs, 0)


@given(rows_, batch_)
def test_no_share_of_an_epoch_is_so_small_that_nothing_would_be_trained(rows: int, batch: int) -> None:
    assert run_length(RunConfig(epochs=1e-12), rows, batch, Position(0, 0, 0)).total_steps == 1


def test_auto_saves_four_times_an_epoch_and_at_least_every_500_steps() -> None:
    assert [save_interval(RunConfig(), steps) for steps in (1, 4, 109, 10_000)] == [1, 1, 28, 500]


@given(st.integers(1, 500), st.floats(0, 0.999))
def test_a_share_of_warmup_is_never_the_whole_run(total: int, share: float) -> None:
    warmup = warmup_steps(RunConfig(warmup=share), total)
    assert warmup == min(math.ceil(share * total), total - 1)
    assert learning_rate_at(RunConfig(warmup=share), total, total - 1) > 0


@pytest.mark.parametrize(
    ("epoch", "position"),
    [(0.0, Position(7, 0, 0)), (0.5, Position(7, 0, 5)), (1.99, Position(7, 2, 0)), (2.0, Position(7, 2, 0)),
     (2 - 1e-12, Position(7, 2, 0)), (2.11, Position(7, 2, 1))],
)  # fmt: skip
def test_the_epoch_of_another_tool_is_a_place_in_the_rows(epoch: float, position: Position) -> None:
    assert position_at(7, epoch, 10) == position


def test_an_epoch_begun_anew_keeps_its_number_and_what_was_given_up() -> None:
    once = Position(9, 2, 5).begun_anew(10)
    assert once == Position(9, 2, 0, 0.5)
    assert Position(9, 2, 5, 0.5).begun_anew(20).given_up == 0.75


@pytest.mark.parametrize(("rows", "saved", "size"), [(100, None, 8), (3, None, 3), (0, None, 1), (100, 5, 5)])
def test_an_automatic_batch_has_eight_rows_but_no_more_than_there_are_and_is_kept(
    rows: int, saved: int | None, size: int
) -> None:
    assert chosen_batch_size(RunConfig(), rows, saved)[0] == size


@pytest.mark.parametrize(("rows", "size"), [(100, 6), (4, 4), (0, 1)])
def test_a_batch_that_was_asked_for_wins_over_the_saved_one(rows: int, size: int) -> None:
    assert chosen_batch_size(RunConfig(batch_size=6), rows, 5)[0] == size


def test_warmup_from_one_on_is_a_number_of_steps() -> None:
    assert [warmup_steps(RunConfig(warmup=steps), 100) for steps in (1, 7)] == [1, 7]


def test_a_run_that_is_past_its_end_has_no_steps_left() -> None:
    assert run_length(RunConfig(epochs=2), 10, 2, Position(13, 2, 6)) == Length(13, 2.6, 5)
    assert run_length(RunConfig(max_steps=8), 10, 2, Position(13, 2, 6)) == Length(13, 2.6, 5)


def test_a_part_of_an_epoch_ends_where_it_ends_wherever_it_is_counted() -> None:
    totals = [run_length(RunConfig(epochs=1.5), 10, 2, Position(5 + step, 1, 2 * step)).total_steps for step in range(4)]
    assert totals == [8, 8, 8, 8]


@pytest.mark.parametrize(
    ("warmup", "total", "told"),
    [(10, 10, True), (11, 10, True), (9, 10, False), (0.99, 10, False), (0.5, 1, False), (1, 1, True), (5, 0, False)],
)
def test_a_warmup_that_outlasts_the_run_is_told(warmup: float, total: int, told: bool) -> None:
    config = RunConfig(warmup=warmup)
    assert (warmup_note(config, total) is not None) == told
    assert told == (total > 0 and max(learning_rate_at(config, total, step) for step in range(total)) < config.learning_rate)
