"""A run from the command line: what is told where, and what does not end it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_lora_tui
from tui.show import Show


def test_json_is_events_and_nothing_else_on_stdout(lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    flags = ["--yes", "--json", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "out", "--epochs", 1]
    code, out, _err = lora_tui(*flags)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [records[0]["type"], records[-1]["type"]] == ["run_started", "run_finished"]
    assert records == [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]


def telling_at_once(arguments: list[str], folder: str) -> None:
    """The body of a child process: lora-tui, which tells of each row how far it is."""
    import engine.data.table

    engine.data.table.TELL_EVERY = 0
    run_lora_tui(arguments, folder, {"LORA_TUI_CACHE": str(Path(folder) / "cache")})


def test_how_far_reading_is_stays_out_of_the_json_that_scripts_read(
    processes: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """It is told while people look on, and is no event of C2."""
    flags = [
        "--yes",
        "--json",
        "--dataset",
        str(chat_file),
        "--model",
        str(tiny_model),
        "--output",
        "out",
        "--max-steps",
        "1",
    ]
    process = processes.Process(target=telling_at_once, args=(flags, str(tmp_path)))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert "rows tokenised" in (tmp_path / "stderr.txt").read_text()
    assert json.loads((tmp_path / "stdout.txt").read_text().splitlines()[0])["type"] == "run_started"


def test_auto_with_nothing_else_goes_on_with_the_last_run_under_out(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    lora_tui("--yes", "--dataset", chat_file, "--model", tiny_model, "--epochs", 1, "--batch-size", 4)
    (tmp_path / "out" / "another").mkdir()
    code, _out, err = lora_tui("--yes", "--resume", "auto", "--epochs", 2)
    assert code == 0
    name = f"{chat_file.stem}-{tiny_model.name}"
    assert "continuing from checkpoint-7 · epoch 1.00 of 2 · step 7 · last loss" in err
    assert "1.00 epochs left" in err
    assert f"out/{name}/final" in err


def test_what_libraries_print_goes_to_run_log(lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    _code, _out, err = lora_tui(
        "--yes", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "o", "--epochs", 1
    )
    assert "Loading weights" not in err
    assert "Loading weights" in (tmp_path / "o" / "run.log").read_text()


def test_a_disk_that_takes_no_more_stops_the_run_and_keeps_what_was_saved(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "out"
    flags = ["--yes", "--dataset", chat_file, "--model", tiny_model, "--output", out, "--epochs", 1, "--batch-size", 4]
    code, _out, err = lora_tui(*flags, "--save-steps", 2, TEST_LARGEST_FILE="20000")
    assert code == 5, err
    assert "could not be saved" in err
    assert not list(out.glob(".staging-*")) and not list(out.glob("checkpoint-*"))
    code, _out, err = lora_tui(*flags, "--save-steps", 2)
    assert code == 0, err


def test_a_run_may_go_on_although_it_cannot_save(lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    flags = [
        "--yes",
        "--dataset",
        chat_file,
        "--model",
        tiny_model,
        "--output",
        tmp_path / "o",
        "--epochs",
        1,
        "--batch-size",
        4,
    ]
    _code, _out, err = lora_tui(*flags, "--on-save-error", "continue", "--save-steps", 2, TEST_LARGEST_FILE="20000")
    assert "step 7/7" in err
    assert err.count("could not be saved") >= 4


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_reader_that_goes_away_does_not_end_the_training(
    start: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    os.mkfifo(tmp_path / "stdout.txt")
    process = start("--yes", "--json", "--dataset", chat_file, "--model", tiny_model, "--epochs", 1, "--output", "out")
    with open(tmp_path / "stdout.txt", "rb") as reader:
        assert b"run_started" in reader.readline()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "out" / "final").is_dir()


def test_no_share_is_told_of_what_is_not_known_to_have_an_end() -> None:
    stream = io.StringIO()
    show = Show(stream)
    show.progress("25 rows", None)
    assert stream.getvalue() == "25 rows\n"
