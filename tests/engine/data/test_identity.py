"""Whether a dataset is the one of last time, and how it differs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.manifest import DatasetIdentity
from engine.data import identity
from engine.data.identity import row_digest, template_digest, tokenizer_digest
from tests.conftest import chats, write_jsonl
from tests.engine.data.rows import digests_of, read_rows


def identify(rows: Sequence[dict[str, Any]]) -> DatasetIdentity:
    return identity.identify(digests_of(rows))


def compare(saved: DatasetIdentity, rows: Sequence[dict[str, Any]]) -> str:
    return identity.compare(saved, digests_of(rows))


ROWS = chats(9)


def test_the_same_rows_are_the_same() -> None:
    assert compare(identify(ROWS), [dict(row) for row in ROWS]) == "same"


def test_rows_behind_the_known_ones_are_appended() -> None:
    assert compare(identify(ROWS[:6]), ROWS) == "appended"


@pytest.mark.parametrize("gone", [0, 4, 8])
def test_fewer_rows_are_removed(gone: int) -> None:
    assert compare(identify(ROWS), ROWS[:gone] + ROWS[gone + 1 :]) == "removed"


@given(st.permutations(range(9)))
def test_another_order_is_reordered_and_nothing_else(order: list[int]) -> None:
    wanted = "same" if order == sorted(order) else "reordered"
    assert compare(identify(ROWS), [ROWS[index] for index in order]) == wanted


@pytest.mark.parametrize("place", range(9))
def test_one_letter_in_any_row_is_edited(place: int) -> None:
    turns = [dict(turn) for turn in ROWS[place]["messages"]]
    turns[-1]["content"] += "."
    assert compare(identify(ROWS), [*ROWS[:place], {"messages": turns}, *ROWS[place + 1 :]]) == "edited"


def test_more_rows_that_do_not_follow_the_known_ones_are_edited() -> None:
    assert compare(identify(ROWS[:6]), [ROWS[8], *ROWS[:8]]) == "edited"


def test_a_row_in_the_place_of_its_copy_is_edited() -> None:
    assert compare(identify([ROWS[0], ROWS[0], ROWS[1]]), [ROWS[0], ROWS[1], ROWS[1]]) == "edited"


def test_the_order_of_keys_is_no_difference() -> None:
    assert row_digest({"prompt": "a", "completion": "b"}) == row_digest({"completion": "b", "prompt": "a"})


def test_words_that_move_from_one_field_to_the_next_are_a_difference() -> None:
    assert row_digest({"prompt": "ab", "completion": "c"}) != row_digest({"prompt": "a", "completion": "bc"})


def test_another_file_format_of_the_same_rows_is_the_same_dataset(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    saved = identify(read_rows(str(tmp_path / "rows.jsonl")))
    assert compare(saved, read_rows(str(tmp_path / "rows.parquet"))) == "same"


def test_the_digest_of_a_row_is_the_one_of_all_versions() -> None:
    """Another one would call every dataset edited when a run of before is continued."""
    written = rb'{"completion":"\u00fc\n","prompt":"Gr\u00f6\u00dfe \u5927"}'
    assert row_digest({"prompt": "Größe 大", "completion": "ü\n"}) == hashlib.sha256(written).digest()


def test_the_sum_of_digests_carries_and_wraps() -> None:
    two = np.frombuffer(b"\xff" * 32 + b"\0" * 31 + b"\2", dtype=np.uint8).reshape(2, 32)
    assert identity.identify(two).unordered == f"{1:064x}"
    small = np.frombuffer(bytes(range(32)), dtype=np.uint8).reshape(1, 32)
    assert identity.identify(small).unordered == bytes(range(32)).hex()


def test_a_tokenizer_that_was_told_to_cut_and_pad_is_the_same(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == before
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_digest(tokenizer) != before


def test_a_slow_tokenizer_is_known_by_its_words_and_special_tokens() -> None:
    def slow(words: dict[str, int], end: str) -> str:
        return tokenizer_digest(
            SimpleNamespace(is_fast=False, get_vocab=lambda: words, special_tokens_map={"eos_token": end})
        )

    assert slow({"a": 0, "b": 1}, "a") == slow({"b": 1, "a": 0}, "a")
    assert len({slow({"a": 0, "b": 1}, "a"), slow({"a": 1, "b": 0}, "a"), slow({"a": 0, "b": 1}, "b")}) == 3


def test_a_template_is_known_by_its_text_and_none_by_nothing() -> None:
    none, one, other, named = (
        template_digest(SimpleNamespace(chat_template=template)) for template in (None, "a", "b", {"default": "a"})
    )
    assert len({none, one, other, named}) == 4
    assert (none, one) == (hashlib.sha256(b'""').hexdigest(), hashlib.sha256(b"a").hexdigest())
    assert named != template_digest(SimpleNamespace(chat_template={"default": "b"}))
