"""Choosing: epoch, then step; and every one that was passed over says why."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.checkpoint import AdapterShape, Checkpoint, Grade, Problem
from engine.checkpoints.choose import WHOLE_MODEL, base_fallback, choose, last_good, weights_fallback
from engine.sizes import loss_words
from tests.engine.checkpoints.test_lineage import made

LORA = AdapterShape("LORA", 4, 8.0, ("q_proj",), None, {})


def at(epoch: float | None, step: int | None, grade: Grade = Grade.COMPLETE, **more: object) -> Checkpoint:
    """One at this place."""
    sound = grade in (Grade.COMPLETE, Grade.PROVEN)
    problems = () if sound else (Problem("x", "Something is wrong."),)
    base = made(f"checkpoint-{step}", [], step=step or 0, continuable=sound, problems=problems, adapter=LORA, grade=grade)
    return replace(base, epoch=epoch, step=step, **more)  # type: ignore[arg-type]


checkpoints = st.lists(
    st.builds(
        at,
        st.none() | st.sampled_from([0.1, 1.0, 2.9]),
        st.integers(0, 400),
        st.sampled_from(Grade),
        saved_at=st.floats(0, 2e9),
        run=st.sampled_from(["a", "b"]),
    ),
    unique_by=lambda checkpoint: checkpoint.name,
)


def far(checkpoint: Checkpoint) -> tuple[float, int]:
    return (-1.0 if checkpoint.epoch is None else checkpoint.epoch, checkpoint.step or 0)


@given(checkpoints)
def test_the_chosen_one_is_the_furthest_that_can_be_continued(found: list[Checkpoint]) -> None:
    chosen = choose(found).checkpoint
    assert (chosen is None) == (not any(one.continuable for one in found))
    if chosen is not None:
        assert chosen.continuable and all(far(one) <= far(chosen) for one in found if one.continuable)


@given(checkpoints)
def test_each_one_that_is_further_along_says_why_it_was_passed_over(found: list[Checkpoint]) -> None:
    choice = choose(found)
    further = {one.name for one in found if choice.checkpoint is None or far(one) > far(choice.checkpoint)}
    assert further <= {passed.checkpoint.name for passed in choice.passed_over}
    assert all(passed.reason for passed in choice.passed_over)


@given(checkpoints, st.randoms())
def test_times_and_order_do_not_matter(found: list[Checkpoint], random: object) -> None:
    mixed = [replace(one, saved_at=float(number)) for number, one in enumerate(found)]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = choose(found).checkpoint, choose(mixed).checkpoint
    assert (one and one.name) == (other and other.name)


def test_steps_decide_only_within_an_epoch() -> None:
    assert choose([at(0.5, 900), at(2.9, 327), at(2.9, 326)]).checkpoint == at(2.9, 327)


def test_another_run_is_left_out_with_the_reason() -> None:
    choice = choose([at(1.0, 10, run="a"), at(5.0, 50, run="b")], run="a")
    assert choice.checkpoint == at(1.0, 10, run="a")
    assert [passed.checkpoint.name for passed in choice.passed_over] == ["checkpoint-50"] and "b" in choice.passed_over[
        0
    ].reason


def test_what_the_caller_refuses_is_passed_over_with_its_reason() -> None:
    choice = choose([at(1.0, 10), at(2.0, 20)], refuse=lambda one: "another base model" if one.step == 20 else None)
    assert choice.checkpoint == at(1.0, 10) and choice.passed_over[0].reason == "another base model"


def test_other_runs_are_named_in_the_reason() -> None:
    assert "(b)" in choose([at(1.0, 10, run="a"), at(0.5, 5, run="b")]).reason


def test_where_nothing_can_be_continued_the_best_weights_are_named() -> None:
    found = [at(2.0, 20, Grade.WEIGHTS_ONLY), at(1.0, 10, Grade.WEIGHTS_ONLY), at(3.0, 30, Grade.BROKEN)]
    choice = choose(found)
    assert choice.checkpoint is None and "checkpoint-20" in choice.reason and "--init-from" in choice.reason
    assert weights_fallback(found) == found[0] and len(choice.passed_over) == 3


def test_one_with_a_higher_number_that_does_not_say_how_far_it_had_come_says_why_it_was_passed_over() -> None:
    torn = replace(at(None, None, Grade.WEIGHTS_ONLY, run="run-2"), name="checkpoint-14", history=())
    choice = choose([at(1.0, 10, run="run-1"), torn])
    assert choice.checkpoint == at(1.0, 10, run="run-1")
    assert [(passed.checkpoint.name, passed.reason) for passed in choice.passed_over] == [
        ("checkpoint-14", "Only its weights can be used. Something is wrong.")
    ]
    assert "1 that does not say how far it had come was passed over" in choice.reason and "run-2" not in choice.reason


def test_one_with_a_lower_number_that_does_not_say_how_far_it_had_come_is_not_passed_over() -> None:
    torn = replace(at(None, None, Grade.BROKEN), name="checkpoint-9")
    assert choose([at(1.0, 10), torn]).passed_over == ()


def test_an_empty_folder_is_said_to_be_empty() -> None:
    choice = choose([])
    assert choice.checkpoint is None and choice.passed_over == () and choice.reason


def test_one_that_is_broken_is_passed_over_for_that_whosever_it_was() -> None:
    choice = choose([at(1.0, 10, run="a"), at(5.0, 50, Grade.BROKEN, run="run-1")], run="a")
    assert choice.passed_over[0].reason == "It is broken. Something is wrong."


@given(st.floats(1e-99, 1e99) | st.just(0.0))
def test_a_loss_is_rounded_to_its_column_and_never_cut(loss: float) -> None:
    words = loss_words(loss)
    assert len(words) <= 7
    assert float(words) == pytest.approx(loss, rel=0.06)


@pytest.mark.parametrize(
    ("loss", "words"), [(0.000012, "1.2e-05"), (0.00988, "0.00988"), (0.0288, "0.0288"), (4.8781, "4.88")]
)
def test_the_reason_writes_a_loss_as_everywhere_else(loss: float, words: str) -> None:
    assert loss_words(loss) == words
    assert f"loss {words}." in choose([at(1.0, 10, loss=loss)]).reason


def test_the_last_good_one_is_the_furthest_of_the_run_up_to_the_step_that_can_be_continued() -> None:
    good = at(1.0, 10, run="a")
    found = [at(0.5, 5, run="a"), good, at(1.2, 12, Grade.BROKEN, run="a"), at(1.4, 14, run="b"), at(1.6, 16, run="a")]
    assert last_good(found, "a", 15) == good
    assert last_good(found, "a", 10) == good, "saved at that very step"
    assert last_good(found, "a", 4) is None


def whole(epoch: float, step: int, grade: Grade) -> Checkpoint:
    return at(epoch, step, grade, adapter=None, problems=(Problem(WHOLE_MODEL, "A whole model."),))


def test_where_only_whole_models_are_the_furthest_sound_one_is_named_as_a_base() -> None:
    found = [whole(1.0, 10, Grade.WEIGHTS_ONLY), whole(2.0, 20, Grade.WEIGHTS_ONLY), whole(3.0, 30, Grade.BROKEN)]
    assert base_fallback(found) == found[1]
    assert "checkpoint-20" in choose(found).reason and "--model" in choose(found).reason


def test_an_adapter_that_would_import_code_is_none_to_start_from() -> None:
    unfit = at(2.0, 20, Grade.WEIGHTS_ONLY, problems=(Problem("adapter_config_imports", "It imports."),))
    assert weights_fallback([at(1.0, 10, Grade.WEIGHTS_ONLY), unfit]) == at(1.0, 10, Grade.WEIGHTS_ONLY)


def test_the_reason_counts_those_further_along_that_were_passed_over() -> None:
    torn = [at(2.0, step, Grade.BROKEN) for step in (20, 21)]
    assert "2 that are further along were passed over" in choose([at(1.0, 10), *torn]).reason
    assert "passed over" not in choose([at(1.0, 10), at(0.5, 5, Grade.BROKEN)]).reason


def test_an_epoch_begun_anew_is_said_and_what_was_given_up_counts() -> None:
    anew = at(0.5, 30, manifest=SimpleNamespace(run_id="a", cursor=SimpleNamespace(given_up=0.75)))
    choice = choose([at(1.0, 20), anew])
    assert choice.checkpoint == anew and "begun anew" in choice.reason
    plain = at(2.0, 40, manifest=SimpleNamespace(run_id="a", cursor=SimpleNamespace(given_up=0.0)))
    assert "begun anew" not in choose([plain]).reason
