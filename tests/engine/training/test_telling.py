"""How the end of a run is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.errors import LoraTuiError, ModelError
from engine.events import Event
from engine.journal import read_journal
from engine.lock import is_held
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
