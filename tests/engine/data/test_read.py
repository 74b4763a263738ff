# ruff: noqa: RUF043
"""Rows out of files: every format gives the same rows, and every damage is a DatasetError that names the file and the place."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.data import formats
from engine.data.files import CHATS
from engine.data.read import read_raw
from engine.errors import DatasetError
from tests.engine.data.rows import read_rows
from tests.engine.data.written import GOOD, ROWS, jsonl, parquet, table

FILES: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lambda: jsonl(ROWS),
    "rows.ndjson": lambda: jsonl(ROWS),
    "ROWS.JSONL": lambda: jsonl(ROWS),
    "no-last-line-feed.jsonl": lambda: jsonl(ROWS).rstrip(),
    "byte-order-mark.jsonl": lambda: b"\xef\xbb\xbf" + jsonl(ROWS),
    "windows.jsonl": lambda: jsonl(ROWS).replace(b"\n", b"\r\n"),
    "blank-lines.jsonl": lambda: b"\n" + jsonl(ROWS).replace(b"\n", b"\n\n"),
    "rows.jsonl.gz": lambda: gzip.compress(jsonl(ROWS)),
    "rows.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "wrapped.json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "described.json": lambda: json.dumps(
        {"version": 1, "authors": [{"name": "we"}], "license": "MIT", "data": ROWS}
    ).encode(),
    "really-lines.json": lambda: jsonl(ROWS),
    "rows.json.gz": lambda: gzip.compress(json.dumps(ROWS).encode()),
    "rows.csv": lambda: table(","),
    "mark.csv": lambda: b"\xef\xbb\xbf" + table(","),
    "rows.csv.gz": lambda: gzip.compress(table(",")),
    "semicolons.csv": lambda: table(";"),
    "bars.csv": lambda: table("|"),
    "tabs.csv": lambda: table("\t"),
    "rows.tsv": lambda: table("\t"),
    "rows.parquet": parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name]())
    assert list(read_rows(str(tmp_path / name))) == ROWS


def test_empty_columns_without_a_name_are_none_and_words_in_them_are_not_lost(tmp_path: Path) -> None:
    """As spreadsheets write them behind the last column."""
    (tmp_path / "rows.csv").write_text("prompt,completion,,\nWho?,We.,,\n")
    found = read_rows(str(tmp_path / "rows.csv"))
    assert (list(found), found.notes) == ([{"prompt": "Who?", "completion": "We."}], ())
    (tmp_path / "rows.csv").write_text("prompt,completion,,\nWho?,We.,hm,\n")
    with pytest.raises(DatasetError, match=r"row 1 \(line 2\): has words"):
        read_rows(str(tmp_path / "rows.csv"))


def test_a_row_of_a_table_in_which_nothing_stands_is_passed_over_and_told(tmp_path: Path) -> None:
    """As spreadsheets write them below the last row. It keeps its number, which a --skip-rows may name."""
    (tmp_path / "rows.csv").write_text("prompt,completion\nWho?,We.\n,\nWhen?,Now.\n , \n,,,\n")
    found = formats.read_rows(str(tmp_path / "rows.csv"))
    assert [(number, row["prompt"]) for number, row in found.numbered()] == [(1, "Who?"), (3, "When?")]
    assert found.notes == ("rows.csv, row 2: nothing stands in this row and 2 more; they are passed over",)
    left_out = read_rows(str(tmp_path / "rows.csv"), skip_rows="2,4,5")
    assert (len(left_out), left_out.notes) == (2, ())


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_that_is_named_as_lines_is_told_with_the_name_it_needs(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS, indent=indent))
    with pytest.raises(DatasetError, match="beginning of an array") as caught:
        read_rows(str(tmp_path / "rows.jsonl"))
    assert ".json:" in caught.value.fix


@pytest.mark.parametrize("column", CHATS)
def test_an_object_with_a_list_of_turns_is_no_list_of_rows(column: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "We."}]
    (tmp_path / "rows.json").write_text(json.dumps({column: turns}))
    with pytest.raises(DatasetError, match="not an array of rows"):
        read_rows(str(tmp_path / "rows.json"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere.jsonl: there is no such file or folder"):
        list(read_raw(str(tmp_path / "nowhere.jsonl")))


@pytest.mark.parametrize("name", ["", " ", "~nobody-of-this-name/rows.jsonl", "a\0b.jsonl"])
def test_a_name_that_can_be_no_file_is_an_error_of_the_dataset(name: str) -> None:
    with pytest.raises(DatasetError, match="there is no such file" if name.startswith("~") else "can be no file's name"):
        list(read_raw(name))


def test_a_pipe_is_refused_with_the_way_to_what_can_be_read_again(tmp_path: Path) -> None:
    """A shell hands one over for <(command)."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DatasetError, match=r"rows\.jsonl") as refused:
        list(read_raw(str(tmp_path / "rows.jsonl")))
    assert "into a file first" in refused.value.fix


DEEP = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"

BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("rows.jsonl", b"", ["rows.jsonl", "empty"]),
    "only blank lines": ("rows.jsonl", b"\n \n", ["rows.jsonl", "empty"]),
    "no rows in an array": ("rows.json", b"[]", ["rows.json", "empty"]),
    "nothing in an array's file": ("rows.json", b"", ["rows.json"]),
    "header only": ("rows.csv", b"prompt,completion\n", ["rows.csv", "empty"]),
    "torn last line": ("rows.jsonl", GOOD + b'{"text": "fo', ["rows.jsonl, row 2", "cut off"]),
    "torn behind a colon": ("rows.jsonl", GOOD + b'{"text":', ["rows.jsonl, row 2", "cut off"]),
    "torn in a character": ("rows.jsonl", GOOD + '{"text": "微'.encode()[:-1], ["rows.jsonl, row 2", "cut off"]),
    "no JSON": ("rows.jsonl", GOOD + b"text: lamp\n" + GOOD, ["rows.jsonl, row 2", "not JSON"]),
    "no JSON in the only line": ("rows.jsonl", b"lamp", ["rows.jsonl, row 1", "not JSON"]),
    "no JSON from the end of a line on": ("rows.jsonl", b'{"text": [\n' + GOOD, ["rows.jsonl, row 1", "not JSON", "column 11"]),
    "row behind a blank line": ("rows.jsonl", GOOD + b"\n{]\n", ["rows.jsonl, row 2 (line 3)"]),
    "not UTF-8": ("rows.jsonl", GOOD + '{"text": "é"}\n'.encode("latin-1"), ["rows.jsonl, row 2", "0xe9", "--encoding"]),
    "not UTF-8 in a table": ("rows.csv", b"text\nlamp\n\xb5\xc6\n", ["rows.csv, line 3", "0xb5"]),
    "UTF-16": ("rows.jsonl", GOOD.decode().encode("utf-16"), ["rows.jsonl", "UTF-16", "iconv"]),
    "UTF-32": ("rows.jsonl", GOOD.decode().encode("utf-32"), ["rows.jsonl", "is UTF-32", "iconv -f UTF-32"]),
    "UTF-32 of the other order": ("rows.json", b"\0\0\xfe\xff" + "[]".encode("utf-32-be"), ["rows.json", "is UTF-32"]),
    "NUL": ("rows.jsonl", GOOD + b'{"text": "a\0b"}\n', ["rows.jsonl, row 2", "NUL"]),
    "NUL in an array": ("rows.json", b'[{"text": "a"},\n{"text": "\0"}]', ["rows.json, line 2", "NUL"]),
    "half a character": ("rows.jsonl", GOOD + b'{"text": "\\ud83d"}\n', ["rows.jsonl, row 2", "U+D83D"]),
    "key twice": ("rows.jsonl", GOOD + b'{"text": "a", "text": "b"}\n', ["rows.jsonl, row 2", "'text'", "twice"]),
    "key twice inside": ("rows.jsonl", b'{"text": "a", "x": {"k": 1, "k": 2}}\n', ["row 1", "'k'"]),
    "nested deeply": ("rows.jsonl", GOOD + DEEP, ["rows.jsonl, row 2", "deeply"]),
    "number of many digits": ("rows.jsonl", GOOD + b'{"n": ' + b"9" * 5000 + b"}\n",
                              ["rows.jsonl, row 2", "more than 4300 digits", "--skip-rows"]),
    "number of many digits in an array": ("rows.json", b'[{"text": "a"},\n{"n": ' + b"9" * 5000 + b"}]",
                                          ["rows.json, line 2", "more than 4300 digits", "--skip-rows"]),
    "a line that is a list": ("rows.jsonl", GOOD + b"[1]\n", ["rows.jsonl, row 2", "a list"]),
    "an element that is text": ("rows.json", b'[{"text": "a"}, "b"]', ["rows.json, row 2", "text"]),
    "an object": ("rows.json", b'{"text": "a"}', ["rows.json", "array"]),
    "array torn": ("rows.json", b'[{"text": "a"},\n{"text": ', ["rows.json, line 2", "not JSON"]),
    "fields missing": ("rows.csv", b"prompt,completion\na,b\nc\n", ["rows.csv, row 2", "1", "2"]),
    "column twice": ("rows.csv", b"text,text\na,b\n", ["rows.csv", "twice"]),
    "quote not closed": ("rows.csv", b'text\na\n"b\n', ["rows.csv"]),
    "LFS pointer": ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ["LFS", "git lfs pull"]),
    "LFS pointer as parquet": ("rows.parquet", b"version https://git-lfs.github.com/spec/v1\n", ["rows.parquet", "LFS"]),
    "unknown suffix": ("rows.xlsx", b"PK", ["rows.xlsx", ".jsonl"]),
    "no suffix": ("rows", b"{}", ["rows"]),
    "gzip cut off": ("rows.jsonl.gz", gzip.compress(jsonl(ROWS) * 99)[:-20], ["rows.jsonl.gz"]),
    "gzip of an array cut off": ("rows.json.gz", gzip.compress(json.dumps(ROWS).encode())[:-20], ["rows.json.gz"]),
    "gzip of a table cut off": ("rows.csv.gz", gzip.compress(table(","))[:-20], ["rows.csv.gz"]),
    "no gzip": ("rows.jsonl.gz", GOOD, ["rows.jsonl.gz", "gzip"]),
    "no parquet": ("rows.parquet", b"PAR1 nothing PAR1", ["rows.parquet"]),
    "parquet of no bytes": ("rows.parquet", b"", ["rows.parquet"]),
}  # fmt: skip


def test_bytes_in_a_column_of_text_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(parquet([{"text": b"lamp"}]))
    with pytest.raises(DatasetError, match=r'row 1: "text" is a value of the type bytes, not text'):
        read_rows(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_told_with_its_name_and_the_place(fault: str, tmp_path: Path) -> None:
    name, data, words = BAD[fault]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        read_rows(str(tmp_path / name))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("place", range(10, 60, 7))
def test_a_gzip_with_a_wrong_byte_is_told(place: int, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(jsonl(ROWS), mtime=0))
    data[place] ^= 0xFF
    (tmp_path / "rows.jsonl.gz").write_bytes(data)
    with pytest.raises(DatasetError, match=r"rows\.jsonl\.gz"):
        read_rows(str(tmp_path / "rows.jsonl.gz"))


def test_a_parquet_file_with_wrong_bytes_is_read_or_told(tmp_path: Path) -> None:
    sound = parquet()
    file = tmp_path / "rows.parquet"
    for place in range(0, len(sound), 29):
        data = bytearray(sound)
        data[place] ^= 0xFF
        file.write_bytes(data)
        try:
            read_rows(str(file))
        except DatasetError as error:
            assert "rows.parquet" in str(error)


def test_a_row_longer_than_the_limit_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.texts.LONGEST_LINE", 1000)
    (tmp_path / "rows.jsonl").write_bytes(GOOD + jsonl([{"text": "a" * 2000}]))
    with pytest.raises(DatasetError, match=r"rows\.jsonl, row 2"):
        list(read_raw(str(tmp_path / "rows.jsonl")))


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\n", b"{", b"}", b"[", b"]", b'"', b"\\ud800", b"\\", b"null", b"NaN", b"1e999", b"-", b"\0", b"\r",
                     b'"text"', b'{"text": "a"}\n', b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", ',
                     b'"content": "a"}]}\n', b'"tools": ', b'"tool_calls": ', b"\xff\xfe", b"\xef\xbb\xbf", b":", b","]),
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=14).map(b"".join))
def test_any_mix_of_bytes_is_read_or_told(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        file.write_bytes(data)
        try:
            assert len(read_rows(str(file))) > 0
        except DatasetError as error:
            assert "rows.jsonl" in str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([name for name in FILES if not name.endswith("parquet")]),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
def test_any_damage_to_a_sound_file_is_read_or_told(name: str, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = FILES[name]()
    for place, piece in changes:
        at = place % len(data)
        data = data[:at] + piece + data[at + len(piece) :]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(data[: cut % (2 * len(data)) or None])
        try:
            read_rows(str(file))
        except DatasetError as error:
            assert name in str(error)


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array([word]) for word in ("ask", "other", "say")]
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "prompt", "completion"]), tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match="stands twice"):
        read_rows(str(tmp_path / "rows.parquet"))


def test_a_parquet_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("engine.data.parquet.LARGEST_TEXT", 10 << 20)
    pq.write_table(pa.table({"text": ["x" * (1 << 16)] * 2000}), tmp_path / "small.parquet", compression="zstd")
    with pytest.raises(DatasetError, match="unpacks to more than"):
        read_rows(str(tmp_path / "small.parquet"))


def test_columns_of_other_names_are_told_with_the_way_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("Frage;Antwort\nWas brennt?;Die Lampe.\n", encoding="utf-8")
    with pytest.raises(DatasetError) as told:
        list(read_rows(str(tmp_path / "odd.csv")))
    assert "--columns, for example instruction=Frage,output=Antwort" in told.value.fix


@pytest.mark.parametrize(
    "text", ['prompt, completion\n"Who, and when?", We.\n', '"prompt", "completion"\n"Who, and when?", "We."\n']
)
def test_a_space_behind_each_comma_of_a_table_is_no_part_of_its_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    assert list(read_rows(str(tmp_path / "rows.csv"))) == [{"prompt": "Who, and when?", "completion": "We."}]


def test_a_space_before_an_answer_stays_where_the_header_has_none(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nWho?, We.\n", encoding="utf-8")
    assert list(read_rows(str(tmp_path / "rows.csv"))) == [{"prompt": "Who?", "completion": " We."}]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("问题,回答", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        ("指令,输出,输入", [{"role": "user", "content": "a\n\nc"}, {"role": "assistant", "content": "b"}]),
        ("输入,输出", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        ("提问,答案,系统提示", [{"role": "system", "content": "c"}, {"role": "user", "content": "a"},
                              {"role": "assistant", "content": "b"}]),
    ],
)  # fmt: skip
def test_chinese_columns_that_say_what_they_are_make_a_conversation(header: str, said: list[Any], tmp_path: Path) -> None:
    (tmp_path / "zh.csv").write_text(f"{header}\n{','.join('abc'[: header.count(',') + 1])}\n", encoding="utf-8")
    assert list(read_rows(str(tmp_path / "zh.csv"))) == [{"messages": said}]


@pytest.mark.parametrize("header", ["问题,提问", "问题,解析", "输出,系统提示", "问题,指令,回答"])
def test_chinese_columns_that_do_not_make_a_row_are_asked_for(header: str, tmp_path: Path) -> None:
    (tmp_path / "zh.csv").write_text(f"{header}\n{','.join('abc'[: header.count(',') + 1])}\n", encoding="utf-8")
    with pytest.raises(DatasetError):
        read_rows(str(tmp_path / "zh.csv"))


def test_a_known_name_wins_over_a_chinese_one(tmp_path: Path) -> None:
    (tmp_path / "both.csv").write_text("prompt,completion,问题,回答\na,b,c,d\n", encoding="utf-8")
    assert list(read_rows(str(tmp_path / "both.csv"))) == [{"prompt": "a", "completion": "b"}]
