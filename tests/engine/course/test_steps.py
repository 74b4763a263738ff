from __future__ import annotations

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from engine.config import RunConfig
from engine.course.steps import Length, Position, learning_rate_at, run_length, save_interval, warmup_steps

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
