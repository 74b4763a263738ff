# ruff: noqa: E501
"""What rows mean: each shape is recognised with its reason, and a row that is not of it is told with its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.data import formats
from engine.data.normal import ROLES, SPEAKERS
from engine.errors import DatasetError
from tests.conftest import write_jsonl
from tests.engine.data.rows import TURNS, read, read_rows, refused

SYSTEM = {"role": "system", "content": "Short."}
CALL = [{"type": "function", "function": {"name": "lamp", "arguments": {"on": True}}}]
TOOLS = [{"type": "function", "function": {"name": "lamp", "parameters": {}}}]


KNOWN: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "messages": ({"messages": TURNS, "id": 4}, "messages", {"messages": TURNS}),
    "conversation in parts": (
        {"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "text", "text": "W"}, {"type": "text", "text": "e."}]}]},
        "messages",
        {"messages": TURNS},
    ),
    "conversations by role": ({"conversations": TURNS}, "messages", {"messages": TURNS}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "We."}], "system": "Short."},
        "sharegpt",
        {"messages": [{"role": "system", "content": "Short."}, *TURNS]},
    ),
    "alpaca": ({"instruction": "Who?", "input": "", "output": "We."}, "alpaca", {"messages": TURNS}),
    "alpaca without input": ({"instruction": "Who?", "output": "We."}, "alpaca", {"messages": TURNS}),
    "alpaca with input": (
        {"instruction": "Who", "input": "is there?", "output": "We."},
        "alpaca",
        {"messages": [{"role": "user", "content": "Who\n\nis there?"}, TURNS[1]]},
    ),
    "dolly": ({"instruction": "Who?", "response": "We."}, "alpaca", {"messages": TURNS}),
    "dolly with context": (
        {"instruction": "Who", "context": "is there?", "response": "We.", "category": "open_qa"},
        "alpaca",
        {"messages": [{"role": "user", "content": "Who\n\nis there?"}, TURNS[1]]},
    ),
    "alpaca beside another context": ({"instruction": "Who?", "context": "far", "output": "We."}, "alpaca", {"messages": TURNS}),
    "alpaca with tools": (
        {"instruction": "Who?", "output": "We.", "tools": json.dumps(TOOLS)}, "alpaca", {"messages": TURNS, "tools": TOOLS}),
    "alpaca whose input is all that is asked": ({"instruction": "", "input": "Who?", "output": "We."}, "alpaca", {"messages": TURNS}),
    "alpaca with what was thought": (
        {"instruction": "Who?", "output": "We.", "reasoning_content": "Hm."},
        "alpaca",
        {"messages": [TURNS[0], {**TURNS[1], "reasoning_content": "Hm."}]},
    ),
    "capybara": ({"conversation": [{"input": "Who?", "output": "We."}] * 2}, "messages", {"messages": TURNS * 2}),
    "firefly's turns": ({"conversation": [{"human": "Who?", "assistant": "We."}] * 2}, "messages", {"messages": TURNS * 2}),
    "lima": ({"conversations": ["Who?", "We.", "Who?", "We."]}, "messages", {"messages": TURNS * 2}),
    "turns part by part": ({"messages": {"role": ["user", "assistant"], "content": ["Who?", "We."]}}, "messages", {"messages": TURNS}),
    "sharegpt part by part": (
        {"conversations": {"from": ["human", "gpt"], "value": ["Who?", "We."]}}, "sharegpt", {"messages": TURNS}),
    "turns as JSON text": ({"messages": json.dumps(TURNS)}, "messages", {"messages": TURNS}),
    "sharegpt as JSON text": (
        {"conversations": json.dumps([{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "We."}])}, "sharegpt", {"messages": TURNS}),
    "calls of LLaMA-Factory's": (
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "function_call", "value": json.dumps(CALL[0]["function"])},
                {"from": "observation", "value": "{}"},
                {"from": "gpt", "value": "We."},
            ],
            "tools": json.dumps([tool["function"] for tool in TOOLS]),
        },
        "sharegpt",
        {
            "messages": [
                TURNS[0],
                {"role": "assistant", "content": "", "tool_calls": CALL},
                {"role": "tool", "content": "{}"},
                TURNS[1],
            ],
            "tools": TOOLS,
        },
    ),
    "calls of LLaMA-Factory's, two at once": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "function_call", "value": json.dumps([CALL[0]["function"]] * 2)}]},
        "sharegpt",
        {"messages": [TURNS[0], {"role": "assistant", "content": "", "tool_calls": CALL * 2}]},
    ),
    "speakers in another case": (
        {"conversations": [{"from": "Human", "value": "Who?"}, {"from": "GPT", "value": "We."}]}, "sharegpt", {"messages": TURNS}),
    "roles in another case": (
        {"messages": [{"role": "User", "content": "Who?"}, {"role": "ASSISTANT", "content": "We."}]}, "messages", {"messages": TURNS}),
    "calls of ms-swift's, two at once": (
        {
            "messages": [
                TURNS[0],
                {"role": "tool_call", "content": json.dumps(CALL[0]["function"])},
                {"role": "tool_call", "content": json.dumps(CALL[0]["function"])},
                {"role": "tool_response", "content": "{}"},
                {"role": "tool_call", "content": json.dumps(CALL[0]["function"]), "loss": False},
                {"role": "tool_response", "content": "{}"},
                TURNS[1],
            ],
            "tools": json.dumps(TOOLS),
        },
        "messages",
        {
            "messages": [
                TURNS[0],
                {"role": "assistant", "content": "", "tool_calls": CALL * 2},
                {"role": "tool", "content": "{}"},
                {"role": "assistant", "content": "", "tool_calls": CALL, "weight": 0},
                {"role": "tool", "content": "{}"},
                TURNS[1],
            ],
            "tools": TOOLS,
        },
    ),
    "a call that is no JSON": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "function_call", "value": "lamp()"}]},
        "sharegpt",
        {"messages": [TURNS[0], {"role": "assistant", "content": "lamp()"}]},
    ),
    "prompt and completion": ({"prompt": "Who? ", "completion": "We."}, "prompt_completion", {"prompt": "Who? ", "completion": "We."}),
    "question and answer": ({"question": "Who?", "answer": "We."}, "prompt_completion", {"prompt": "Who?", "completion": "We."}),
    "input and output": ({"input": "Who?", "output": "We."}, "prompt_completion", {"prompt": "Who?", "completion": "We."}),
    "prompt and completion as turns": (
        {"prompt": TURNS[:1], "completion": TURNS[1:], "tools": TOOLS},
        "prompt_completion",
        {"prompt": TURNS[:1], "completion": TURNS[1:], "tools": TOOLS},
    ),
    "a system text beside turns": ({"messages": TURNS, "system": "Short."}, "messages", {"messages": [SYSTEM, *TURNS]}),
    "a system prompt beside turns": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "We."}], "system_prompt": "Short."},
        "sharegpt",
        {"messages": [SYSTEM, *TURNS]},
    ),
    "a system text that stands among the turns too": (
        {"messages": [SYSTEM, *TURNS], "system": "Short."}, "messages", {"messages": [SYSTEM, *TURNS]}),
    "a system text beside a prompt of turns": (
        {"prompt": TURNS[:1], "completion": TURNS[1:], "system": "Short."},
        "prompt_completion",
        {"prompt": [SYSTEM, *TURNS[:1]], "completion": TURNS[1:]},
    ),
    "alpaca with what was said before": (
        {"instruction": "Who?", "output": "We.", "system": "Short.", "history": [["Hm?", "Yes."]]},
        "alpaca",
        {"messages": [SYSTEM, {"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}, *TURNS]},
    ),
    "an answer not to be learned": (
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0}, TURNS[0], {**TURNS[1], "weight": 1}]},
        "messages",
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS]},
    ),
    "an answer of ShareGPT's not to be learned": (
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "We.", "weight": 0}]},
        "sharegpt",
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We.", "weight": 0}]},
    ),
    "an answer that axolotl would not learn": (
        {"messages": [TURNS[0], {**TURNS[1], "train": False}, TURNS[0], {**TURNS[1], "train": True}]},
        "messages",
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS]},
    ),
    "an answer of ShareGPT's that axolotl would not learn": (
        {"conversations": [{"from": "human", "value": "Who?", "train": True}, {"from": "gpt", "value": "We.", "train": False}]},
        "sharegpt",
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0}]},
    ),
    "an answer that ms-swift would not learn": (
        {"messages": [TURNS[0], {**TURNS[1], "loss": False}]}, "messages", {"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}),
    "an answer whose loss was measured": ({"messages": [TURNS[0], {**TURNS[1], "loss": 0.0}]}, "messages", {"messages": TURNS}),
    "an answer that was thought about": (
        {"messages": [TURNS[0], {**TURNS[1], "thinking": "Hm."}]}, "messages", {"messages": [TURNS[0], {**TURNS[1], "thinking": "Hm."}]}),
    "text": ({"text": "The lamp burns.", "source": "log"}, "text", {"text": "The lamp burns."}),
    "content": ({"content": "The lamp burns."}, "text", {"text": "The lamp burns."}),
    "calls as JSON text": (
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": json.dumps(CALL)}, {**TURNS[1], "tool_calls": "[]"}]},
        "messages",
        {"messages": [TURNS[0], {"role": "assistant", "content": "", "tool_calls": CALL}, TURNS[1]]},
    ),
    "tools as JSON text": ({"messages": TURNS, "tools": json.dumps(TOOLS)}, "messages", {"messages": TURNS, "tools": TOOLS}),
    "a call without words": (
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": CALL}]},
        "messages",
        {"messages": [TURNS[0], {"role": "assistant", "content": "", "tool_calls": CALL}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", KNOWN)
def test_a_shape_is_recognised_and_normalised(shape: str, tmp_path: Path) -> None:
    row, format, wanted = KNOWN[shape]
    found = read(tmp_path, row)
    assert (found.format, found[0]) == (format, wanted) and found.reason


@pytest.mark.parametrize("role", sorted(set(SPEAKERS.values())))
def test_every_speaker_becomes_a_known_role(role: str) -> None:
    assert role in ROLES


def test_an_asked_format_wins_over_the_recognised_one(tmp_path: Path) -> None:
    row = {"messages": TURNS, "text": "The lamp burns."}
    assert read(tmp_path, row).format == "messages"
    assert list(read(tmp_path, row, format="text")) == [{"text": "The lamp burns."}]


def test_an_asked_format_whose_columns_are_missing_tells_what_is_there(tmp_path: Path) -> None:
    error = refused(tmp_path, {"text": "a", "source": "b"}, format="alpaca")
    assert "alpaca" in error.title and "text, source" in error.detail and '"instruction"' in error.detail


def test_unknown_columns_are_told_with_the_nearest_format(tmp_path: Path) -> None:
    error = refused(tmp_path, {"title": "a", "body": "b"})
    assert "rows.jsonl" in error.title and "title, body" in error.detail and '"messages"' in error.fix


def test_preference_data_is_told_apart(tmp_path: Path) -> None:
    error = refused(tmp_path, {"prompt": "Who?", "chosen": "We.", "rejected": "Nobody."})
    assert "preference" in error.title and "chosen" in error.fix
    assert "preference" in refused(tmp_path, {"prompt": "Who?", "rejected": "Nobody."}).title, (
        "else it is offered as the answer"
    )


@pytest.mark.parametrize(
    ("columns", "guess"),
    [("Question Complex_CoT Response", "instruction=Question,output=Response"), ("system user assistant", "instruction=user,output=assistant"),
     ("input reasoning_content content", "instruction=input,output=content"), ("title body", "instruction=title,output=body")],
)  # fmt: skip
def test_a_question_and_its_answer_are_guessed_by_their_names(columns: str, guess: str, tmp_path: Path) -> None:
    """Else what was thought, or the system text, would be offered as one of them."""
    assert f"for example {guess};" in refused(tmp_path, dict.fromkeys(columns.split(), "a")).fix


@pytest.mark.parametrize("parts", [("role", "content"), ("from", "value"), ("role", "text")])
def test_rows_of_one_turn_each_are_no_texts(parts: tuple[str, str], tmp_path: Path) -> None:
    """Else the users' words would be learned too."""
    error = refused(tmp_path, *(dict(zip(parts, turn.values(), strict=True)) for turn in TURNS))
    assert "one turn" in error.title and '{"messages": [' in error.fix
    flag, _space, value = error.fix.rpartition("--")[2].rstrip(".").partition(" ")
    assert [row["text"] for row in read_rows(str(tmp_path / "rows.jsonl"), **{flag: value})] == ["Who?", "We."]


@pytest.mark.parametrize("asking", ["instruction", "prompt", "question", "query", "input"])
def test_content_beside_a_question_is_no_text(asking: str, tmp_path: Path) -> None:
    """Else only the answers would be learned, to no question."""
    error = refused(tmp_path, {asking: "Who?", "content": "We.", "reasoning_content": "Hm."})
    assert f"--columns, for example instruction={asking},output=content" in error.fix


@pytest.mark.parametrize(
    ("turns", "words"),
    [(TURNS, "role and content"), ([{"human": "Who?", "assistant": "We."}], "pairs"), (["Who?", "We."], "texts"),
     (json.dumps(TURNS), "role and content")],
)  # fmt: skip
def test_it_is_said_how_the_turns_of_a_conversation_are_written(turns: Any, words: str, tmp_path: Path) -> None:
    assert words in read(tmp_path, {"conversation": turns}).reason


@pytest.mark.parametrize("columns", [("messages",), ("prompt", "completion")])
def test_a_role_in_the_words_of_other_tools_is_refused_with_what_reads_it(columns: tuple[str, ...], tmp_path: Path) -> None:
    """Each row of such a dataset is refused, so to mend them or leave them out is no way."""
    said = [{"role": "human", "content": "Who?"}, {"role": "bot", "content": "We."}]
    row = dict(zip(columns, ([said] if len(columns) == 1 else [said[:1], said[1:]]), strict=True))
    fix = refused(tmp_path, row, row).fix
    assert fix.startswith("Say --columns role=role:") and "human, gpt, " in fix
    (first, _second) = read_rows(str(tmp_path / "rows.jsonl"), columns="role=role")
    assert [turn["role"] for part in first.values() for turn in part] == ["user", "assistant"]


def test_a_list_of_texts_is_offered_as_a_conversation(tmp_path: Path) -> None:
    """As UltraChat's data are."""
    error = refused(tmp_path, {"id": "0", "data": ["Who?", "We."]})
    assert "--columns, for example messages=data;" in error.fix
    assert read_rows(str(tmp_path / "rows.jsonl"), columns="messages=data") == [{"messages": TURNS}]


def test_rows_of_one_turn_each_are_texts_where_that_is_asked_for(tmp_path: Path) -> None:
    assert list(read(tmp_path, *TURNS, format="text")) == [{"text": "Who?"}, {"text": "We."}]


TURN = TURNS[0]
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "turns are text": ({"messages": TURNS}, {"messages": "Who?"}, ['"messages" is text']),
    "turns are missing": ({"messages": TURNS}, {"other": 1}, ['has no "messages"', "other"]),
    "no turns": ({"messages": TURNS}, {"messages": []}, ['"messages" is empty']),
    "a turn is text": ({"messages": TURNS}, {"messages": [TURN, "We."]}, ["turn 2 is text"]),
    "a turn has no role": ({"messages": TURNS}, {"messages": [{"content": "a"}]}, ["turn 1", '"role" is null']),
    "a role is unknown": ({"messages": TURNS}, {"messages": [{"role": "gpt", "content": "a"}]}, ["turn 1", "'gpt'", "assistant"]),
    "content is a number": ({"messages": TURNS}, {"messages": [TURN, {"role": "assistant", "content": 4}]}, ["turn 2", '"content" is a number']),
    "content is null": ({"messages": TURNS}, {"messages": [TURN, {"role": "assistant", "content": None}]}, ["turn 2", "null"]),
    "a call of the older kind": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "function_call": {"name": "f", "arguments": "{}"}}]},
                                 ["turn 2", '"function_call"', '"tool_calls"']),
    "a call of ms-swift's that is no JSON": ({"messages": TURNS}, {"messages": [TURN, {"role": "tool_call", "content": "lamp()"}]},
                                             ["turn 2", '"tool_call"', "JSON"]),
    "content has a picture": ({"messages": TURNS}, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ["turn 1", "not text"]),
    "content holds half a character": ({"messages": TURNS}, {"messages": [TURN, {"role": "assistant", "content": "\ud83d"}]}, ["U+D83D"]),
    "nobody answers": ({"messages": TURNS}, {"messages": [TURN]}, ["no assistant turn"]),
    "tools are a number": ({"messages": TURNS}, {"messages": TURNS, "tools": 4}, ['"tools" is a number']),
    "tools hold half a character": ({"messages": TURNS}, {"messages": TURNS, "tools": ["\ud83d"]}, ['"tools"', "JSON"]),
    "calls are no JSON": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "tool_calls": "lamp()"}]}, ['"tool_calls"', "JSON"]),
    "a call is no list": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "tool_calls": CALL[0]}]}, ["turn 2", '"tool_calls" is an object']),
    "tools are no JSON": ({"messages": TURNS}, {"messages": TURNS, "tools": "lamp()"}, ['"tools"', "JSON"]),
    "a speaker is unknown": ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
                             {"conversations": [{"from": "alien", "value": "a"}]}, ["turn 1", "'alien'"]),
    "a value is a list": ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
                          {"conversations": [{"from": "human", "value": []}]}, ["turn 1", '"value" is a list']),
    "a system text holds half a character": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "\ud83d"}, ["U+D83D"]),
    "the instruction is a number": ({"instruction": "a", "output": "b"}, {"instruction": 4, "output": "b"}, ['"instruction" is a number']),
    "the input is a list": ({"instruction": "a", "output": "b"}, {"instruction": "a", "input": [], "output": "b"}, ['"input" is a list']),
    "the input holds half a character": ({"instruction": "a", "output": "b"}, {"instruction": "a", "input": "\ud83d", "output": "b"}, ["U+D83D"]),
    "nothing is asked": ({"instruction": "a", "output": "b"}, {"instruction": "", "input": " ", "output": "b"}, ['"instruction" is empty']),
    "a pair lacks its answer": ({"conversation": [{"human": "a", "assistant": "b"}]}, {"conversation": [{"human": "a", "assistant": None}]},
                                ["turn 2", '"content" is null']),
    "the output is empty": ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": " "}, ['"output" is empty']),
    "the completion is missing": ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, ['has no "completion"', "prompt"]),
    "the completion is empty": ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}, ['"completion" is empty']),
    "the completion's turns have no answer": ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {"prompt": TURNS[:1], "completion": TURNS[:1]},
                                              ['"completion" has no assistant']),
    "several answers": ({"prompt": "Who?", "completion": "We."}, {"prompt": "Who?", "completion": ["We.", "They."]}, ['"completion" is a list, not text']),
    "the prompt's turns are none": ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {"prompt": [], "completion": TURNS[1:]}, ['"prompt" is empty']),
    "a weight is a half": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "weight": 0.5}]}, ["turn 2", '"weight" is 0.5']),
    "whether it is learned is text": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "train": "no"}]}, ["turn 2", '"train" is text']),
    "only some words are learned": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "train_detail": [{"begin_offset": 0}]}]},
                                    ["turn 2", '"train_detail"']),
    "an answer is masked": ({"messages": TURNS}, {"messages": [TURN, {**TURNS[1], "mask": True}]}, ["turn 2", '"mask" is True', '"weight": 0']),
    "an answer's loss is masked": ({"messages": [TURN, {**TURNS[1], "loss_mask": 1}]}, {"messages": [TURN, {**TURNS[1], "loss_mask": 0}]},
                                   ["turn 2", '"loss_mask" is 0', '"weight": 0']),
    "a completion is of weight 0": ({"prompt": TURNS[:1], "completion": TURNS[1:]},
                                    {"prompt": TURNS[:1], "completion": [{**TURNS[1], "weight": 0}]}, ["weight 0"]),
    "what was said before is no pair": ({"instruction": "a", "output": "b"},
                                        {"instruction": "a", "output": "b", "history": ["c"]}, ['"history" holds text']),
    "the text is true": ({"text": "a"}, {"text": True}, ['"text" is true or false']),
    "the text is empty": ({"text": "a"}, {"text": "\n"}, ['"text" is empty']),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_row_of_the_wrong_kind_is_told_with_its_number_and_the_right_shape(fault: str, tmp_path: Path) -> None:
    good, bad, words = BAD[fault]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good)))
    with pytest.raises(DatasetError) as caught:
        read_rows(str(tmp_path / "rows.jsonl"))
    text = str(caught.value)
    assert text.startswith("rows.jsonl, row 2: ") and all(word in text for word in words), text
    assert "{" in caught.value.detail and caught.value.fix


def test_all_bad_rows_are_told_together(tmp_path: Path) -> None:
    rows = [{"text": "a"}, *({"text": number} for number in range(30))]
    error = refused(tmp_path, *rows)
    assert "30 of 31 rows" in error.title and "row 2:" in error.title and "(and 29 more rows: 3, 4, 5" in error.title


def test_values_that_json_has_not_are_refused_where_they_would_reach_the_template(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = [TURNS[0], {**TURNS[1], "tool_calls": [{"at": datetime.datetime(2026, 1, 1)}]}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match=r"rows\.parquet, row 1.*tool_calls"):
        read_rows(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("source", ["rows.jsonl", "rows.parquet", "rows"])
def test_a_call_has_the_arguments_it_was_made_with_and_no_other_calls(source: str, tmp_path: Path) -> None:
    import datasets

    rows: list[dict[str, Any]] = [
        {
            "messages": [TURNS[0], {**TURNS[1], "tool_calls": [{"function": {"name": name, "arguments": {name: "1"}}}]}],
            "tools": [{"function": {"name": name, "parameters": {"properties": {name: {"type": "string"}}}}}],
        }
        for name in ("city", "zone")
    ]
    made = datasets.Dataset.from_list(rows)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    made.to_parquet(tmp_path / "rows.parquet")
    made.save_to_disk(tmp_path / "rows")
    assert read_rows(str(tmp_path / source)) == rows


def test_a_null_that_stands_in_a_file_of_text_is_meant(tmp_path: Path) -> None:
    call = {"function": {"name": "lamp", "arguments": {"until": None}}}
    row = {"messages": [TURNS[0], {**TURNS[1], "tool_calls": [call]}]}
    assert list(read(tmp_path, row)) == [row]


def test_rows_can_be_gone_through_again_and_are_read_anew(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "b"}])
    rows = formats.read_rows(str(file))
    assert list(rows) == [{"text": "a"}, {"text": "b"}]
    write_jsonl(file, [{"text": "c"}])
    assert list(rows) == [{"text": "c"}]
