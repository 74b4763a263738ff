"""Runs without their terminal: real processes, killed and stopped for real, seen from outside through their folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.journal import read_journal
from engine.lock import holder_of, is_held
from engine.watch import standing
from tests.engine.runs import train
from tests.tui.conftest import RUN
from tui.runs import run_runs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs setsid")

Tool = Callable[..., tuple[int, str, str]]


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in read_journal(folder) if record["type"] == "step"]


@pytest.fixture
def detached(lora_tui: Tool, tmp_path: Path, tiny_model: Path, chat_file: Path) -> Iterator[Callable[..., Path]]:
    """Starts a long detached run; its folder, once the command has come back."""
    folder = tmp_path / "out" / "w"

    def begin() -> Path:
        flags = {**RUN, "epochs": 3000, "save_steps": 500, "dataset": chat_file, "model": tiny_model, "output": folder}
        words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), value)]
        code, _out, told = lora_tui("--yes", "--detach", *words)
        assert code == 0, told
        assert f"lora-tui watch {folder}" in told
        return folder

    yield begin
    holder = holder_of(folder)
    if holder is not None and is_held(folder):
        os.kill(holder.pid, signal.SIGKILL)


def test_a_detached_run_outlives_its_command_leads_a_session_and_stops_when_asked_from_elsewhere(
    detached: Callable[..., Path], lora_tui: Tool
) -> None:
    folder = detached()
    holder = holder_of(folder)
    assert holder is not None and is_held(folder)
    assert os.getsid(holder.pid) == holder.pid  # no terminal can hang it up
    until(lambda: steps(folder))
    assert standing(folder).state == "running"
    code, out, _told = lora_tui("runs", folder.parent, "--json")
    assert code == 0
    (listed,) = json.loads(out)["runs"]
    assert (listed["state"], listed["holder"]["pid"]) == ("running", holder.pid)
    (folder / ".stop").touch()
    code, out, _told = lora_tui("watch", folder, "--json")
    assert code == 0
    ending = json.loads(out.splitlines()[-1])
    assert (ending["type"], ending["reason"]) == ("run_stopped", "watcher")
    assert (folder / ending["checkpoint"] / "manifest.json").is_file()
    assert standing(folder).state == "stopped"
    assert not (folder / ".stop").exists()


def test_a_detached_run_that_is_killed_is_seen_to_have_died(detached: Callable[..., Path], lora_tui: Tool) -> None:
    folder = detached()
    holder = holder_of(folder)
    assert holder is not None
    until(lambda: steps(folder))
    os.kill(holder.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(holder.pid) or psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE)
    code, out, _told = lora_tui("watch", folder)
    assert code == 1
    assert "died without a word" in out
    code, out, _told = lora_tui("runs", folder.parent, "--json")
    assert [one["state"] for one in json.loads(out)["runs"]] == ["died"]


def test_a_detached_run_that_cannot_begin_says_why_with_its_code(lora_tui: Tool, tmp_path: Path, tiny_model: Path) -> None:
    code, _out, told = lora_tui("--yes", "--detach", "--dataset", "none.jsonl", "--model", tiny_model, "--output", "out/w")
    assert code == 4
    assert "none.jsonl" in told


def test_a_detached_run_whose_receipt_fails_says_so_with_its_code(
    lora_tui: Tool, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """It is known only once everything is loaded, long after the run has begun."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    words = ["--yes", "--dataset", chat_file, "--model", model, "--output", tmp_path / "run", "--batch-size", 4]
    assert lora_tui(*words, "--max-steps", 1)[0] == 0
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    code, _out, told = lora_tui(*words, "--max-steps", 2, "--detach")
    assert code == 3 and "chat_template" in told and "goes on without this terminal" not in told


def test_a_plan_is_taken_from_a_parent_only(lora_tui: Tool) -> None:
    assert lora_tui("carry-out")[0] == 2


def test_watching_nothing_is_a_usage_error(lora_tui: Tool, tmp_path: Path) -> None:
    assert lora_tui("watch", tmp_path / "nowhere")[0] == 2
    assert lora_tui("watch")[0] == 2
    assert lora_tui("runs", tmp_path / "nowhere")[0] == 2
    assert lora_tui("--detach")[0] == 2


def test_without_a_folder_for_runs_there_are_none_and_that_is_no_error(lora_tui: Tool) -> None:
    code, out, _told = lora_tui("runs")
    assert code == 0 and out.splitlines() == ["there is no run under out", "Runs that lie elsewhere: lora-tui runs ROOT"]
    code, out, _told = lora_tui("runs", "--json")
    assert (code, json.loads(out)) == (0, {"schema": 1, "root": "out", "runs": []})


def test_a_run_whose_journal_is_lost_is_called_the_same_by_all(lora_tui: Tool, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "run.toml").write_text("schema_version = 1")
    code, out, _told = lora_tui("runs", "w")
    assert code == 0 and "nothing told" in out
    code, out, _told = lora_tui("watch", "w")
    assert code == 2 and "nothing is told of a run here" in out and "killed" not in out


def test_what_no_strict_reader_of_json_takes_is_not_handed_on(lora_tui: Tool, tmp_path: Path) -> None:
    """Python's own writer writes NaN, which is no JSON; a run's journal that somebody has edited may hold it."""
    begun = {"type": "run_started", "run_id": "w", "output_dir": "w", "checkpoint": None, "step": 0, "epoch": 0.0, "total_steps": 2,
             "total_epochs": 1.0, "rows": 8, "trained_tokens": 9, "choices": {}, "config": {"epochs": float("nan")}}  # fmt: skip
    stopped = {"type": "run_stopped", "step": 1, "epoch": 0.5, "reason": "SIGTERM", "checkpoint": None}
    (tmp_path / "events.jsonl").write_text(f"{json.dumps(begun)}\n{json.dumps(stopped)}\n")
    code, out, _told = lora_tui("watch", tmp_path, "--json")
    assert code == 0 and "NaN" not in out
    assert json.loads(out)["type"] == "run_stopped"


def test_of_a_run_that_ended_on_another_machine_it_is_told_on_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = {"type": "run_started", "step": 0, "host": "node7"}
    failed = {"type": "run_failed", "step": 3, "title": "too full", "detail": "", "fix": "", "exit_code": 5}
    (tmp_path / "events.jsonl").write_text(f"{json.dumps(begun)}\n{json.dumps(failed)}\n")
    run_runs(tmp_path, as_json=False)
    assert "exit code 5 · too full · on node7" in capsys.readouterr().out
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    run_runs(tmp_path, as_json=False)
    assert "node7" not in capsys.readouterr().out


async def test_whoever_watches_a_run_that_branched_off_sees_the_loss_before_it(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    from tui.watcher import Watcher

    flags: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "batch_size": 4, "save_steps": 2}
    train(**flags, output=tmp_path / "run", max_steps=4)
    train(**flags, output=tmp_path / "run", max_steps=4, resume=tmp_path / "run" / "checkpoint-2")
    app = Watcher(tmp_path / "run-2", read_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        for _look in range(1200):
            await pilot.pause(0.05)
            if app.shown.live.ended is not None:
                break
        assert [step for step, _loss in app.shown.live.history.points] == [1, 2]
        assert [step for step, _loss in app.shown.live.loss_curve.points] == [3, 4] and app.shown.live.join == 2


async def test_whoever_watches_a_run_whose_job_is_sent_again_sees_it_go_on(tmp_path: Path) -> None:
    from textual.widgets import Button

    from engine.events import RunStopped
    from engine.journal import Journal
    from engine.lock import locked
    from engine.submit import beside
    from tests.tui.scripted import started
    from tui.watcher import Watcher

    folder = tmp_path / "w"
    beside(folder).touch()
    folder.mkdir()
    journal = Journal(folder)
    journal.write(RunStopped(4, 1.0, "SIGUSR1", "checkpoint-4"))
    app = Watcher(folder, read_only=False)
    async with app.run_test(size=(100, 30)) as pilot:
        main = app.screen.query_one("#main", Button)

        async def until(label: str) -> None:
            for _look in range(200):
                await pilot.pause(0.05)
                if str(main.label) == label:
                    return
            raise AssertionError(f"it says {main.label}")

        await until("Leave")
        with locked(folder):
            journal.write(started(step=4, checkpoint="checkpoint-4"))
            await until("Stop and save")
            assert app.screen.focused is None and not main.disabled  # one Enter too many must not stop it
        journal.close()


async def test_whoever_watched_a_run_to_its_end_is_offered_the_way_out(tmp_path: Path) -> None:
    from textual.widgets import Button

    from engine.events import RunFinished
    from engine.journal import Journal
    from tui.watcher import Watcher

    journal = Journal(tmp_path)
    journal.write(RunFinished(4, 1.0, 0.2, None, 1.0, str(tmp_path / "final"), {"state": "reached", "message": "good"}))
    journal.close()
    app = Watcher(tmp_path, read_only=True)
    async with app.run_test(size=(60, 20)) as pilot:
        main = app.screen.query_one("#main", Button)
        for _look in range(100):
            await pilot.pause(0.05)
            if not main.disabled:
                break
        assert (str(main.label), app.focused) == ("Leave", main)
        await pilot.press("enter")
        await pilot.pause()
    assert app.return_code == 0
