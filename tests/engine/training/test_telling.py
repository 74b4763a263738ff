"""How the end of a run is told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.config import RunConfig
from engine.errors import LoraTuiError, ModelError
from engine.events import Event, Warned
from engine.journal import read_journal
from engine.lock import is_held
from engine.training.refused import refused
from tests.engine.runs import train


def test_a_run_that_fails_says_so_while_it_still_holds_its_folder(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    """Whoever finds the lock free and no last word takes it for a run that died."""
    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-8])
    held = []

    def watch(event: Event) -> None:
        if event.type == "run_failed":
            held.append((is_held(out), [record["type"] for record in read_journal(out)][-1]))

    with pytest.raises(ModelError):
        train(dataset=chat_file, model=model, output=out, watch=watch)
    assert held == [(True, "run_failed")]
    assert not is_held(out)


def test_a_fault_before_the_journal_is_there_leaves_its_traceback_where_it_is_said_to_be(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("engine.training.trainer.load_material", fails)
    with pytest.raises(LoraTuiError, match=r"run\.log has the details"):
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run")
    log = (tmp_path / "run/run.log").read_text()
    assert "Traceback" in log and "nobody foresaw this" in log


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("model/model.safetensors", 4, "this file of the model cannot be used"),
        ("data.jsonl", 4, "this file of the dataset cannot be used"),
        ("hub/datasets--me--measured/x.parquet", 4, "this file of the dataset cannot be used"),
        ("cache/tokens/x.arrow", 5, "LORA_TUI_CACHE names another folder"),
        ("tmp/x", 5, "TMPDIR names another folder"),
        ("run-2/x", 5, "run-2/x: cannot be read or written"),
        ("run/checkpoint-3", 5, "run: cannot write here"),
    ],
)
def test_what_the_system_refuses_is_told_of_the_file_that_it_was(
    name: str, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "model").mkdir()
    config = RunConfig(model=str(tmp_path / "model"), dataset=str(tmp_path / "data.jsonl"), eval_dataset="me/measured")
    error = refused(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / name)), tmp_path / "run", config)
    assert error.exit_code == code
    assert told in str(error) and os.strerror(errno.EACCES) in str(error)
    assert str(tmp_path / name) in str(error) or name.startswith("run/")


def test_a_full_folder_for_temporary_files_is_not_taken_for_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to says only that there is no room, not where."""
    full = tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0 if Path(folder) == full else 2**40))
    error = refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tmp_path / "run", RunConfig())
    assert (error.title, error.exit_code) == (f"{full}: cannot be read or written", 5)


def test_a_file_of_the_model_that_cannot_be_read_while_it_trains_is_named(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tiny_model / "config.json"

    def fails(*_given: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(at))

    monkeypatch.setattr("engine.training.trainer.decide", fails)
    with pytest.raises(ModelError, match=r"config\.json: this file of the model"):
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run")


def test_layers_of_the_base_model_that_its_config_leaves_out_are_told(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    cut = Path(shutil.copytree(tiny_model, tmp_path / "cut"))
    settings = json.loads((cut / "config.json").read_text())
    settings.pop("layer_types", None)
    (cut / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1}))
    _outcome, events = train(dataset=chat_file, model=cut, output=tmp_path / "out", max_steps=1)
    told = [event.message for event in events if isinstance(event, Warned) and event.code == "weights_unused"]
    assert len(told) == 1 and "model.layers.1." in told[0]
