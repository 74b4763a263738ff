"""`lora-tui data` with a model: what that is, whether it fits, and what is advised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.training.expect import expect_of
from tests.conftest import write_jsonl
from tui.cli import main
from tui.data import run_data


def test_a_model_that_cannot_be_found_is_a_problem_of_the_dataset_s_document(lora_tui: Any, chat_file: Path) -> None:
    code, out, _err = lora_tui("data", chat_file, "--model", "./nope", "--json")
    document = json.loads(out)
    (stops,) = [one for one in document["problems"] if one["severity"] == "stops"]
    assert (code, stops["code"], document["counts"]["model_unusable"]) == (4, "model_unusable", 1)
    assert "nope" in stops["message"] and document["rows"] > 0


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
