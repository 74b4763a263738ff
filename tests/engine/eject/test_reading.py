"""The script reads the rows that the run read, of any file."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from engine.eject import eject
from tests.conftest import write_jsonl
from tests.engine.eject.rows import ROWS, lines
from tests.engine.runs import train


@pytest.mark.parametrize(
    ("name", "delimiter"), [("rows.csv", ","), ("rows.csv", ";"), ("rows.csv", "|"), ("rows.csv", "\t"), ("rows.tsv", "\t")]
)
def test_the_script_reads_a_table_as_the_run_did(name: str, delimiter: str, tmp_path: Path, tiny_model: Path) -> None:
    rows = [("What burns?", "The lamp, and fog; both."), ("Who keeps it?", "We do.")] * 3
    with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([("prompt", "completion"), *rows])
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert [(row["prompt"], row["completion"]) for row in known["rows_of_files"](known["FILES"], set())] == rows


SOURCES = {
    "rows.jsonl": b"\xef\xbb\xbf" + lines(ROWS["text"]).replace(b"\n", b"\r\n\n"),
    "rows.jsonl.gz": gzip.compress(lines(ROWS["text"])),
    "lines.json": lines(ROWS["text"]),
    "array.json": json.dumps(ROWS["text"], indent=1).encode(),
    "data.json": json.dumps({"data": ROWS["text"]}).encode(),
    "rows.csv": b"content\n" + b"".join(row["content"].encode() + b"\n" for row in ROWS["text"]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_script_reads_the_rows_that_were_not_left_out(name: str, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / name).write_bytes(SOURCES[name])
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, skip_rows="2,4-5")
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert list(known["rows_of_files"](known["FILES"], known["SKIPPED"])) == [ROWS["text"][at] for at in (0, 2, 5)]


def test_a_damaged_row_that_was_left_out_does_not_stop_the_script(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS["text"]) + b'{"content": "\xff')
    train(
        dataset=tmp_path / "rows.jsonl", model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, skip_rows="7"
    )
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert list(known["rows_of_files"](known["FILES"], known["SKIPPED"])) == ROWS["text"]


def test_names_of_any_letters_reach_the_script(tmp_path: Path, tiny_model: Path) -> None:
    """JSON writes those beyond the first plane in halves, of which Python makes two letters."""
    data = write_jsonl(tmp_path / "rows 🦊.jsonl", [{"ask 🦊": f"question {n}", "say": f" alpha {n}"} for n in range(6)])
    asked = {"columns": "prompt=ask 🦊,completion=say"}
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, **asked)
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert known["NAMES"] == {"ask 🦊": "prompt", "say": "completion"}
    assert len(list(known["rows_of_files"](known["FILES"], set()))) == 6
