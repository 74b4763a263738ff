"""Advice: what a loss means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.course.advice import advise, eval_is_rising, has_reached, likely_causes


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


@pytest.mark.parametrize("evals", [[0.8, 0.79, 1.1], [0.8, 1.2, 1.1], [0.8, 0.81, 0.87], [0.8, 1.1]])
def test_an_eval_loss_is_rising_only_when_the_last_two_are_above_the_lowest_and_not_coming_down(evals: list[float]) -> None:
    assert not eval_is_rising(evals)
    assert eval_is_rising([0.8, 0.9, 0.9])


def test_a_steady_training_loss_is_not_falling() -> None:
    assert advise([0.2] * 20, [0.8, 0.9, 1.1]).state == "reached"


def test_an_eval_loss_that_is_no_number_is_passed_over() -> None:
    train = [2 - step / 25 for step in range(40)]
    assert advise(train, [1.0, 0.8, math.nan, 0.9, 1.1, math.inf]).state == "overfitting"


def test_two_lucky_logs_are_no_goal() -> None:
    assert [has_reached([0.2] * logs, 0.2) for logs in (2, 3)] == [False, True] and not has_reached([0.2] * 5, 0)


def test_a_loss_off_its_path_is_told_before_how_low_it_is() -> None:
    assert advise([0.2] * 20).state == "reached"
    assert (
        advise([0.2] * 20, off_path=True).state == "unknown" and "left its path" in advise([0.2] * 20, off_path=True).message
    )


def test_the_likeliest_cause_of_a_reset_is_what_was_changed() -> None:
    causes = likely_causes("reset_at_resume", {"optimizer": "changed", "dataset": "changed", "rng": "restored"})
    assert "other rows" in causes[0] and "optimizer" in causes[1] and "dataset" not in causes[1] and len(causes) == 2


def test_items_that_cannot_move_the_loss_are_no_cause_of_a_reset() -> None:
    (cause,) = likely_causes("reset_at_resume", {"versions": "changed", "quantization": "unknown", "optimizer": "restored"})
    assert "Everything was restored" in cause


def test_what_could_not_be_compared_is_a_cause_only_at_the_join() -> None:
    at_join = likely_causes("reset_at_resume", {"dataset": "unknown", "optimizer": "restored"})
    assert (
        "--train-on all" in at_join[0]
        and "Could not be compared when continuing: dataset." in at_join[1]
        and len(at_join) == 2
    )
    assert len(likely_causes("spike", {"dataset": "unknown"})) == 1


def test_a_reset_without_a_receipt_asks_whether_the_state_is_the_saved_one() -> None:
    (cause,) = likely_causes("reset_at_resume")
    assert "not the saved one" in cause


@pytest.mark.parametrize(("rate", "told"), [(1.5e-4, False), (1.6e-4, True), (None, False)])
def test_a_learning_rate_that_went_up_clearly_is_a_cause(rate: float | None, told: bool) -> None:
    causes = likely_causes("spike", None, rate, 1e-4)
    assert any("went up from 0.0001" in cause for cause in causes) == told


def test_each_kind_of_jump_has_causes_of_its_own() -> None:
    kinds = [likely_causes(kind, rate=3e-3) for kind in ("non_finite", "divergence", "spike")]
    assert "float16" in kinds[0][0] and "(0.003)" in kinds[1][0] and "One batch" in kinds[2][0]


def test_a_loss_that_no_longer_falls_is_told_more_than_to_keep_going() -> None:
    falling = [2 - step / 30 for step in range(40)]
    stuck = falling[:10] + [1.7 - step / 1000 for step in range(30)]
    assert "keep going" in advise(falling).message and "before" not in advise(falling).message
    assert "(1.7 before)" in advise(stuck).message and advise(stuck).state == "keep_going"
    assert "before" not in advise(stuck[:19]).message
