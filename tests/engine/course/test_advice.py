"""Advice: what a loss means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.course.advice import advise, has_reached


@pytest.mark.parametrize(
    ("loss", "state"),
    [(4.44, "keep_going"), (0.51, "keep_going"), (0.4, "keep_going"), (0.3, "reached"), (0.17, "reached"), (0.1, "reached"),
     (0.09, "overfitting"), (0.0, "overfitting"), (-0.1, "unknown")],
)  # fmt: skip
def test_a_steady_loss_has_its_state(loss: float, state: str) -> None:
    assert advise([loss] * 20).state == state


def test_no_loss_says_nothing() -> None:
    assert advise([]).state == "unknown" and advise([math.nan]).state == "unknown"


def test_nearly_there_is_told_in_its_own_words() -> None:
    assert advise([0.4] * 9).message != advise([0.9] * 9).message.replace("0.9", "0.4")


def test_one_lucky_log_is_not_the_goal() -> None:
    assert advise([0.8] * 12 + [0.2]).state == "keep_going"


def test_an_eval_loss_that_rises_while_training_falls_is_overfitting() -> None:
    train = [2 - step / 25 for step in range(40)]
    assert advise(train, [1.0, 0.8, 0.9, 1.1]).state == "overfitting"
    assert advise(train, [1.0, 0.9, 0.8, 0.82]).state == "keep_going"
    assert advise(train[::-1], [1.0, 0.8, 0.9, 1.1]).state == "keep_going"


@given(st.lists(st.floats()), st.lists(st.floats()))
def test_there_is_always_an_answer(losses: list[float], evals: list[float]) -> None:
    advice = advise(losses, evals)
    assert advice.state in ("keep_going", "reached", "overfitting", "unknown") and advice.message


def test_the_history_in_a_checkpoint_is_bounded_and_keeps_what_was_logged_last() -> None:
    from engine.training.callback import LOGS_KEPT, thin

    history: list[int] = []
    for step in range(100_000):
        history.append(step)
        thin(history)
    assert len(history) <= LOGS_KEPT
    assert history == sorted(set(history)) and history[0] == 0
    assert history[-LOGS_KEPT // 4 :] == list(range(100_000 - LOGS_KEPT // 4, 100_000))


def test_a_short_history_is_left_as_it_is() -> None:
    from engine.training.callback import thin

    history = list(range(5000))
    thin(history)
    assert history == list(range(5000))


def test_a_loss_of_exactly_zero_is_no_goal_and_points_at_the_data() -> None:
    assert has_reached([0.2] * 5, 0.3) and not has_reached([0.0] * 20, 0.3)
    assert "masked" in advise([0.0] * 20).message and advise([0.0] * 20).state == "overfitting"
