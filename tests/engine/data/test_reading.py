"""How a dataset is to be read: by what was found out and said, or as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.encoding import encoding_of
from engine.data.formats import UnknownFormat
from engine.data.read import Reading, read_raw
from engine.data.report import dataset_report
from engine.errors import ConfigError, DatasetError
from engine.named import parse_rows
from engine.sources import Source, resolve
from tests.conftest import write_jsonl
from tests.engine.data.rows import read_rows

CHINESE = [
    {"prompt": "怎么才能继续训练？", "completion": "选最远的检查点，然后继续。"},
    {"prompt": "灯塔什么时候亮？", "completion": "有雾的时候就亮，直到天亮。"},
]


def encoded(path: Path, encoding: str) -> str:
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in CHINESE).encode(encoding))
    return str(path)


def test_gb18030_is_recognised_and_said(tmp_path: Path) -> None:
    found = read_rows(encoded(tmp_path / "rows.jsonl", "gb18030"))
    assert found == CHINESE
    assert any("GB18030" in note for note in found.notes)


def test_gb18030_is_refused_where_utf_8_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="row 1: is not UTF-8"):
        read_rows(encoded(tmp_path / "rows.jsonl", "gb18030"), encoding="utf-8")


def test_another_encoding_is_never_guessed_but_can_be_named(tmp_path: Path) -> None:
    traditional = [{"prompt": "什麼時候？", "completion": "有霧的時候。"}]
    file = tmp_path / "rows.jsonl"
    file.write_bytes((json.dumps(traditional[0], ensure_ascii=False) + "\n").encode("big5"))
    with pytest.raises(DatasetError, match="--encoding"):
        read_rows(str(file))
    assert read_rows(str(file), encoding="big5") == traditional
    raw = read_raw(str(file), Reading(encoding="big5"))
    assert (raw.notes, raw.encodings) == ((), ("big5",)), "what was asked for is not told"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("안녕하세요 저는 한국어를 배우는 학생입니다 그리고 오늘 날씨가 좋네요 우리는 함께 공부합니다", "euc-kr"),
        ("こんにちは、私は日本語を勉強しています。今日は天気がいいですね。漢字も多い文章を書きます", "euc-jp"),
        ("こんにちは、私は日本語を勉強しています。今日は天気がいいですね。", "shift_jis"),
        ("déjà vu, garçon, où est le café? été çà là", "latin-1"),
        ("привет как дела сегодня хорошая погода мы учимся", "cp1251"),
        ("привет как дела сегодня хорошая погода мы учимся", "koi8-r"),
        ("這是一個很好的問題，我想問一下怎麼樣才能繼續", "big5"),
    ],
)
def test_no_other_encoding_is_taken_for_gb18030(text: str, encoding: str) -> None:
    assert encoding_of(text.encode(encoding), whole=True) is None


@settings(max_examples=200, deadline=None)
@given(st.text(), st.integers(0, 400))
def test_utf_8_is_known_wherever_it_is_cut(text: str, cut: int) -> None:
    assert encoding_of(text.encode("utf-8", "ignore")[:cut], whole=False) == "utf-8"


def test_columns_stand_for_what_was_said(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"frage": "Who?", "antwort": "We."}]))
    assert read_rows(file, columns="prompt=frage,completion=antwort") == [{"prompt": "Who?", "completion": "We."}]


def test_columns_of_turns_stand_for_what_was_said(tmp_path: Path) -> None:
    turns = [{"speaker": "user", "says": "Who?"}, {"speaker": "assistant", "says": "We."}]
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"chat_log": turns}]))
    (row,) = read_rows(file, columns="messages=chat_log,role=speaker,content=says")
    assert row == {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We."}]}


def test_speakers_by_other_names_are_known_where_columns_say_who_speaks(tmp_path: Path) -> None:
    turns = [{"who": "human", "txt": "Who?"}, {"who": "bot", "txt": "We."}]
    file = write_jsonl(tmp_path / "rows.jsonl", [{"talk": turns}])
    wanted = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We."}]
    assert read_rows(str(file), columns="messages=talk,role=who,content=txt") == [{"messages": wanted}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"turns": [{"who": "human", "txt": "Who?"}, {"who": "gpt", "txt": "We."}]}, "messages=turns,role=who,content=txt"),
        ({"turns": [{"txt": "Who?", "who": "human"}, {"txt": "We.", "who": "gpt"}]}, "messages=turns,role=who,content=txt"),
        ({"turns": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We."}]}, "messages=turns"),
        ({"turns": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "We."}]}, "messages=turns"),
        ({"id": 4, "ask": "Who?", "say": "We."}, "instruction=ask,output=say"),
    ],
)
def test_the_columns_that_are_proposed_make_the_rows_readable(row: dict[str, Any], columns: str, tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [row]))
    with pytest.raises(UnknownFormat) as caught:
        read_rows(file)
    assert caught.value.columns == columns
    (found,) = read_rows(file, columns=columns)
    assert [turn["content"] for turn in found["messages"]] == ["Who?", "We."]


def test_the_spaces_around_a_tables_column_names_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("ask , say\nWho?,We.\n")
    assert read_rows(str(tmp_path / "rows.csv"), columns="prompt=ask,completion=say") == [
        {"prompt": "Who?", "completion": "We."}
    ]


def test_a_column_that_has_the_name_already_gives_way_wherever_it_stands(tmp_path: Path) -> None:
    for row in ({"q": "Who?", "prompt": "?", "a": "We."}, {"prompt": "?", "q": "Who?", "a": "We."}):
        file = str(write_jsonl(tmp_path / "rows.jsonl", [row]))
        assert read_rows(file, columns="prompt=q,completion=a") == [{"prompt": "Who?", "completion": "We."}]


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"a": "Who?", "b": "We."}]))
    with pytest.raises(DatasetError, match="no column 'question'") as caught:
        read_rows(file, columns="prompt=question,completion=b")
    assert "a, b" in caught.value.detail


def test_a_torn_last_line_is_left_out_only_when_asked_to(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "lamp"}\n{"text": "fo')
    with pytest.raises(DatasetError, match=r"row 2.*cut off") as caught:
        read_rows(str(file))
    assert "--skip-rows" in caught.value.fix
    assert read_rows(str(file), skip_rows="2") == [{"text": "lamp"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_rows_left_out_are_counted_on(name: str, tmp_path: Path) -> None:
    from tests.engine.data.test_read import FILES
    from tests.engine.data.written import ROWS

    (tmp_path / name).write_bytes(FILES[name]())
    assert read_rows(str(tmp_path / name), skip_rows="2") == [ROWS[0], ROWS[2]]


def test_in_a_folder_rows_are_counted_through_all_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "c"}, {"text": 4}])
    assert read_rows(str(tmp_path), skip_rows="4,1") == [{"text": "b"}, {"text": "c"}]


def test_a_dataset_of_which_every_row_is_left_out_is_not_called_empty(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "b"}])
    with pytest.raises(DatasetError, match="left out by --skip-rows"):
        read_rows(str(file), skip_rows="1-2")


@given(st.sets(st.integers(1, 3000), min_size=1, max_size=40))
def test_row_numbers_come_back_from_their_ranges(rows: set[int]) -> None:
    ordered = sorted(rows)
    words = ",".join(f"{number}-{number}" if number % 2 else str(number) for number in ordered)
    assert parse_rows(words) == rows


@pytest.mark.parametrize(
    ("setting", "value"),
    [("columns", "prompt"), ("columns", "colour=red"), ("columns", "prompt=a,prompt=b"), ("skip_rows", "0"), ("skip_rows", "9-3"),
     ("skip_rows", "a"), ("skip_rows", "1-99999999"), ("skip_rows", "٣"), ("encoding", "latin-1")],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_told(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting.replace("_", "-")):
        resolve([Source("flag", "", {setting: value})])


@pytest.mark.parametrize("fault", ['{"text": 7}\n', '{"text": "fo', '{"text"}\n'])
def test_what_is_to_be_left_out_is_said_with_the_rows_that_are_already(fault: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(fault.strip() + '\n{"text": "lamp"}\n' + fault)
    with pytest.raises(DatasetError) as caught:
        read_rows(str(file), skip_rows="1")
    assert "--skip-rows 1,3" in caught.value.fix
    assert read_rows(str(file), skip_rows="1,3") == [{"text": "lamp"}]


def test_several_rows_to_leave_out_are_said_with_those_that_are_already(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": row} for row in (7, "lamp", 8, 9)]))
    with pytest.raises(DatasetError) as caught:
        read_rows(file, skip_rows="1")
    assert "--skip-rows 1,3,4." in caught.value.fix


def test_columns_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"丙": "1", "乙": "We.", "甲": "Who?"}]))
    for columns in (None, "text=丁"):
        with pytest.raises(DatasetError) as caught:
            read_rows(file, columns=columns)
        assert "丙, 乙, 甲" in caught.value.detail


@pytest.mark.parametrize(
    ("row", "columns"), [({"story": "lamp"}, "text=story"), ({"story": ["lamp"]}, None), ({"page": "7"}, None), ({}, None)]
)
def test_no_column_is_proposed_that_is_not_there(row: dict[str, Any], columns: str | None, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat) as caught:
        read_rows(str(write_jsonl(tmp_path / "rows.jsonl", [row])))
    assert caught.value.columns == columns


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_the_last_row_of_a_file_that_is_left_out_is_counted_before_the_next_file(name: str, tmp_path: Path) -> None:
    from tests.engine.data.test_read import FILES
    from tests.engine.data.written import ROWS

    for file in ("a", "b"):
        (tmp_path / f"{file}-{name}").write_bytes(FILES[name]())
    assert read_rows(str(tmp_path), skip_rows="3") == [*ROWS[:2], *ROWS]


def test_what_is_wrong_with_many_rows_in_the_same_way_is_told_once(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": row} for row in ("lamp", 7, ["a"], 8, 9)]))
    with pytest.raises(DatasetError) as caught:
        read_rows(file)
    assert "rows.jsonl, row 2" in caught.value.title and "(and 2 more rows: 4, 5)" in caught.value.title
    assert caught.value.detail is not None and caught.value.detail.count("row 3") == 1


def test_where_no_row_can_be_used_it_is_not_said_to_leave_out_all_of_them(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "rows.jsonl", [{"text": row} for row in (7, 8)]))
    with pytest.raises(DatasetError) as caught:
        read_rows(file)
    assert "--skip-rows" not in str(caught.value.fix) and "--format" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("skipped", "first"), [("1,9", 9), ("3-5,7", 7), ("2,6-9", 6), ("3-9", None), ("2-4", None), ("1", None), (None, None)]
)
def test_rows_to_leave_out_that_are_not_there_are_told(skipped: str | None, first: int | None, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": str(row)} for row in range(4)])
    notes = dataset_report(str(file), Reading(skip_rows=skipped), None, "auto", 64).notes
    told = [note for note in notes if "--skip-rows" in note]
    assert (f"{first})" in told[0] if told else first is None) and len(told) == (first is not None)
