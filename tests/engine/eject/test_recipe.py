"""The recipe that a script brings: its rows, tokens and labels are those of the run."""

from __future__ import annotations

from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from engine.data.normal import SPEAKERS
from engine.data.tokens import tokenize_chunk
from engine.eject import recipe
from engine.eject.run import _columns
from engine.eject.script import with_what_they_call
from engine.errors import ConfigError
from tests.engine.data.families import CHAT, FAMILIES, family, tokenizer_of
from tests.engine.data.test_formats import KNOWN


def globals_of(code: CodeType) -> set[str]:
    """Names that compiled code looks up outside of itself, its inner functions and comprehensions too."""
    return set(code.co_names).union(*(globals_of(part) for part in code.co_consts if isinstance(part, CodeType)))


@pytest.mark.parametrize("format", ["messages", "sharegpt", "alpaca", "prompt_completion", "text"])
def test_a_script_brings_each_function_that_another_of_it_calls(format: str) -> None:
    """Also of the formats whose scripts run among the slow tests only."""
    brought = with_what_they_call(getattr(recipe, f"from_{format}"), recipe.as_tokens)
    called = set().union(*(globals_of(one.__code__) for one in brought))
    there = {name for name, one in vars(recipe).items() if isinstance(one, FunctionType)}
    assert called & there <= {one.__name__ for one in brought}


def test_the_script_takes_no_space_behind_a_comma_for_a_part_of_the_words(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt, completion\n"Who, and when?", "We."\n', encoding="utf-8")
    rows = recipe.rows_of_files([(str(tmp_path / "rows.csv"), "utf-8", ",")], set())
    assert list(rows) == [{"prompt": "Who, and when?", "completion": "We."}]


def test_the_script_passes_over_rows_of_a_table_in_which_nothing_stands(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\n,\nWho?,We.\n,,,\n", encoding="utf-8")
    rows = recipe.rows_of_files([(str(tmp_path / "rows.csv"), "utf-8", ",")], set())
    assert list(rows) == [{"prompt": "Who?", "completion": "We."}]


THOUGHT = [{**turn, "reasoning_content": "hm"} if turn["role"] == "assistant" else turn for turn in CHAT]
UNSAID = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
CALL = [
    CHAT[0],
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "lamp", "arguments": {"on": True}}}]},
]
TEXT_CALL = [
    CHAT[0],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}}],
    },
]
LIKE: dict[str, dict[str, Any]] = {
    "chat": {"messages": CHAT},
    "thoughts": {"messages": THOUGHT},
    "an answer of weight 0": {"messages": UNSAID},
    "a call": {"messages": CALL, "tools": [{"type": "function", "function": {"name": "lamp", "parameters": {}}}]},
    "a call with JSON text": {"messages": TEXT_CALL},
    "completion of turns": {"prompt": CHAT[:3], "completion": CHAT[3:]},
    "pair": {"prompt": "when? ", "completion": "at night"},
    "text": {"text": "the lamp burns"},
    "nothing to learn": {"messages": [CHAT[0], {"role": "assistant", "content": ""}]},
}


@pytest.mark.parametrize("limit", [1 << 20, 24])
@pytest.mark.parametrize("train_on", ["auto", "completion", "all"])
@pytest.mark.parametrize(("name", "training"), [*((name, False) for name in FAMILIES), ("llama3", True)])
def test_the_scripts_tokens_and_labels_are_the_runs(name: str, training: bool, train_on: str, limit: int) -> None:
    """With every template: rows of each kind, but for those that the run refuses."""
    tokenizer = family(name, training)
    compared = 0
    for row in LIKE.values():
        try:
            made = tokenize_chunk([(1, row)], tokenizer, "all" if "text" in row else train_on, limit)
        except ConfigError:
            continue
        if made.batch is not None:
            (ours,) = made.batch.to_pylist()
            theirs = recipe.as_tokens({"tools": None, **row}, tokenizer, "all" if "text" in row else train_on, limit)
            assert (theirs or ([], [])) == (ours["input_ids"], ours["labels"])
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize("end", ["", "\n", "{% if not loop.last or m.role == 'user' %}<|im_end|>{% endif %}"])
@pytest.mark.parametrize("train_on", ["auto", "completion", "all"])
def test_where_the_template_does_not_end_an_answer_the_script_does_as_the_run(end: str, train_on: str) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}" + end + "{% endfor %}"
    tokenizer = tokenizer_of(
        FAMILIES["qwen2_5"], template + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for turns in (CHAT, CHAT[:2], CHAT[:3]):
        (ours,) = tokenize_chunk([(1, {"messages": turns})], tokenizer, train_on, 1 << 20).batch.to_pylist()
        theirs = recipe.as_tokens({"messages": turns, "tools": None}, tokenizer, train_on, 1 << 20)
        assert theirs == (ours["input_ids"], ours["labels"])


@pytest.mark.parametrize("train_on", ["auto", "all"])
@pytest.mark.parametrize(
    "answer", ["{{ m.content }}", "{{ m.content + '\n' }}", "{% generation %}{{ m.content }}{% endgeneration %}{{ '\n' }}"]
)
def test_an_end_that_the_template_does_not_write_is_the_runs_in_the_script_too(answer: str, train_on: str) -> None:
    """Where it says itself what is generated, and writes a line break behind it, none is put there."""
    other = "{% if m.role == 'assistant' %}" + answer + "{% else %}{{ m.content + '\n' }}{% endif %}"
    template = "{% for m in messages %}{{ m.role + ': ' }}" + other + "{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    tokenizer, row = tokenizer_of(["<s>", "</s>"], template), {"messages": CHAT}
    made = tokenize_chunk([(1, row)], tokenizer, train_on, 1 << 20)
    assert made.batch is not None
    (ours,) = made.batch.to_pylist()
    assert recipe.as_tokens({"tools": None, **row}, tokenizer, train_on, 1 << 20) == (ours["input_ids"], ours["labels"])


@pytest.mark.parametrize("shape", KNOWN)
def test_the_scripts_rows_are_the_runs(shape: str) -> None:
    row, format, wanted = KNOWN[shape]
    made = getattr(recipe, f"from_{format}")(row, _columns(set(row), format), SPEAKERS if format == "sharegpt" else {})
    assert {name: part for name, part in made.items() if part is not None} == wanted
