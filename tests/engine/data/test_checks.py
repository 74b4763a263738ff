"""What is told of rows that can be read: each kind with its row, and nothing about rows that are well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.data.read import Reading
from engine.data.report import DatasetReport, dataset_report
from engine.errors import ConfigError
from engine.models.folder import load_tokenizer
from tests.conftest import WORDS, chats, write_jsonl


def chat(*turns: str, roles: tuple[str, ...] = ("user", "assistant")) -> dict[str, Any]:
    return {"messages": [{"role": roles[place % len(roles)], "content": words} for place, words in enumerate(turns)]}


GOOD = [
    chat("What burns when fog comes over the bay?", "The lamp burns until morning light finds the gulls asleep."),
    chat("Who keeps watch?", "We do."),
    chat("谁在看守灯塔？", "我们轮流看守，直到天亮。"),
]


def report(tmp_path: Path, *rows: dict[str, Any]) -> DatasetReport:
    return dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", [*GOOD, *rows])), Reading(), None, "auto", 1024)


def test_nothing_is_told_of_rows_that_are_well(tmp_path: Path) -> None:
    assert report(tmp_path).problems == ()


ODD: dict[str, tuple[dict[str, Any], str, str]] = {
    "exact copy": (GOOD[0], "duplicate", "row 1"),
    "nearly a copy": (
        chat("What burns when fog comes over the bay?", "The lamp burns until morning light finds all the gulls asleep."),
        "near_duplicate",
        "row 1",
    ),
    "nearly a copy in Chinese": (chat("谁在看守灯塔？", "我们轮流看守，直到天亮！"), "near_duplicate", "row 3"),
    "empty turn": (chat("", "We do not know what was asked."), "empty_turn", "turn 1"),
    "user twice": (
        chat("Are you", "there?", "Yes.", roles=("user", "user", "assistant")),
        "same_role_twice",
        "turns 1 and 2",
    ),
    "two system turns": (
        chat("Short.", "Long.", "Who?", "We.", roles=("system", "system", "user", "assistant")),
        "same_role_twice",
        "system",
    ),
    "nothing, as pandas writes it": (chat("Who keeps the lamp?\n\nnan", "All of us."), "missing_value", "'nan'"),
    "assistant first": (chat("Good morning!", "Hello.", "Hi.", roles=("assistant", "user")), "assistant_begins", "first"),
    "replacement character": (chat("What is this?", "A l\ufffdmp."), "encoding_damage", "\ufffd"),
    "UTF-8 read as Latin-1": (chat("Where?", "At the cafÃ© by the bay."), "encoding_damage", "Ã©"),
    "UTF-8 read as GBK": (chat("什么？", "锟斤拷锟斤拷"), "encoding_damage", "锟斤拷"),
    "escape": (chat("Colour?", "\x1b[31mred"), "control_character", "U+001B"),
    "bidirectional override": (chat("Name?", "abc\u202edef"), "control_character", "U+202E"),
}


@pytest.mark.parametrize("fault", ODD)
def test_what_is_odd_is_told_with_its_row(fault: str, tmp_path: Path) -> None:
    row, code, words = ODD[fault]
    found = report(tmp_path, row, *chats(3))
    (problem,) = found.problems
    assert (problem.row, problem.code, found.counts) == (4, code, {code: 1})
    assert words in problem.message and problem.fix
    assert found.stopped is None


def test_of_many_alike_each_is_listed_with_its_row(tmp_path: Path) -> None:
    found = report(tmp_path, *[chat(f"Question {number}?", "") for number in range(30)])
    assert [problem.row for problem in found.problems if problem.code == "empty_turn"] == list(range(4, 34))


def test_every_bad_row_is_a_problem_of_its_own(tmp_path: Path) -> None:
    found = report(tmp_path, {"messages": 3}, GOOD[1], {"messages": [{"role": "gpt", "content": "x"}]})
    stops = [(problem.row, problem.code) for problem in found.problems if problem.severity == "stops"]
    assert stops == [(4, "wrong_type"), (6, "unknown_role")]
    assert found.stopped is not None and found.stopped.exit_code == 4


def test_rows_of_the_test_split_among_those_trained_on_are_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", GOOD)
    write_jsonl(tmp_path / "test.jsonl", [chat("Another?", "One."), GOOD[1]])
    found = dataset_report(str(tmp_path), Reading(), None, "auto", 1024)
    assert [(one.row, one.code) for one in found.problems] == [(2, "eval_contaminated")]
    assert any("test.jsonl" in note for note in found.notes)


def test_a_model_adds_lengths_and_what_an_epoch_is(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    file = write_jsonl(tmp_path / "rows.jsonl", chats(40))
    found = dataset_report(str(file), Reading(), tokenizer, "auto", 1024)
    assert found.tokens is not None and found.epoch is not None and found.trained_tokens is not None
    assert (found.epoch.steps, found.epoch.tokens) == (5, found.tokens.total)
    assert 1 <= found.epoch.padding_grouped <= found.epoch.padding_random
    assert 0 < found.trained_tokens < found.epoch.tokens


def test_a_template_that_drops_the_system_turn_or_ends_a_turn_with_no_mark_is_told(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}<end>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rows = [chat("Be short.", "Who?", "We.", roles=("system", "user", "assistant"))]
    found = dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", rows)), Reading(), tokenizer, "auto", 1024)
    assert {problem.code for problem in found.problems} == {"system_dropped", "stop_not_trained"}


@pytest.mark.parametrize("marked", [True, False])
def test_an_end_that_the_template_does_not_write_is_learned_and_told(marked: bool, tmp_path: Path, tiny_model: Path) -> None:
    """As GLM-4 ends an answer, with the mark that opens the user's turn, or where that is no mark with the end token."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>", "<|assistant|>"] if marked else []})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    rows = [chat("Who?", "We.", "You?", "They.", roles=("user", "assistant") * 2)]
    found = dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", rows)), Reading(), tokenizer, "auto", 1024)
    assert {problem.code for problem in found.problems} == {"end_added"}
    learned = [words for words, trained in found.preview[0].pieces if trained]
    assert learned == (["We.<|user|>", "They.<|user|>"] if marked else ["We.", "They.<|im_end|>"])


def test_an_end_that_the_template_writes_behind_all_answers_but_the_last_is_learned_of_each(
    tmp_path: Path, tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if not loop.last or m.role == 'user' %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    rows = [chat("Who?", "We.", "You?", "They.", roles=("user", "assistant") * 2)]
    found = dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", rows)), Reading(), tokenizer, "auto", 1024)
    learned = [words for words, trained in found.preview[0].pieces if trained]
    assert learned == ["We.<|im_end|>", "They.<|im_end|>"]


@pytest.mark.parametrize("train_on", ["auto", "all"])
def test_an_end_mark_with_a_line_break_behind_it_is_an_end_mark(train_on: str, tmp_path: Path, tiny_model: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "We."}]}
    found = dataset_report(
        str(write_jsonl(tmp_path / "rows.jsonl", [row])), Reading(), load_tokenizer(tiny_model), train_on, 1024
    )
    assert found.preview[0].pieces[-1][0].endswith("<|im_end|>\n")
    assert "stop_not_trained" not in found.counts


@pytest.mark.parametrize(
    ("row", "train_on", "why"),
    [
        ({"prompt": "Who? ", "completion": "We."}, "assistant", "completion"),
        (
            {"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "We."}]},
            "assistant",
            "completion",
        ),
        ({"text": "We."}, "assistant", "plain text"),
        ({"text": "We."}, "completion", "plain text"),
    ],
)
def test_a_train_on_that_does_not_fit_is_a_fault_of_the_setting_and_of_no_row(
    row: Any, train_on: str, why: str, tmp_path: Path, tiny_model: Path
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [row] * 3)
    found = dataset_report(str(file), Reading(), load_tokenizer(tiny_model), train_on, 1024)
    (problem,) = (one for one in found.problems if one.severity == "stops")
    assert (problem.row, problem.fix) == (None, "Use --train-on auto.") and why in problem.message
    assert isinstance(found.stopped, ConfigError)


def test_rows_of_one_pattern_are_each_compared_with_a_few_others_and_near_ones_are_still_found() -> None:
    from engine.data.checks import BESIDE, _NearCopies

    known = _NearCopies()
    words = WORDS[:17]
    rows = [
        {"text": " ".join(words[(index * 7 + step * 3) % len(words)] for step in range(4 + index % 9)) + f" {index}"}
        for index in range(600)
    ]
    for number, row in enumerate(rows, 1):
        known.like(number, row)
    assert max(len(some) for band in known._bands for some in band.values()) == BESIDE
    known.like(601, {"text": "gulls sleep " + " ".join(words)})
    assert known.like(602, {"text": "gulls sleep " + " ".join([*words, "again"])}) == 601


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("torn.jsonl", b'{"text": "a"}\n{"text": "b'),
        ("twice.jsonl", b'{"text": "a"}\n{"text": "b", "text": "c"}\n'),
        ("nul.jsonl", b'{"text": "a"}\n{"text": "\0"}\n'),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n'),
        ("ragged.csv", b"prompt,completion\na,b\nc\n"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_with_its_number(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    found = dataset_report(str(tmp_path / name), Reading(encoding="utf-8"), None, "auto", 1024)
    assert [(one.row, one.code) for one in found.problems] == [(2, "dataset_unusable")]
    (tmp_path / f"a{name}").write_bytes(data.rpartition(data.splitlines()[-1])[0])
    found = dataset_report(str(tmp_path), Reading(encoding="utf-8"), None, "auto", 1024)
    assert [one.row for one in found.problems if one.code == "dataset_unusable"] == [3]


@pytest.mark.parametrize(
    ("prompt", "with_template", "told"),
    [("What is it?", True, True), ("<|im_start|>user\nWhat is it?<|im_end|>\n", True, False), ("What is it?", False, False)],
)
def test_a_chat_template_that_plain_pairs_leave_unused_is_told(
    prompt: str, with_template: bool, told: bool, tmp_path: Path, tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    if not with_template:
        tokenizer.chat_template = None
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": f"{prompt}{row}", "completion": "It is."} for row in range(3)])
    report = dataset_report(str(path), Reading(), tokenizer, "auto", 64)
    assert ("template_unused" in report.counts) == told
    assert report.stopped is None


def test_what_a_turn_calls_is_shown_where_no_model_says_how_it_is_written(tmp_path: Path) -> None:
    calls = [
        {"type": "function", "function": {"name": "lamp", "arguments": {"at": "灯塔"}}},
        {"type": "function", "function": {"name": "fog", "arguments": "{}"}},
    ]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes.", "tool_calls": calls}]
    found = dataset_report(str(write_jsonl(tmp_path / "a.jsonl", [{"messages": turns}])), Reading(), None, "auto", 64)
    assert found.preview[0].pieces[-1] == ('Yes.\nlamp({"at": "灯塔"})\nfog({})', True)


def test_lengths_and_padding_are_those_of_the_rows(tmp_path: Path, tiny_model: Path) -> None:
    file, tokenizer = write_jsonl(tmp_path / "rows.jsonl", chats(16)), load_tokenizer(tiny_model)
    one, all_, of_six = (
        dataset_report(str(file), Reading(), tokenizer, "auto", 1024, batch=batch) for batch in ((1, 1), (99, 1), (2, 3))
    )
    assert one.tokens is not None and one.table is not None and one.epoch and all_.epoch and of_six.epoch
    lengths = [int(length) for length in one.table.uncut]
    assert (one.tokens.total, one.tokens.min, one.tokens.max) == (sum(lengths), min(lengths), max(lengths))
    bins = one.tokens.histogram
    assert [rows for low, high, rows in bins] == [
        sum(low <= length <= high for length in lengths) for low, high, _rows in bins
    ]
    assert sum(rows for _low, _high, rows in bins) == 16 and all(high == 2 * (low - 1) for low, high, _rows in bins)
    assert (one.epoch.padding_grouped, one.epoch.padding_random) == (1.0, 1.0)
    assert all_.epoch.padding_grouped == all_.epoch.padding_random == round(16 * max(lengths) / sum(lengths), 4)
    assert (of_six.epoch.batch_size, of_six.epoch.rows_a_step, of_six.epoch.steps) == (2, 6, 3)


SAID: dict[str, tuple[dict[str, Any], list[str], list[bool]]] = {
    "pair": ({"prompt": "Who?", "completion": "We."}, ["Who?", "We."], [False, True]),
    "turns": (GOOD[1], ["user: ", "Who keeps watch?", "\n", "assistant: ", "We do."], [False, False, False, False, True]),
    "text": ({"text": "We."}, ["We."], [True]),
}


@pytest.mark.parametrize("train_on", ["auto", "all"])
@pytest.mark.parametrize("kind", SAID)
def test_what_is_learned_is_shown_where_no_model_says_how_it_is_written(kind: str, train_on: str, tmp_path: Path) -> None:
    row, words, learned = SAID[kind]
    found = dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", [row] * 4)), Reading(), None, train_on, 64)
    assert [one.row for one in found.preview] == [1, 2, 3]
    pieces = found.preview[0].pieces
    assert [text for text, _trained in pieces] == words
    assert [trained for _text, trained in pieces] == ([text != "\n" for text in words] if train_on == "all" else learned)


def test_a_report_says_where_what_and_how_many_also_where_a_run_would_stop(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "We."}] * 2)
    found = dataset_report("rows.jsonl", Reading(), load_tokenizer(tiny_model), "assistant", 64)
    assert (found.path, found.format, found.rows) == (str(tmp_path / "rows.jsonl"), "text", 2)
    assert found.stopped is not None and found.counts["setting_unusable"] == 1 and len(found.preview) == 2
    assert dataset_report("nobody/nowhere.jsonl", Reading(), None, "auto", 64).path == "nobody/nowhere.jsonl"


def test_rows_that_one_model_refuses_are_told_from_those_that_cannot_be_read(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    refused = dataset_report(str(write_jsonl(tmp_path / "rows.jsonl", GOOD)), Reading(), tokenizer, "auto", 64)
    assert refused.stopped is not None and refused.refused_by_model
    unread = report(tmp_path, {"messages": 3})
    assert unread.stopped is not None and not unread.refused_by_model


def test_what_stops_a_run_beside_the_dataset_is_counted_beside_what_was_found(tmp_path: Path) -> None:
    found = report(tmp_path, GOOD[0])
    stopped = found.stopped_by(ConfigError("no", "because", "yes"))
    assert [one.code for one in stopped.problems] == ["setting_unusable", "duplicate"]
    assert stopped.counts == {"setting_unusable": 1, "duplicate": 1} and stopped.to_json()["counts"] == stopped.counts
    assert stopped.problems[0].message == "no: because"


def test_rows_left_out_are_those_of_what_is_trained_on_and_of_no_other_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", GOOD)
    write_jsonl(tmp_path / "test.jsonl", [GOOD[1]])
    found = dataset_report(str(tmp_path), Reading(skip_rows="1"), None, "auto", 1024)
    assert [(one.row, one.code) for one in found.problems] == [(2, "eval_contaminated")]
