"""A job at work: the script that was written, run by a shell as a cluster would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import ConfigError
from engine.events import RunFinished
from engine.journal import Journal
from engine.submit import Job, beside, slurm_script
from tests.engine.runs import losses
from tests.faults.test_kill import journal_lines
from tui.watch import run_watch

RUN = ["--epochs", "20", "--batch-size", "4", "--save-steps", "1000"]


@pytest.fixture
def written(lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path) -> Path:
    """A batch script of a run of 140 steps."""
    code, said, error = lora_tui("submit", "--slurm", "--gpus", 0, "--partition", "cpu", "--output", "out/mine", *RUN,
                                 "--dataset", chat_file, "--model", tiny_model, PATH=str(tmp_path / "no-sbatch-here"))  # fmt: skip
    assert code == 0 and "sbatch out/mine.sbatch" in said, error
    return tmp_path / "out" / "mine.sbatch"


def begin(script: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Run `script` as a node would, with a scontrol that only notes what it is told."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "scontrol").write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/requeued'\n")
    (tools / "scontrol").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            ["bash", script], env=os.environ | {"PATH": path, "SLURM_JOB_ID": "7"}, stdout=log, stderr=log
        )


def steps(folder: Path, at_least: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many steps are in the journal."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if journal_lines(folder) >= at_least:
            return
        time.sleep(0.1)
    raise AssertionError(process.poll())


def test_a_job_whose_time_is_up_saves_is_sent_again_and_goes_on(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "mine"
    first = begin(written, tmp_path)
    steps(out, 5, first)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 138
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    (stopped_at,) = (found.step for found in scan(out).checkpoints)
    second = begin(written, tmp_path)
    assert second.wait(120) == 0
    assert [step for step, _loss in losses(out)] == list(range(1, 141)) and stopped_at is not None and stopped_at < 140
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_run_whose_job_waits_in_the_queue_is_waited_for_by_whoever_watches_it(written: Path, tmp_path: Path) -> None:
    watching = [sys.executable, "-m", "tui", "watch", "out/mine", "--json"]
    with subprocess.Popen(watching, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        try:
            assert watcher.stderr is not None and "not begun yet" in watcher.stderr.readline()
            begun = tmp_path / "begun"
            begun.mkdir()
            journal = Journal(begun)
            journal.write(RunFinished(4, 1.0, 0.2, None, 1.0, "final", {"state": "reached", "message": "good"}))
            journal.close()
            begun.rename(written.with_suffix(""))  # at once: no run that holds its folder is seen without a word
            said, _error = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
    assert watcher.returncode == 0 and json.loads(said)["type"] == "run_finished"


def test_a_run_whose_script_is_taken_away_is_waited_for_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = beside(tmp_path / "mine")
    script.touch()
    monkeypatch.setattr("tui.watch.time.sleep", lambda _seconds: script.unlink(missing_ok=True))
    with pytest.raises(ConfigError, match="there is no such folder"):
        run_watch(tmp_path / "mine", read_only=True, as_json=True)


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_is_not_sent_again(written: Path, tmp_path: Path) -> None:
    job = begin(written, tmp_path)
    steps(tmp_path / "out" / "mine", 3, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 143
    assert not (tmp_path / "requeued").exists() and len(scan(tmp_path / "out" / "mine").checkpoints) == 1


@pytest.mark.parametrize(("saves", "sent_again"), [("true", False), ("mkdir 'o u t'/checkpoint-9", True)])
def test_a_job_is_sent_again_only_where_it_has_come_further(tmp_path: Path, saves: str, sent_again: bool) -> None:
    """What USR1 ended before it could answer has the same exit code as what saved and stopped."""
    (tmp_path / "o u t" / "checkpoint-3").mkdir(parents=True)
    script = tmp_path / "job"
    command = ["bash", "-c", f"{saves}; kill -USR1 $$"]
    script.write_text(slurm_script(Job(gpus="0"), Path("o u t"), tmp_path / "log", tmp_path, command))
    assert begin(script, tmp_path).wait(20) == 138
    assert (tmp_path / "requeued").exists() == sent_again
    assert ("not sent again" in (tmp_path / "log").read_text()) != sent_again


@pytest.mark.slow
def test_a_run_from_anothers_weights_goes_on_when_it_is_sent_again_and_begins_no_other(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    from tests.engine.runs import train

    flags = ["--dataset", chat_file, "--model", tiny_model]
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "old", max_steps=3)
    asked = ["submit", "--slurm", "--gpus", 0, "--output", "out/mine", *RUN, *flags, "--init-from", "old/checkpoint-3"]
    code, _said, error = lora_tui(*asked, PATH=str(tmp_path / "no-sbatch-here"))
    assert code == 0, error
    script, out = tmp_path / "out" / "mine.sbatch", tmp_path / "out" / "mine"
    first = begin(script, tmp_path)
    steps(out, 5, first)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(timeout=60) == 138 and (tmp_path / "requeued").read_text() == "requeue 7\n"
    second = begin(script, tmp_path)
    assert second.wait(timeout=120) == 0
    assert [step for step, _loss in losses(out)] == list(range(1, 141)) and not (tmp_path / "out" / "mine-2").exists()
    code, _said, error = lora_tui(*asked, PATH=str(tmp_path / "no-sbatch-here"))
    assert code == 2 and "is taken" in error
