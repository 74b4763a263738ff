"""What a loss that was only logged says of the one that is scored now."""

from __future__ import annotations

import pytest

from engine.training.logged_probe import Logged, Scored, judged

FELL = Logged(3.9, 1.0)


def verdict(
    here: Scored, other: Scored | None = None, logged: Logged | None = FELL, precision: str = "float32", **more: bool
) -> str:
    return judged(here, other, logged, 15, precision, more.get("asked", False)).verdict


def test_an_adapter_without_effect_is_refused_however_little_was_logged() -> None:
    still = Scored("all", 4.5, 4.5)
    assert verdict(still, logged=None) == verdict(still, logged=Logged(4.45, 0.0)) == "failed"
    assert judged(still, None, None, 0, "float32", asked=False).verdict == "unknown", "no step was done at a rate above zero"


def test_in_few_digits_an_early_adapter_may_give_the_base_models_loss() -> None:
    assert verdict(Scored("all", 4.5, 4.5), logged=Logged(4.45, 0.0), precision="bfloat16") == "unknown"


def test_an_adapter_that_makes_the_base_model_worse_is_refused_where_the_log_had_fallen() -> None:
    worse = Scored("all", 4.47, 4.38)
    assert verdict(worse) == "failed"
    assert verdict(worse, logged=Logged(4.3, 0.1)) == "unknown"
    assert verdict(Scored("all", 4.49, 4.5)) == "failed", "it has hardly any effect, and lies no nearer than the base model"


def test_an_adapter_that_began_above_the_base_model_and_is_where_its_log_says_is_not_refused() -> None:
    """Such as one whose weights all began at random: its log fell, and is not below the base model's loss yet."""
    item = judged(Scored("all", 3.55, 2.96), None, Logged(3.55, 0.6), 15, "float32", asked=False)
    assert item.verdict == "unknown" and "it lies within" in item.detail
    assert verdict(Scored("all", 9.0, 2.96), logged=Logged(3.55, 0.6)) == "failed", "it is not where its log says"


def test_no_finite_loss_is_refused() -> None:
    assert verdict(Scored("all", float("nan"), 4.5)) == "failed"


@pytest.mark.parametrize("now", [3.3, 3.9, 4.1])
def test_what_lies_near_the_logged_loss_is_said_to_with_its_bounds(now: float) -> None:
    item = judged(Scored("all", now, 5.5), None, FELL, 15, "float32", asked=False)
    assert item.verdict == "unknown" and "within 1.07 of the logged loss" in item.detail


def test_what_does_not_lie_near_it_is_not_said_to() -> None:
    item = judged(Scored("all", 6.1, 8.4), Scored("assistant", 9.0, 9.9), FELL, 15, "float32", asked=False)
    assert item.verdict == "unknown" and "does not lie within 1.07" in item.detail
    assert "With --train-on assistant it is 9.0000 (base 9.9000)" in item.detail
    half = judged(Scored("all", 4.3, 4.6), None, FELL, 15, "float32", asked=False)
    assert "43% of the way" in half.detail


def test_a_log_of_other_tokens_is_refused_with_the_words_that_go_on_unless_somebody_chose() -> None:
    here, other = Scored("assistant", 6.1, 8.4), Scored("all", 3.4, 4.5)
    item = judged(here, other, FELL, 15, "float32", asked=False)
    assert item.verdict == "failed" and "--train-on all" in item.way and "--train-on assistant" in item.way
    assert verdict(here, other, asked=True) == "changed"
    assert verdict(Scored("assistant", 4.2, 8.4), other) == "unknown", "both are near"


def test_of_two_ways_to_count_the_one_that_lies_near_the_log_is_the_runs() -> None:
    """However far the other: early in a run both are not far, and TRL, which counts all, is the more likely."""
    assert verdict(Scored("assistant", 4.99, 7.1), Scored("all", 2.96, 4.6), Logged(3.51, 1.0)) == "failed"
    assert verdict(Scored("assistant", 5.2, 7.1), Scored("all", 1.9, 2.4), Logged(3.51, 1.0)) == "unknown", "neither is near"


def test_of_two_that_are_not_near_the_one_that_came_by_the_log_on_its_way_is_the_runs() -> None:
    """Logged every 10 steps, a loss that falls fast is far below the last window by now; above it, it cannot have come by there."""
    assert verdict(Scored("assistant", 5.2, 7.1), Scored("all", 1.9, 4.6), Logged(3.51, 1.0)) == "failed"
    assert verdict(Scored("all", 1.9, 4.6), Scored("assistant", 5.2, 7.1), Logged(3.51, 1.0)) == "unknown", (
        "it came by there"
    )
    assert verdict(Scored("assistant", 1.9, 7.1), Scored("all", 1.8, 4.6), Logged(3.51, 1.0)) == "unknown", "both did"
