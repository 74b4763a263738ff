from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.training import probe
from engine.training.probe import MAX_TOKENS, MIN_TOKENS, ProbeRow, affordable


def row(labels: list[int], digest: str = "00") -> ProbeRow:
    return ProbeRow(digest, list(range(len(labels))), labels)


@given(st.lists(st.sampled_from([-100, 7]), min_size=2, max_size=MAX_TOKENS + 40), st.integers(2, MAX_TOKENS))
def test_a_cut_row_still_has_something_to_score(labels: list[int], tokens: int) -> None:
    if 7 not in labels[1:MAX_TOKENS]:
        return
    cut = row(labels).cut(tokens)
    assert len(cut.input_ids) == len(cut.labels) <= tokens
    assert 7 in cut.labels[1:]


def test_a_row_without_labels_that_a_manifest_names_can_be_cut() -> None:
    assert row([-100] * 40).cut(16).input_ids == list(range(24, 40))


def test_a_row_that_is_not_cut_is_itself() -> None:
    whole = row([-100, 7, 7])
    assert whole.cut(None) is whole


@pytest.mark.parametrize(
    ("seconds", "rows", "tokens"), [(0.001, 3, None), (0.015, 1, None), (0.08, 1, "some"), (5, 1, MIN_TOKENS)]
)
def test_what_is_scored_fits_the_budget(monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int, tokens: Any) -> None:
    clock = [0.0]

    def score(model: Any, scored: Any) -> float:
        clock[0] += seconds * len(scored)
        return 1.0

    monkeypatch.setattr(probe, "score", score)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    found = affordable(None, [row([7] * 100, digest) for digest in ("00", "01", "02")])
    assert len(found) == rows
    assert found[0].tokens == (25 if tokens == "some" else tokens)


@given(st.lists(st.sampled_from([-100, 7]), min_size=2, max_size=MAX_TOKENS + 40))
def test_what_a_manifest_keeps_of_a_row_is_what_was_scored(labels: list[int]) -> None:
    whole = row([label if label == -100 else index for index, label in enumerate(labels)])
    again = ProbeRow.read(whole.digest, whole.written(), whole.tokens)
    assert (again.input_ids, again.labels) == (whole.input_ids[:MAX_TOKENS], whole.labels[:MAX_TOKENS])
