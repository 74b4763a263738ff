"""A run without lora-tui: the script is run, and its losses are the run's."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.eject import TARGETS, eject, recipe
from engine.errors import ConfigError
from engine.folder import own_start, write_run_toml
from tests.conftest import write_jsonl
from tests.engine.checkpoints.folders import undigested
from tests.engine.eject.rows import ROWS
from tests.engine.resume.test_receipt import change_json
from tests.engine.runs import losses, train


def carry_out(script: str, folder: str) -> None:
    """The body of a child process that has imported the libraries already."""
    os.chdir(folder)
    runpy.run_path(script, run_name="__main__")


def test_the_script_runs_and_its_losses_are_the_runs(ran: Path, processes: Any, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(eject(ran, "script"), encoding="utf-8")
    if ran.parent.name.startswith("messages"):  # one of them as a person runs it
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        process = processes.Process(target=carry_out, args=(str(script), str(tmp_path)))
        process.start()
        process.join(120)
        assert process.exitcode == 0
    state = json.loads((tmp_path / "the run-trl" / "checkpoint-4" / "trainer_state.json").read_text())
    theirs = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert [loss for _step, loss in losses(ran)] == pytest.approx(theirs, abs=1e-5)
    assert (tmp_path / "the run-trl" / "final" / "adapter_model.safetensors").is_file()


def test_a_name_full_of_tricks_stays_a_name(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / 'rows"; import os #\n.jsonl', ROWS["text"])
    out = tmp_path / 'out"""\nraise SystemExit(9)\n#'
    train(dataset=data, model=tiny_model, output=out, max_steps=1, batch_size=6)
    for to in TARGETS:
        text = eject(out, to)
        if to == "script":
            assert not any(isinstance(node, ast.Name) and node.id == "SystemExit" for node in ast.walk(ast.parse(text)))
        else:
            assert isinstance(yaml.safe_load(text), dict)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        eject(tmp_path, "script")


def test_a_script_that_would_learn_something_else_is_not_written(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["messages"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert eject(tmp_path / "out", "script")
    monkeypatch.setattr(recipe, "span_of", lambda turns, index, text, write, tokenizer, closing, opens: (0, len(text)))
    with pytest.raises(ConfigError, match="Row 1 would become other tokens"):
        eject(tmp_path / "out", "script")


def test_a_run_from_weights_is_refused_since_a_script_would_begin_with_none(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    flags: dict[str, Any] = {"dataset": data, "model": tiny_model, "max_steps": 1, "batch_size": 6}
    train(output=tmp_path / "one", **flags)
    train(output=tmp_path / "two", init_from=tmp_path / "one" / "checkpoint-1", **flags)
    with pytest.raises(ConfigError, match="began from the weights of"):
        eject(tmp_path / "two", "script")


def test_what_was_changed_in_the_middle_of_the_run_is_told(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    asked: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "batch_size": 4}
    train(**asked, max_steps=2)
    assert "behind step" not in eject(tmp_path / "run", "script")
    train(**asked | {"batch_size": 2}, grad_accum=2, max_steps=3, learning_rate=0.003)
    for to in ("script", "axolotl", "llamafactory"):
        (told,) = (line for line in eject(tmp_path / "run", to).splitlines() if "behind step 2" in line)
        assert told.startswith("# ") and "max_steps 2 -> 3" in told and "-> 0.003" in told
        assert "rows of a step" not in told


def test_a_run_that_was_extended_and_has_not_saved_since_is_as_long_as_asked(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1)
    assert "max_steps=" in eject(tmp_path / "run", "script")
    start = own_start(tmp_path / "run")
    assert start is not None
    write_run_toml(tmp_path / "run", start.model_copy(update={"epochs": 2.0}), "id")
    told = eject(tmp_path / "run", "script")
    assert "num_train_epochs=2," in told and "max_steps=" not in told


def test_a_step_of_several_processes_stays_as_large_with_one(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=1, grad_accum=2)
    manifest = tmp_path / "out" / "checkpoint-1" / "manifest.json"
    geometry = undigested(manifest)["geometry"] | {"world_size": 3}
    change_json(manifest, geometry=geometry, others=[{"rng": "0" * 64, "loss_sum": None}] * 2)
    assert "gradient_accumulation_steps=6," in eject(tmp_path / "out", "script")
    for to in ("axolotl", "llamafactory"):
        text = eject(tmp_path / "out", to)
        assert yaml.safe_load(text)["gradient_accumulation_steps"] == 6
        assert "# lora-tui trained with 3 processes" in text


def test_what_an_adapter_is_beside_its_rank_goes_along(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert "use_" not in eject(tmp_path / "out", "script").partition("LoraConfig(\n")[2]
    change_json(tmp_path / "out" / "checkpoint-1" / "adapter_config.json", use_rslora=True, rank_pattern={"q_proj": 4})
    (adapter,) = [node for node in ast.walk(ast.parse(eject(tmp_path / "out", "script")))
                  if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoraConfig"]  # fmt: skip
    said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in adapter.keywords}
    assert (said["use_rslora"], said["rank_pattern"]) == (True, {"q_proj": 4})
    for to, name in (("axolotl", "peft_use_rslora"), ("llamafactory", "use_rslora")):
        text = eject(tmp_path / "out", to)
        assert yaml.safe_load(text)[name] is True
        assert '# It has no setting for what the adapter also is: {"rank_pattern": {"q_proj": 4}}' in text
