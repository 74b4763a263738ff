"""Advice: what a loss means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.training.advice import advise


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
