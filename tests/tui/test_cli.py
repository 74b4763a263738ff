"""The command line as a person or a script meets it: exit codes, one clear message, nothing loaded that is not needed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import ELSEWHERE, RunConfig
from engine.errors import ConfigError
from engine.folder import write_run_toml
from engine.training.expect import expect_of
from tests.conftest import chats, run_lora_tui, write_jsonl
from tui.cli import COMMANDS_ELSEWHERE, _run, main, run_parser
from tui.commands import COMMANDS
from tui.data import run_data
from tui.show import Show

HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "textual"}


def loaded_by(*arguments: object) -> set[str]:
    """The modules that are loaded when the command has ended, in a process of its own."""
    code = (
        "import sys, json\n"
        "from tui.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def begun_with(monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, Any]:
    """The answers that the wizard is begun with where the command is given these flags."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("tui.prompts.run_prompts", lambda answers, _demo: asked.append(answers) or 0)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert _run(["--accessible", *flags]) == 0
    return asked[0]


def test_a_flag_has_the_wizard_forget_what_it_excludes_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_MAX_STEPS", "5")
    assert begun_with(monkeypatch, "--epochs", "4") == {"epochs": "4"}


@pytest.mark.parametrize("named", [("--output", "out/w"), ("--resume", "out/w/checkpoint-8")])
def test_who_names_a_run_is_not_asked_for_its_dataset_and_model(
    named: tuple[str, str], monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], trained: Path
) -> None:
    found = {"dataset": flags["dataset"], "model": flags["model"], named[0][2:]: named[1]}
    assert begun_with(monkeypatch, *named) == found


def test_a_dataset_that_was_named_beside_a_run_is_the_one_that_counts(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], trained: Path
) -> None:
    found = {"dataset": "other.jsonl", "model": flags["model"], "output": "out/w"}
    assert begun_with(monkeypatch, "--output", "out/w", "--dataset", "other.jsonl") == found


def test_who_names_a_run_need_not_say_again_how_its_rows_are_read_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = {"dataset": "rows.csv", "model": "base", "skip_rows": "7", "chat_template": "plain"}
    (tmp_path / "out").mkdir()
    write_run_toml(tmp_path / "out", RunConfig(**own, output=str(tmp_path / "out")), "run-1")
    found = {**own, "output": str(tmp_path / "out")}
    assert begun_with(monkeypatch, "--output", str(tmp_path / "out")) == found


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("check", "{out}"),
        ("check", "{out}", "--json"),
        ("--version",),
        *((word, "--help") for word in COMMANDS),
    ],
)
def test_help_and_check_load_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    assert not HEAVY & loaded_by(*(word.format(out=tmp_path) for word in arguments))


def test_a_plan_is_made_without_torch(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    arguments = ("--yes", "--dry-run", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "x")
    assert not HEAVY & loaded_by(*arguments)
    assert not (tmp_path / "x").exists()


def test_the_first_frame_waits_for_nothing_of_checkpoints_and_runs() -> None:
    code = "import sys, tui.app, tui.screens.dataset; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tui.live" in loaded and not {"engine.checkpoints", "engine.resume", "engine.training"} & loaded


def test_no_run_is_told_to_the_hub(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    # huggingface_hub begins a thread at the first thing that is to be sent; TRL sends one at the start of each run.
    arguments = ("--yes", "--max-steps", "1", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "x")
    code = (
        "import sys, threading\n"
        "from tui.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, [one.name for one in threading.enumerate() if 'telemetry' in one.name])"
    )
    asked = ("CI", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


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


def test_a_failure_is_an_event_too(lora_tui: Any, bad: dict[str, list[object]]) -> None:
    _code, out, _err = lora_tui(*bad["empty dataset"], "--json")
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert (record["type"], record["exit_code"]) == ("run_failed", 4)


def test_a_model_that_cannot_be_found_is_a_problem_of_the_dataset_s_document(lora_tui: Any, chat_file: Path) -> None:
    code, out, _err = lora_tui("data", chat_file, "--model", "./nope", "--json")
    document = json.loads(out)
    (stops,) = [one for one in document["problems"] if one["severity"] == "stops"]
    assert (code, stops["code"], document["counts"]["model_unusable"]) == (4, "model_unusable", 1)
    assert "nope" in stops["message"] and document["rows"] > 0


def test_the_readme_names_every_flag_and_every_field_of_runs(lora_tui: Any, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    options = {word for action in run_parser()._actions for word in action.option_strings if not word.startswith("--no-")}
    assert [word for word in sorted(options - {"-h"}) if f"`{word}`" not in text and f"lora-tui {word}" not in text] == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.toml").write_text("schema_version = 1")
    (run,) = json.loads(lora_tui("runs", tmp_path, "--json")[1])["runs"]
    assert [name for name in run if f'"{name}"' not in text] == []


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


def test_data_with_a_model_tells_what_that_is_and_whether_it_fits(lora_tui: Any, chat_file: Path, tiny_model: Path) -> None:
    document = json.loads(lora_tui("data", chat_file, "--model", tiny_model, "--json")[1])
    assert document["model"]["parameters"] > 0 and document["fit"]["fitted"]["memory"]["weights"] > 0
    code, out, _err = lora_tui("data", chat_file, "--model", tiny_model)
    assert code == 0
    assert "has a chat template" in out and "fits · about" in out and "libraries 570 MB" in out


def test_data_does_not_advise_a_template_that_was_named(
    lora_tui: Any, chat_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    out = lora_tui("data", chat_file, "--model", base, "--chat-template", "plain")[1]
    assert "turns are written by --chat-template plain" in out and "has no chat template" not in out


def test_what_stops_a_run_ends_data_with_one_exit_code_for_scripts_and_people(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "the lamp burns"}] * 3)
    asked = ["data", str(rows), "--model", str(tiny_model), "--train-on", "completion"]
    assert (main([*asked, "--json"]), main(asked)) == (4, 4)
    assert "--train-on completion does not fit this dataset" in capsys.readouterr().err


def test_whether_a_model_fits_is_looked_at_before_it_is_loaded_to_be_timed(
    chat_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("tui.data.quiet_libraries", lambda: None)
    monkeypatch.setattr("tui.data.expect_of", lambda *given: (done.append("fits"), expect_of(*given))[1])
    monkeypatch.setattr("engine.training.trial.measure_epoch", lambda *given: done.append("timed"))
    assert run_data(RunConfig(dataset=str(chat_file), model=str(tiny_model)), as_json=True, measure=True) == 0
    assert done == ["fits", "timed"]


def test_no_share_is_told_of_what_is_not_known_to_have_an_end() -> None:
    stream = io.StringIO()
    show = Show(stream)
    show.progress("25 rows", None)
    assert stream.getvalue() == "25 rows\n"
