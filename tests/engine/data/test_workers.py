"""Rows tokenised by several processes: the same table, the same notes in the same language, the same refusals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import i18n
from engine.data import tokens, workers
from engine.data.problems import NAMED, Collected, Notes, Problem
from engine.data.tokens import tokenized
from engine.errors import DatasetError, ModelError
from tests.conftest import chats


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two processes from the third chunk of ten rows on. Gives how many were begun."""
    begun: list[int] = []
    by_others = workers._by_others

    def counted(work: Any, packed: bytes, processes: int, chunks: Iterator[list[Any]]) -> Any:
        begun.append(processes)
        return by_others(work, packed, processes, chunks)

    monkeypatch.setattr(tokens, "CHUNK", 10)
    monkeypatch.setattr(workers, "ALONE", 2)
    monkeypatch.setattr(workers, "processors", lambda: 2)
    monkeypatch.setattr(workers, "_by_others", counted)
    return begun


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def numbered(rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(rows, start=1))


def test_the_table_and_what_was_noticed_are_the_same_in_the_same_language(
    others: list[int], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tui.i18n import install

    rows = chats(70)
    rows[55]["messages"][1]["content"] = ""
    install("zh_CN")
    try:
        notes = Notes()
        found = list(tokenized(numbered(rows), tokenizer, "auto", 12, notes))
        assert others == [2]
        monkeypatch.setattr(workers, "processors", lambda: 1)
        alone = Notes()
        assert found == list(tokenized(numbered(rows), tokenizer, "auto", 12, alone))
    finally:
        i18n.install(type(i18n._catalogue).__base__())  # type: ignore[misc]
    assert others == [2] and notes == alone
    assert any(problem.row is not None and problem.row > 50 and "第" in problem.message for problem in notes.problems)


def test_refusals_anywhere_are_told_with_their_rows(others: list[int], tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}{% if 'fog' in message['content'] %}{{ raise_exception('no fog') }}{% endif %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    )
    rows = [row for row in chats(200) if "fog" not in str(row)]
    bad = next(row for row in chats(200) if "fog" in str(row))
    rows[25], rows[38] = bad, bad
    with pytest.raises(DatasetError) as refused:
        list(tokenized(numbered(rows), tokenizer, "auto", 512, Notes()))
    assert others == [2]
    assert [problem.row for problem in refused.value.problems] == [26, 39]  # type: ignore[attr-defined]


def refuses(chunk: list[Any]) -> int:
    if chunk[0] >= 50:
        raise ModelError("no template", "detail", "fix")
    return sum(chunk)


def dies(chunk: list[Any], here: int) -> int:
    if chunk[0] == 50 and os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(chunk)


def chunks_of_ten(count: int) -> Iterator[list[int]]:
    return (list(range(at * 10, at * 10 + 10)) for at in range(count))


def test_an_error_of_ours_comes_through_as_it_was(others: list[int]) -> None:
    with pytest.raises(ModelError) as raised:
        list(workers.in_order(refuses, chunks_of_ten(9)))
    assert (raised.value.title, raised.value.detail, raised.value.fix) == ("no template", "detail", "fix") and others == [2]


def test_a_process_that_is_killed_costs_its_help_and_no_rows(others: list[int]) -> None:
    found = list(workers.in_order(partial(dies, here=os.getpid()), chunks_of_ten(30)))
    assert found == [(10, sum(chunk)) for chunk in chunks_of_ten(30)] and others == [2]


def test_what_cannot_travel_is_done_here(others: list[int]) -> None:
    assert [answer for _rows, answer in workers.in_order(lambda chunk: chunk[0], chunks_of_ten(5))] == [0, 10, 20, 30, 40]
    assert others == []


def test_notes_of_parts_are_those_of_the_whole() -> None:
    each = [Problem(row, "long" if row % 3 else "odd", "costs", f"row {row}") for row in range(1, 4 * NAMED)]
    whole, parts, refused = Notes(), Notes(), Collected()
    for problem in each:
        whole.add(problem)
    for begin in range(0, len(each), 700):
        part, some = Notes(), Collected()
        for problem in each[begin : begin + 700]:
            part.add(problem)
            some.add(problem)
        parts.take(part)
        refused.take(some)
    assert parts == whole and refused.count == len(each)


def test_where_no_process_can_be_begun_it_is_all_done_here(
    others: list[int], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ProcessPoolExecutor

    def refuses(self: ProcessPoolExecutor, *_given: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    rows = chats(70)
    monkeypatch.setattr(ProcessPoolExecutor, "_launch_processes", refuses)
    found = list(tokenized(numbered(rows), tokenizer, "auto", 512, Notes()))
    assert others == [2]
    assert sum(batch.num_rows for batch in found) == 70
