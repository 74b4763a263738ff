"""Where rows go: held back or trained on, and in which order; both are pure functions of what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import RunConfig
from engine.data.dataset import held_back_notes, read_dataset
from engine.data.order import next_batch_digest, row_order
from engine.data.split import split as split_digests
from tests.conftest import write_jsonl
from tests.engine.data.rows import digests_of


def split(rows: list[dict[str, Any]], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    train, held = split_digests(digests_of(rows), fraction, seed)
    return train.tolist(), held.tolist()


LENGTHS = st.lists(st.integers(1, 5000), max_size=700)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000), LENGTHS)
def test_an_epoch_is_a_permutation_of_the_rows(seed: int, epoch: int, lengths: list[int]) -> None:
    order = row_order(seed, epoch, np.array(lengths, dtype=np.int64))
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(len(lengths)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 100), LENGTHS)
def test_the_order_depends_on_nothing_but_seed_epoch_and_lengths(seed: int, epoch: int, lengths: list[int]) -> None:
    first = row_order(seed, epoch, np.array(lengths, dtype=np.int64))
    np.random.seed(1)
    assert np.array_equal(first, row_order(seed, epoch, np.array(lengths, dtype=np.int32)))


def test_the_order_is_the_one_of_all_versions() -> None:
    lengths = np.arange(1, 25) * 7 % 23 + 1
    assert row_order(42, 0, lengths).tolist() == ORDER


ORDER = [11, 21, 8, 18, 5, 15, 12, 2, 22, 9, 19, 6, 16, 3, 13, 0, 23, 10, 20, 7, 17, 4, 14, 1]


def lognormal(count: int = 480) -> Any:
    return np.random.default_rng(0).lognormal(4.5, 0.8, count).astype(np.int64) + 1


@pytest.mark.parametrize("count", [2, 26, 480])
def test_epochs_and_seeds_differ_in_order(count: int) -> None:
    lengths = lognormal(count) if count > 2 else np.array([3, 3])
    orders = {tuple(row_order(seed, epoch, lengths)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16 if count > 2 else len(orders) == 2


@pytest.mark.parametrize("epoch", range(5))
def test_batches_of_8_rows_are_padded_hardly_more_than_if_all_rows_were_sorted(epoch: int) -> None:
    lengths = lognormal()
    batches = lengths[row_order(42, epoch, lengths)].reshape(-1, 8)
    floor = np.sort(lengths).reshape(-1, 8)
    assert batches.max(axis=1).sum() <= 1.05 * floor.max(axis=1).sum()


def test_an_epoch_is_mixed_by_length() -> None:
    lengths = lognormal()
    ordered = lengths[row_order(42, 0, lengths)].astype(float)
    assert abs(np.corrcoef(np.arange(len(ordered)), ordered)[0, 1]) < 0.6
    assert not np.array_equal(np.sort(ordered), ordered)


def test_the_digest_of_a_batch_tells_its_rows_and_their_order() -> None:
    order = np.arange(20)
    digests = [next_batch_digest(order, 0, 4), next_batch_digest(order, 4, 4), next_batch_digest(order[::-1], 16, 4)]
    assert len(set(digests)) == 3
    assert next_batch_digest(order, 20, 4) == next_batch_digest(order[:0], 0, 4)


def texts(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"line {number}"} for number in range(start, start + count)]


@given(st.integers(0, 300), st.floats(0, 0.99), st.integers(0, 2**31 - 1))
def test_each_row_is_on_one_side(count: int, fraction: float, seed: int) -> None:
    train, held = split(texts(count), fraction, seed)
    assert sorted(train + held) == list(range(count)) and train == sorted(train) and held == sorted(held)


def test_the_held_back_share_is_about_the_asked_one() -> None:
    train, held = split(texts(2000), 0.1, 42)
    assert 150 < len(held) < 250 and len(train) + len(held) == 2000


def test_without_a_fraction_nothing_is_held_back() -> None:
    assert split(texts(5), 0.0, 1) == ([0, 1, 2, 3, 4], [])


@given(st.lists(st.integers(0, 20), min_size=2, max_size=60), st.floats(0.01, 0.9), st.integers(0, 1000))
def test_copies_of_a_row_stay_on_one_side(numbers: list[int], fraction: float, seed: int) -> None:
    rows = [{"text": str(number)} for number in numbers]
    train, held = split(rows, fraction, seed)
    assert not {numbers[index] for index in train} & {numbers[index] for index in held}


@given(st.integers(2, 40), st.floats(0.001, 0.999), st.integers(0, 1000))
def test_both_sides_have_rows_where_two_rows_differ(count: int, fraction: float, seed: int) -> None:
    train, held = split(texts(count), min(fraction, 0.99), seed)
    assert train and held


@pytest.mark.parametrize(("rows", "told"), [([{"text": "a"}], True), ([{"text": "a"}] * 4, True), (texts(2), False)])
def test_where_nothing_can_be_held_back_that_is_told(tmp_path: Path, rows: list[dict[str, str]], told: bool) -> None:
    config = RunConfig(dataset=str(write_jsonl(tmp_path / "rows.jsonl", rows)), eval_fraction=0.5)
    notes = held_back_notes(config, read_dataset(config))
    assert bool(notes) == told == ("no eval loss" in "".join(notes))
    assert held_back_notes(config.model_copy(update={"eval_fraction": 0.0}), read_dataset(config)) == ()


def test_rows_that_are_all_copies_are_all_trained_on() -> None:
    assert split([{"text": "a"}] * 4, 0.5, 1) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("seed", range(5))
def test_appending_rows_moves_none_to_the_other_side(seed: int) -> None:
    before = split(texts(200), 0.1, seed)
    after = split(texts(200) + texts(300, start=200), 0.1, seed)
    assert [index for index in after[0] if index < 200] == before[0]
    assert [index for index in after[1] if index < 200] == before[1]


def test_another_seed_holds_back_other_rows() -> None:
    assert split(texts(200), 0.1, 1)[1] != split(texts(200), 0.1, 2)[1]
