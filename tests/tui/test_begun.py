"""What the wizard is begun with where the command is given flags."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.folder import write_run_toml
from tui.cli import _run


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
