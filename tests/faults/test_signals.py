"""Signals at every phase of a run: no traceback, the documented code, nothing torn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.journal import read_journal
from tests.engine.runs import losses
from tests.faults.test_kill import journal_lines, wait_for

RUN = ["--yes", "--epochs", 30, "--batch-size", 4, "--save-steps", 1000]


@pytest.mark.parametrize(("name", "code"), [("SIGUSR1", 138), ("SIGUSR2", 140)])
def test_the_warning_of_a_batch_system_saves_once_and_has_its_own_code(
    name: str, code: int, start: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    process = start(*RUN, "--dataset", chat_file, "--model", tiny_model, "--output", out)
    wait_for(lambda: journal_lines(out) >= 3, process)
    os.kill(process.pid, getattr(signal, name))
    process.join(60)
    assert process.exitcode == code
    stopped_at = losses(out)[-1][0]
    assert [found.step for found in scan(out).checkpoints] == [stopped_at]


def test_a_second_signal_leaves_at_once_and_tears_nothing(
    start: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    flags = ["--yes", "--epochs", 30, "--batch-size", 4, "--save-steps", 2, "--dataset", chat_file, "--model", tiny_model]
    process = start(*flags, "--output", out)
    wait_for(lambda: journal_lines(out) >= 5, process)
    os.kill(process.pid, signal.SIGTERM)
    wait_for(lambda: bool(list(out.glob(".staging-*"))), process)
    if process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode in (130, 143)  # 143: the save was over before the second came
    assert all(found.grade == "proven" for found in scan(out).checkpoints)


@pytest.mark.parametrize(
    "delay", [0.0, 0.3, pytest.param(0.1, marks=pytest.mark.slow), pytest.param(0.6, marks=pytest.mark.slow)]
)
def test_a_signal_before_the_first_step_leaves_with_its_code_and_nothing_half_made(
    delay: float, start: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    process = start(*RUN, "--dataset", chat_file, "--model", tiny_model, "--output", out)
    wait_for(lambda: (tmp_path / "stderr.txt").is_file() and b"fresh" in (tmp_path / "stderr.txt").read_bytes(), process)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    text = (tmp_path / "stderr.txt").read_text()
    assert "Traceback" not in text
    assert not out.exists() or not list(out.glob(".staging-*"))
    last = [record["type"] for record in read_journal(out)][-1:]
    assert last in ([], ["run_stopped"])


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        ("check", "SIGINT", 130),
        ("data", "SIGTERM", 143),
        ("demo", "SIGHUP", 129),
        pytest.param("check", "SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param("data", "SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("demo", "SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_other_commands_leave_at_once_without_a_traceback(command: str, name: str, code: int, tmp_path: Path) -> None:
    # A checkpoint large enough to be at it for a while; the real program in a process of its own.
    out = tmp_path / "out" / "checkpoint-1"
    out.mkdir(parents=True)
    arguments = {"check": ["check", "out"], "data": ["data", "rows.jsonl"], "demo": ["--demo", "--yes"]}[command]
    (tmp_path / "rows.jsonl").write_text('{"text": "a row of a few words"}\n' * 400_000)
    (out / "trainer_state.json").write_text(
        '{"global_step": 1, "log_history": [' + '{"step": 1, "loss": 1},' * 900_000 + "{}]}"
    )
    environment = {**os.environ, "LORA_TUI_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-m", "tui", *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    time.sleep(1.2)
    process.send_signal(getattr(signal, name))
    _out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err, err
    assert process.returncode == code


def test_an_attempt_that_was_killed_is_told_by_the_next_with_its_step(
    start: Any, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    flags = ["--yes", "--epochs", 2, "--batch-size", 4, "--save-steps", 2, "--dataset", chat_file, "--model", tiny_model]
    process = start(*flags, "--output", out)
    wait_for(lambda: journal_lines(out) >= 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed_at = losses(out)[-1][0]
    code, _out, err = lora_tui(*flags, "--output", out)
    assert code == 0, err
    assert f"ended without a word at step {killed_at}" in " ".join(err.split())
    assert f"from a run that is gone. Held by process {process.pid} on" in " ".join(err.split())
    code, _out, err = lora_tui(*flags, "--output", out, "--epochs", 3)
    assert "without a word" not in err and "taken over" not in err
