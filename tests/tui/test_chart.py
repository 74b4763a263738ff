"""The loss chart as a function from points to lines of text."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tui.widgets.chart import Line, Picture, draw

LOSSES = st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(st.tuples(st.integers(0, 10**7), LOSSES), max_size=60).map(lambda points: sorted(dict(points).items()))
PICTURES = st.builds(
    lambda points, evals, band, join, last: Picture(
        (Line(points, "loss", "*"), Line(evals, "eval", "o", joined=False)), (0.1, 0.3) if band else None, join, last
    ),
    POINTS, POINTS, st.booleans(), st.none() | st.integers(0, 10**7), st.none() | st.integers(0, 10**7),
)  # fmt: skip


def rows(picture: Picture, width: int = 70, height: int = 16, ascii_only: bool = False) -> list[str]:
    return ["".join(text for text, _style in row) for row in draw(picture, width, height, ascii_only)]


def curve(*losses: float) -> Picture:
    return Picture((Line(list(enumerate(losses, 1)), "loss", "*"),))


def ticks(picture: Picture, **size: int) -> dict[float, int]:
    """Loss -> row of each label on the left axis."""
    return {float(line[:5]): number for number, line in enumerate(rows(picture, **size)[:-2]) if line[:5].strip()}


def marked(picture: Picture, mark: str, width: int = 70, height: int = 16) -> list[tuple[int, int]]:
    """(row, column) of each cell that holds `mark`."""
    lines = rows(picture, width, height, ascii_only=True)[:-2]
    return [(row, column) for row, line in enumerate(lines) for column, one in enumerate(line) if one == mark]


@given(PICTURES, st.integers(0, 200), st.integers(0, 60), st.booleans())
def test_it_fills_exactly_its_place(picture: Picture, width: int, height: int, ascii_only: bool) -> None:
    assert [len(row) for row in rows(picture, width, height, ascii_only)] == [width] * height


@example(Picture((Line([(0, 1.000001e29)], "loss", "*"),), (0.1, 0.3)), 16, 3)
@given(PICTURES, st.integers(16, 120), st.integers(3, 40))
def test_with_ascii_there_is_nothing_else(picture: Picture, width: int, height: int) -> None:
    assert all(row.isascii() for row in rows(picture, width, height, ascii_only=True))


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40), st.integers(5, 40))
def test_labels_stand_in_the_order_of_their_losses(losses: list[float], height: int) -> None:
    found = ticks(curve(*losses), height=height)
    assert [value for value, _row in sorted(found.items(), key=lambda item: item[1])] == sorted(found, reverse=True)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=40).filter(lambda losses: max(losses) > 1.5 * min(losses)))
def test_there_are_always_labels(losses: list[float]) -> None:
    assert ticks(curve(*losses))


@pytest.mark.parametrize("loss", [0.1, 0.5, 2.0, 5.0])
def test_a_point_on_a_labelled_loss_is_in_the_row_of_the_label(loss: float) -> None:
    picture = Picture((Line([(1, 8.0), (2, 0.05)], "loss", "*", joined=False), Line([(3, loss)], "eval", "o", joined=False)))
    ((row, _column),) = marked(picture, "o")
    assert ticks(picture)[loss] == row


def test_a_wide_span_is_drawn_logarithmically() -> None:
    found = ticks(curve(8.0, 0.05), height=26)
    assert abs((found[0.1] - found[1.0]) - (found[0.5] - found[5.0])) <= 1


def test_a_narrow_span_is_drawn_from_zero() -> None:
    assert 0.0 in ticks(curve(2.0, 1.0))


def test_a_falling_loss_falls() -> None:
    places = marked(curve(8.0, 6.0, 4.0, 2.0), "*")
    assert min(places)[1] < max(places)[1]


def test_what_is_not_a_number_leaves_a_gap_and_no_trace() -> None:
    assert rows(curve(2.0, math.nan, 1.0)) == rows(Picture((Line([(1, 2.0), (3, 1.0)], "loss", "*"),)))


def test_the_join_stands_at_its_step() -> None:
    picture = Picture(curve(*[2.0] * 101).lines, join=51)
    columns = {column for _row, column in marked(picture, "|") if column > 7}
    assert columns == {7 + round(50 / 100 * (2 * 63 - 1)) // 2}


def test_the_band_covers_the_losses_one_aims_for() -> None:
    picture = Picture((Line([(1, 1.0)], "loss", "*"),), band=(0.1, 0.3))
    found = ticks(picture, height=26)
    covered = {row for row, _column in marked(picture, ":", height=26)}
    assert found[0.2] in covered
    assert found[0.4] not in covered


def test_without_a_point_it_is_empty() -> None:
    assert {row.strip() for row in rows(Picture(()))} == {""}


def test_the_axis_reaches_to_the_last_step_that_is_planned() -> None:
    assert rows(Picture(curve(2.0, 1.0).lines, last_step=339))[-1].split()[-1] == "339"


@given(st.floats(2.5, 99), st.integers(6, 30))
def test_where_a_run_begins_is_labelled_however_low_the_chart(first: float, height: int) -> None:
    picture = Picture((Line([(1, first), (2, 0.101)], "loss", "*"),), band=(0.1, 0.3))
    found = ticks(picture, height=height)
    assert max(found) >= first / 2.01 or 0 in found.values()
