"""Rows to tokens and labels: texts, pairs, completions of turns, and rows that are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.tokens import IGNORED, tokenize
from engine.errors import DatasetError
from tests.engine.data.families import CHAT, CHATS, FAMILIES, family, kept, sayings, tokenizer_of


def test_a_pair_learns_its_completion_and_the_end_token() -> None:
    tokenizer = family("llama3")
    row = tokenize(enumerate([{"prompt": "when?", "completion": " at night"}], 1), tokenizer, "auto", 1 << 20).row(0)
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said == [" at night<|eot_id|>"]


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.sampled_from(["auto", "all"]))
def test_a_row_that_is_cut_keeps_something_to_learn_or_is_left_out_and_told(limit: int, train_on: str) -> None:
    tokenizer = kept("llama3")
    rows = [{"messages": CHAT}, {"messages": CHATS["system"]}, {"text": "the lamp burns"}]
    rows.append({"messages": [CHAT[0], {"role": "assistant", "content": " "}]})
    try:
        table = tokenize(enumerate(rows, 1), tokenizer, train_on, limit)
    except DatasetError:
        return
    assert (table.trained > 0).all()
    assert (table.lengths <= limit).all()
    left_out = {problem.row for problem in table.problems if problem.code == "nothing_to_learn"}
    assert left_out == {1, 2, 3, 4} - set(table.source_row.tolist())


def test_a_begin_token_that_the_tokenizer_never_adds_belongs_to_the_text() -> None:
    """SmolLM2 calls the mark of each turn so."""
    tokenizer = tokenizer_of(["<|im_start|>", "<|im_end|>"], "")
    row = tokenize(enumerate([{"text": "<|im_start|>the lamp<|im_end|>"}], 1), tokenizer, "auto", 1 << 20).row(0)
    assert tokenizer.decode(row["input_ids"]) == "<|im_start|>the lamp<|im_end|>"


def begins_and_ends(marks: list[str]) -> Any:
    """A tokenizer that puts its begin token before every text by itself, and its end token behind."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_of(marks, "")
    special = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in (marks[0], marks[-1])]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{marks[0]} $A {marks[-1]}", special_tokens=special
    )
    return tokenizer


@pytest.mark.parametrize(
    "row",
    [{"text": "the lamp"}, {"text": "<s>the lamp</s>"}, {"prompt": "the", "completion": " lamp"},
     {"prompt": "<s>the", "completion": " lamp</s>"}],
)  # fmt: skip
@pytest.mark.parametrize("train_on", ["auto", "all"])
def test_a_text_begins_and_ends_once_whoever_writes_the_marks(row: dict[str, str], train_on: str) -> None:
    tokenizer = begins_and_ends(["<s>", "</s>"])
    made = tokenize(enumerate([row], 1), tokenizer, train_on, 1 << 20).row(0)
    assert tokenizer.decode(made["input_ids"]) == "<s>the lamp</s>"
    learned = sayings(tokenizer, made["input_ids"], [label != IGNORED for label in made["labels"]])
    assert learned == ["the lamp</s>" if "text" in row or train_on == "all" else " lamp</s>"]


@pytest.mark.parametrize("train_on", ["auto", "all"])
def test_a_completion_of_turns_is_learned_from_its_first_word_to_the_end(train_on: str) -> None:
    tokenizer = family("qwen2_5")
    row = tokenize(enumerate([{"prompt": CHAT[:1], "completion": CHAT[1:]}], 1), tokenizer, train_on, 1 << 20).row(0)
    (said,) = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said.startswith("It comes at night.<|im_end|>") == (train_on == "auto")
    assert said.rstrip().endswith("直到天亮<|im_end|>") and "when does" in tokenizer.decode(row["input_ids"])


def test_a_completion_that_begins_with_another_side_is_learned_with_it() -> None:
    tokenizer = family("qwen2_5")
    row = tokenize(enumerate([{"prompt": CHAT[:2], "completion": CHAT[2:]}], 1), tokenizer, "auto", 1 << 20).row(0)
    (said,) = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said.startswith("<|im_start|>user\nand the lamp") and said.rstrip().endswith("直到天亮<|im_end|>")


class Slow:
    """A tokenizer that cannot say where a token stands."""

    is_fast = False

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)

    def __call__(self, *texts: Any) -> Any:
        return self.fast(*texts)


@pytest.mark.parametrize(
    "row",
    [{"messages": CHAT}, {"prompt": "when?", "completion": " at night"}, {"text": "the lamp"}],
    ids=["chat", "pair", "text"],
)
@pytest.mark.parametrize("adds", [False, True])
def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_gives_the_same(row: dict[str, Any], adds: bool) -> None:
    fast = begins_and_ends(FAMILIES["qwen2_5"]) if adds else family("qwen2_5")
    fast.chat_template = family("qwen2_5").chat_template
    tables = [tokenize(enumerate([row], 1), tokenizer, "auto", 1 << 20).row(0) for tokenizer in (fast, Slow(fast))]
    assert tables[0]["input_ids"] == tables[1]["input_ids"]
    assert tables[0]["labels"][1:] == tables[1]["labels"][1:], "nothing predicts the first"


def test_a_row_that_is_cut_keeps_its_beginning_or_else_the_end_of_what_is_learned() -> None:
    tokenizer = family("llama3")
    full = tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20).row(0)
    first = next(at for at, label in enumerate(full["labels"]) if label != IGNORED)
    last = max(at for at, label in enumerate(full["labels"]) if label != IGNORED)
    for limit, begin in ((first + 1, 0), (first, last + 1 - first), (len(full["labels"]) - 1, 0)):
        table = tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", limit)
        assert table.row(0)["input_ids"] == full["input_ids"][begin : begin + limit]
        assert table.row(0)["labels"] == full["labels"][begin : begin + limit]
        assert (table.notes.counts["truncated"], table.lengths[0]) == (1, limit)


def test_a_row_as_long_as_may_be_is_not_cut() -> None:
    tokenizer = family("llama3")
    length = len(tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20).row(0)["labels"])
    assert "truncated" not in tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", length).notes.counts
