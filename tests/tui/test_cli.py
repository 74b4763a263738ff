"""The command line as a person or a script meets it: exit codes, one clear message, help."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.sources import ELSEWHERE
from tests.conftest import chats, write_jsonl
from tui.cli import _run, run_parser
from tui.commands import COMMANDS
from tui.meant import COMMANDS_ELSEWHERE


@pytest.fixture
def bad(tmp_path: Path, tiny_model: Path, chat_file: Path) -> dict[str, list[object]]:
    """What a person may get wrong -> the arguments that do it."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "nomodel").mkdir()
    (tmp_path / "file").write_text("x")
    silent = write_jsonl(tmp_path / "silent.jsonl", [{"messages": [{"role": "user", "content": "hello"}]}] * 3)
    rows: list[dict[str, Any]] = chats(6)
    rows[3]["messages"][1]["content"] = 7
    wrong = write_jsonl(tmp_path / "wrong.jsonl", rows)
    good = ["--dataset", chat_file, "--model", tiny_model]
    return {
        "nothing said": ["--yes", "--output", tmp_path / "out"],
        "missing file": ["--yes", "--dataset", tmp_path / "no.jsonl", "--model", tiny_model],
        "empty dataset": ["--yes", "--dataset", tmp_path / "empty.jsonl", "--model", tiny_model],
        "no trainable token": ["--yes", "--dataset", silent, "--model", tiny_model],
        "wrong type": ["--yes", "--dataset", wrong, "--model", tiny_model],
        "no model": ["--yes", "--dataset", chat_file, "--model", tmp_path / "nomodel"],
        "missing model": ["--yes", "--dataset", chat_file, "--model", tmp_path / "gone"],
        "a file as output": ["--yes", *good, "--output", tmp_path / "file"],
        "unwritable output": ["--yes", *good, "--output", "/proc/lora-tui"],
        "unknown flag": ["--yes", *good, "--epoch", 3],
        "out of range": ["--yes", *good, "--epochs", 0],
        "a small negative rate": ["--yes", *good, "--learning-rate", "-1e-4"],
        "missing config file": ["--yes", *good, "--config", tmp_path / "no.toml"],
        "missing checkpoint": ["--yes", *good, "--resume", tmp_path / "checkpoint-9"],
        "no questions asked": good,
        "two ways at once": [
            "--yes",
            *good,
            "--resume",
            tmp_path / "checkpoint-9",
            "--init-from",
            tmp_path / "checkpoint-9",
        ],
        "layers that are not there": ["--yes", *good, "--output", tmp_path / "out", "--target-modules", "w_pack"],
        "one layer that is not there": ["--yes", *good, "--output", tmp_path / "out", "--target-modules", "q_proj,q_prj"],
        "the output layer": ["--yes", *good, "--output", tmp_path / "out", "--target-modules", "lm_head"],
        "the output layer among others": [
            "--yes",
            *good,
            "--output",
            tmp_path / "out",
            "--target-modules",
            "q_proj,model.lm_head",
        ],
        "unknown command": ["chek", "out"],
        "a command behind flags": ["--yes", "check", "my run", "--json"],
        "a command behind its own flags": ["--json", "--model", "a b", "--yes", "data", "x.jsonl"],
        "check of no name": ["check", ""],
        "runs under no name": ["runs", ""],
        "a word of resume in capitals": ["--yes", *good, "--resume", "AUTO"],
        "check of nothing": ["check", tmp_path / "gone"],
    }


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("nothing said", 2, "--dataset, --model"),
        ("missing file", 4, "no.jsonl"),
        ("empty dataset", 4, "empty"),
        ("no trainable token", 4, "row 1"),
        ("wrong type", 4, "row 4"),
        ("no model", 4, "config.json"),
        ("missing model", 4, "gone"),
        ("a file as output", 5, "file: is a file, not a folder"),
        ("unwritable output", 5, "cannot write"),
        ("unknown flag", 2, "did you mean --epochs?"),
        ("out of range", 2, "--epochs"),
        ("a small negative rate", 2, "--learning-rate: '-1e-4' is out of range"),
        ("missing config file", 2, "no.toml"),
        ("missing checkpoint", 3, "checkpoint-9"),
        ("no questions asked", 2, "--yes"),
        ("two ways at once", 2, "--init-from"),
        ("layers that are not there", 4, "w_pack"),
        ("one layer that is not there", 4, "q_prj: this model has no such layers"),
        ("the output layer", 4, "lm_head: no adapter can be put there"),
        ("the output layer among others", 4, "--target-modules model.lm_head: no adapter can be put there"),
        ("unknown command", 2, "did you mean check?"),
        ("a command behind flags", 2, "the command goes first: lora-tui check 'my run' --json"),
        ("a command behind its own flags", 2, "the command goes first: lora-tui data x.jsonl --json --model 'a b'"),
        ("check of no name", 2, "OUT: is empty"),
        ("runs under no name", 2, "ROOT: is empty"),
        ("a word of resume in capitals", 2, "--resume: 'AUTO' is no checkpoint; did you mean auto?"),
        ("check of nothing", 2, "gone"),
    ],
)
def test_bad_input_ends_with_its_exit_code_and_one_clear_message(
    what: str, code: int, told: str, bad: dict[str, list[object]], lora_tui: Any
) -> None:
    found, out, err = lora_tui(*bad[what])
    assert (found, out) == (code, ""), err
    assert told in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--lr", "1e-4"], "unknown flag --lr · did you mean --learning-rate?"),
        (["--model_name_or_path=x"], "unknown flag --model_name_or_path · did you mean --model?"),
        (["train", "--model", "a b"], "a run needs no command: lora-tui --model 'a b'"),
        (["--output", "run", "--lora-r", "4", "run"], "a run needs no command: lora-tui --output run --lora-r 4"),
        (["--output", "data", "data", "x.jsonl"], "the command goes first: lora-tui data x.jsonl"),
        (["ls"], "unknown command or argument ls · did you mean runs?"),
        (["my rows.csv"], "unknown command or argument my rows.csv · did you mean --dataset 'my rows.csv'?"),
    ],
)
def test_what_other_programs_call_it_is_understood(
    typed: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my rows.csv").touch()
    with pytest.raises(ConfigError) as refused:
        _run(typed)
    assert refused.value.title == told


def test_a_flag_that_a_command_does_not_know_is_told_with_the_one_that_is_meant() -> None:
    for command, typed, meant in (("export", "--quantise", "--quantize"), ("data", "--base-model", "--model")):
        with pytest.raises(ConfigError, match=f"unknown flag {typed} · did you mean {meant}") as refused:
            COMMANDS[command].parser().parse_args(["x", *(["--to", "gguf"] if command == "export" else []), typed])
        assert f"lora-tui {command} --help" in str(refused.value.fix)


def test_names_of_other_trainers_stand_for_settings_and_are_none_themselves() -> None:
    assert {*ELSEWHERE.values()} <= RunConfig.model_fields.keys()
    assert RunConfig.model_fields.keys().isdisjoint(ELSEWHERE) and COMMANDS.keys() >= {*COMMANDS_ELSEWHERE.values()}


def test_a_start_that_failed_leaves_no_folder_that_looks_like_a_run(lora_tui: Any, tmp_path: Path, tiny_model: Path) -> None:
    lora_tui("--yes", "--dataset", tmp_path / "no.jsonl", "--model", tiny_model, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_is_an_event_too(lora_tui: Any, bad: dict[str, list[object]]) -> None:
    _code, out, _err = lora_tui(*bad["empty dataset"], "--json")
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert (record["type"], record["exit_code"]) == ("run_failed", 4)


def test_the_readme_names_every_flag_and_every_field_of_runs(lora_tui: Any, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    options = {word for action in run_parser()._actions for word in action.option_strings if not word.startswith("--no-")}
    assert [word for word in sorted(options - {"-h"}) if f"`{word}`" not in text and f"lora-tui {word}" not in text] == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.toml").write_text("schema_version = 1")
    (run,) = json.loads(lora_tui("runs", tmp_path, "--json")[1])["runs"]
    assert [name for name in run if f'"{name}"' not in text] == []


@pytest.mark.parametrize("language", [["--lang", "en"], ["--lang=en"]])
def test_the_language_may_stand_in_front_of_a_command(language: list[str], tmp_path: Path, capsys: Any) -> None:
    from tui.cli import main

    assert main([*language, "check", str(tmp_path)]) == 3
    assert "There is no checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("ahead", [["--no-color"], ["--no-color", "--lang", "en"], ["--lang=en", "--no-color"]])
def test_a_command_without_colours_leaves_them_out_like_everything_that_asks_for_no_color(
    ahead: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tui.cli import main

    monkeypatch.setenv("NO_COLOR", "")  # so that it is put back
    assert main([*ahead, "check", str(tmp_path)]) == 3
    assert os.environ["NO_COLOR"] == "1"


@pytest.mark.parametrize(
    "words", ["weight decay (0)", "in front of the adapter (0)", "0: never (0)", "in total (3)", "rate (0.0002)"]
)
def test_help_tells_a_default_also_where_it_is_nothing(words: str, lora_tui: Any) -> None:
    assert words in " ".join(lora_tui("--help")[1].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_command_is_for(command: str) -> None:
    assert COMMANDS[command].about in run_parser().format_help()


def test_help_names_every_exit_code_that_the_readme_has() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Exit codes")[2].partition("\n## ")[0]
    codes = [code for line in table.splitlines() if line.startswith("| ") for code in re.findall(r"\d+", line.split("|")[1])]
    told = run_parser().format_help().partition("exit codes:")[2]
    assert len(codes) > 8
    assert set(codes) == set(re.findall(r"\b\d+\b", told))


def test_an_export_into_an_empty_name_does_not_go_into_the_folder_one_stands_in() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        COMMANDS["export"].carry_out(["out", "--to", "adapter", "--into", ""])
