"""A journal is followed as it grows, and every event is read back as it was told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.config import RunConfig
from engine.errors import OutputError
from engine.events import (
    Event,
    LossJumped,
    ResumeChecked,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
    as_record,
)
from engine.folder import write_run_toml
from engine.journal import JOURNAL_NAME, Journal, read_journal
from engine.lock import ask_to_stop, is_held, locked, stop_asked
from engine.submit import beside
from engine.training.ranks import PeerLost
from engine.watch import Tail, event_of, follow, logged_before, runs_under, standing
from tests.engine.checkpoints.folders import seal, write_checkpoint
from tests.engine.runs import train


def test_every_event_of_a_real_run_is_read_back_as_it_was_told(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "w"
    told: list[Event] = []
    train(
        dataset=chat_file,
        model=tiny_model,
        output=out,
        batch_size=8,
        max_length=64,
        max_steps=3,
        save_steps=2,
        watch=told.append,
    )
    records = list(read_journal(out))
    assert len(records) > 5
    for record in records:
        event = event_of(record)
        assert event is not None
        assert as_record(event, record["attempt"], record["t"]) == record
    assert standing(out).state == "finished"


def test_of_a_run_that_was_moved_the_adapter_is_where_it_lies_now(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (new / "final").mkdir(parents=True)
    journal = Journal(new)
    journal.write(RunFinished(4, 1.0, 0.2, None, 1.0, str(old / "final"), {"state": "reached", "message": "good"}))
    journal.close()

    def told() -> str:
        ended = follow(new, lambda batch: None, lambda: False)
        assert isinstance(ended, RunFinished)
        return ended.adapter

    assert told() == str(new / "final")
    (new / "final").rmdir()
    assert told() == str(old / "final")


def test_a_record_with_the_wrong_types_is_no_event() -> None:
    assert event_of({"type": "step", "step": 1}) is None
    assert event_of({"type": "run_started", "choices": 3}) is None
    assert event_of({"type": "unheard_of"}) is None


def test_a_tail_tells_each_record_once_leaves_a_torn_line_and_survives_rotation(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    assert list(tail.new()) == []
    journal = Journal(tmp_path)
    journal.write(Warned("a", "one"))
    path = tmp_path / JOURNAL_NAME
    line = (json.dumps(as_record(Warned("a", "two"), 1, 0.0)) + "\n").encode()
    with open(path, "ab") as file:
        file.write(line[:20])
    assert [record["message"] for record in tail.new()] == ["one"]
    os.truncate(path, path.stat().st_size - 20)  # what the next attempt does to a torn line
    assert list(tail.new()) == []
    with open(path, "ab") as file:
        file.write(line)
    path.rename(tmp_path / "events.jsonl.1")
    path.write_bytes(line.replace(b"two", b"three"))
    assert [record["message"] for record in tail.new()] == ["two", "three"]
    assert list(tail.new()) == []
    tail.close()
    journal.close()


def test_a_tail_waits_for_a_network_folder_whose_handle_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Tail(tmp_path)
    with contextlib.closing(Journal(tmp_path)) as journal:
        journal.write(Warned("a", "one"))

        def stale(descriptor: int) -> os.stat_result:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(os, "fstat", stale)
            assert list(tail.new()) == []
        assert [record["message"] for record in tail.new()] == ["one"]
    tail.close()


def test_a_folder_is_held_only_while_it_is_and_a_request_to_stop_dies_with_the_lock(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    ask_to_stop(tmp_path)  # left over from before
    with locked(tmp_path):
        assert is_held(tmp_path)
        assert stop_asked(tmp_path) is None
        ask_to_stop(tmp_path)
        ask_to_stop(tmp_path)
        assert stop_asked(tmp_path) == "watcher"
    assert not is_held(tmp_path)
    assert stop_asked(tmp_path) is None


@pytest.fixture
def launcher() -> Iterator[int]:
    """A process that stands for torchrun."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child.pid
    child.communicate()


def lost(folder: Path, launcher: int) -> None:
    """A process of several holds `folder`, is asked to stop, and goes for want of another."""
    with contextlib.suppress(PeerLost), locked(folder, launcher=launcher):
        ask_to_stop(folder)
        raise PeerLost("connection closed by peer")


def test_between_two_processes_of_one_launcher_the_folder_is_held_and_the_run_has_not_died(
    tmp_path: Path, launcher: int
) -> None:
    lost(tmp_path, launcher)
    assert is_held(tmp_path) and standing(tmp_path).state == "running"
    with pytest.raises(OutputError, match="another run"), locked(tmp_path):
        pass
    assert is_held(tmp_path), "whoever was sent away took the note with him"
    with locked(tmp_path, launcher=launcher) as notes:
        assert not notes
    assert not is_held(tmp_path)


def test_a_request_to_stop_outlasts_the_restart_of_the_run_and_not_the_run(tmp_path: Path, launcher: int) -> None:
    lost(tmp_path, launcher)
    with locked(tmp_path, launcher=launcher):
        assert stop_asked(tmp_path) == "watcher"
    lost(tmp_path, launcher)
    with contextlib.suppress(OutputError), locked(tmp_path, launcher=launcher):
        raise OutputError("the disk is full")
    assert stop_asked(tmp_path) is None and not is_held(tmp_path)


def test_a_run_whose_launcher_is_gone_too_has_died(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lost(tmp_path, child.pid)
        child.kill()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert standing(tmp_path).state == "died", "nobody has looked after it yet"
    assert standing(tmp_path).state == "died"
    with locked(tmp_path, launcher=os.getpid()) as notes:
        assert [note.code for note in notes] == ["lock_taken_over"]
        assert stop_asked(tmp_path) is None, "what was asked of the run before"


def test_a_request_to_stop_has_its_reason_and_no_file_of_that_name_says_more(tmp_path: Path) -> None:
    ask_to_stop(tmp_path, "SIGTERM")
    assert stop_asked(tmp_path) == "SIGTERM"
    ask_to_stop(tmp_path, "INT")
    assert stop_asked(tmp_path) == "INT"
    for found in (b"", b"\x1b[31mred", b"x" * 33, b"two words"):
        (tmp_path / ".stop").write_bytes(found)
        assert stop_asked(tmp_path) == "watcher"
    (tmp_path / ".stop").unlink()
    (tmp_path / ".stop").symlink_to("/etc/passwd")
    assert stop_asked(tmp_path) == "watcher"


def test_a_run_without_a_last_word_has_died_and_one_with_it_has_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(Step(3, 0.5, 1.0, 1e-4, None, 10, 1.0))
    assert standing(tmp_path).state == "died"
    journal.write(RunStopped(3, 0.5, "SIGTERM", "checkpoint-3"))
    found = standing(tmp_path)
    assert (found.state, found.why, found.step) == ("stopped", "SIGTERM", 3)
    journal.close()


@pytest.mark.parametrize(
    "record",
    [
        {"type": "resume_checked", "checkpoint": "x", "items": [
            {"item": "rng", "verdict": "perhaps", "expected": "", "found": "", "detail": ""}]},
        {"type": "resume_checked", "checkpoint": "x", "items": [{"verdict": "ok"}]},
        {"type": "loss_jumped", "step": 3, "kind": "sideways", "before": 1.0, "after": 2.0, "ratio": 2.0, "at_resume": False},
        {"type": "run_finished", "step": 3, "epoch": 1.0, "loss": 1.0, "eval_loss": None, "seconds": 1.0, "adapter": "x",
         "advice": {}},
    ],
)  # fmt: skip
def test_words_that_no_screen_knows_make_no_event(record: dict[str, Any]) -> None:
    assert event_of(record) is None


def told(folder: Path, *events: Event, at: float = 0.0, attempt: int = 1) -> Path:
    """A run's folder with a journal of these events."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / JOURNAL_NAME, "a") as file:
        file.writelines(json.dumps(as_record(event, attempt, at)) + "\n" for event in events)
    return folder


def started(step: int, checkpoint: str | None = None, run_id: str = "run-of-ours") -> RunStarted:
    return RunStarted(run_id, "out", checkpoint, step, step / 100, 40, 0.4, 100, 1000, {}, {})


@pytest.mark.parametrize(
    "event",
    [
        ResumeChecked("checkpoint-3", ({"item": "rng", "expected": "a", "found": "a", "verdict": "ok", "detail": ""},)),
        LossJumped(3, "spike", 1.0, 2.0, 2.0, False),
        RunStopped(3, 0.5, "SIGTERM", None, advice={"state": "reached", "message": "good"}),
        RunStopped(3, 0.5, "SIGTERM", None),
    ],
    ids=["receipt", "jump", "stopped", "stopped at once"],
)
def test_what_a_screen_looks_words_up_for_is_read_back(event: Event) -> None:
    assert event_of(json.loads(json.dumps(as_record(event, 1, 0.0)))) == event


def test_a_run_that_stopped_with_no_words_for_it_is_no_event() -> None:
    assert event_of(as_record(RunStopped(3, 0.5, "SIGTERM", None, advice={"state": "reached"}), 1, 0.0)) is None


def test_of_several_runs_the_one_that_spoke_last_comes_first_and_no_link_is_one(tmp_path: Path) -> None:
    for name, at in (("a", 20.0), ("b", 30.0), ("c", 10.0)):
        told(tmp_path / name, Step(3, 0.5, 1.0, 1e-4, None, 10, 1.0), at=at)
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to(tmp_path / "a")
    write_run_toml(told(tmp_path / "f"), RunConfig(), "a")
    with locked(tmp_path / "g"):
        assert [one.folder.name for one in runs_under(tmp_path)] == ["b", "a", "c", "f", "g"]
    assert [one.folder.name for one in runs_under(tmp_path / "a")] == ["a"]


@pytest.mark.parametrize(("began", "waits"), [(0, True), (3, False)], ids=["further", "no further"])
def test_a_run_whose_job_is_sent_again_after_its_time_is_waited_for(
    began: int, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.watch.LOOK", 0)
    folder = told(tmp_path / "w", started(began), RunStopped(3, 0.3, "SIGUSR1", "checkpoint-3"))
    beside(folder).touch()
    seen: list[str] = []

    def meanwhile() -> bool:
        told(folder, started(3, "checkpoint-3"), RunStopped(9, 0.9, "SIGTERM", "checkpoint-9"), attempt=2)
        return False

    ended = follow(folder, lambda batch: seen.extend(event.type for event, _record in batch), meanwhile)
    assert isinstance(ended, RunStopped) and ended.step == (9 if waits else 3)
    assert seen.count("warned") == waits


def test_how_a_run_stands_is_what_its_last_attempt_told(tmp_path: Path) -> None:
    told(
        tmp_path, started(0), Step(3, 0.03, 1.5, 1e-4, None, 10, 1.0), RunStopped(3, 1.5, "SIGTERM", "checkpoint-3"), at=1.0
    )
    told(tmp_path, started(3, "checkpoint-3"), at=2.0, attempt=2)
    told(tmp_path, Step(4, 0.04, 1.25, 1e-4, None, 10, 1.0), RunFailed(4, "the disk is full", "", "", 5), at=3.0, attempt=2)
    found = standing(tmp_path)
    assert (found.state, found.why, found.exit_code, found.attempts) == ("failed", "the disk is full", 5, 2)
    assert (found.run_id, found.step, found.total_steps, found.epoch, found.loss) == ("run-of-ours", 4, 40, 0.04, 1.25)
    assert found.host == socket.gethostname()
    assert (found.began, found.told) == (2.0, 3.0)


def test_a_run_whose_id_is_no_text_stands_all_the_same(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).write_text('{"type": "run_started", "run_id": NaN, "step": 0}\n')
    found = standing(tmp_path)
    assert (found.state, found.run_id) == ("died", None)


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (RunFinished(4, 1.0, 0.2, None, 1.0, "final", {"state": "reached", "message": "good"}), "finished"),
        (RunStopped(4, 1.0, "SIGTERM", "checkpoint-4"), "stopped"),
        (RunFailed(4, "the disk is full", "", "", 5), "failed"),
        (Step(4, 0.04, 1.25, 1e-4, None, 10, 1.0), "died"),
    ],
)
def test_a_last_word_is_the_last_whatever_is_warned_of_behind_it(last: Event, state: str, tmp_path: Path) -> None:
    told(tmp_path, started(0), last, Warned("a", "behind it"))
    with locked(tmp_path):
        assert (standing(tmp_path).state, standing(tmp_path).attempts) == ("running", 1)
    assert (standing(tmp_path).state, standing(tmp_path).attempts) == (state, 1)
    ended = follow(tmp_path, lambda batch: None, lambda: False)
    assert ended == last or (state == "died" and isinstance(ended, RunFailed))


def test_a_run_that_began_again_and_went_without_a_word_has_not_stopped(tmp_path: Path) -> None:
    told(
        tmp_path,
        Step(3, 0.03, 1.5, 1e-4, None, 10, 1.0),
        RunStopped(3, 1.5, "SIGTERM", "checkpoint-3"),
        started(3, "checkpoint-3"),
    )
    assert standing(tmp_path).state == "died"


def test_whoever_follows_a_run_that_is_gone_is_told_how_far_it_had_come_and_of_one_that_never_spoke_nothing(
    tmp_path: Path,
) -> None:
    for folder, step, code in (
        (told(tmp_path / "died", Step(3, 0.03, 1.5, 1e-4, None, 10, 1.0)), 3, 1),
        (told(tmp_path / "empty"), None, 2),
    ):
        batches: list[Any] = []
        ended = follow(folder, batches.append, lambda: False)
        assert isinstance(ended, RunFailed) and (ended.step, ended.exit_code) == (step, code)
        assert batches[-1][0][0] == ended and len(batches) == (2 if step else 1)


def test_whoever_leaves_a_run_at_work_hears_of_no_end(tmp_path: Path) -> None:
    with locked(tmp_path):
        told(tmp_path, Step(3, 0.03, 1.5, 1e-4, None, 10, 1.0))
        assert follow(tmp_path, lambda batch: None, lambda: True) is None


def test_a_journal_that_is_cut_and_grows_again_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(told(tmp_path, Warned("a", "one"), Warned("a", "two")))
    assert len(list(tail.new())) == 2
    os.truncate(tmp_path / JOURNAL_NAME, 0)
    told(tmp_path, Warned("a", "three"))
    assert [record["message"] for record in tail.new()] == ["three"]
    tail.close()


def test_a_journal_longer_than_a_look_is_told_to_its_end_past_a_line_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.watch.MAX_LINE", 256)
    told(tmp_path, *(Warned("a", str(number)) for number in range(9)))
    with open(tmp_path / JOURNAL_NAME, "a") as file:
        file.write("x" * 700 + "\n")
    tail = Tail(told(tmp_path, Warned("a", "last")))
    assert [record["message"] for record in tail.new()] == [*map(str, range(9)), "last"]
    tail.close()


def test_a_journal_that_is_out_of_reach_for_a_moment_is_not_told_again(tmp_path: Path) -> None:
    tail = Tail(told(tmp_path, Warned("a", "one")))
    assert len(list(tail.new())) == 1
    path = tmp_path / JOURNAL_NAME
    path.rename(tmp_path / "elsewhere")
    assert list(tail.new()) == []
    (tmp_path / "elsewhere").rename(path)
    told(tmp_path, Warned("a", "two"))
    assert [record["message"] for record in tail.new()] == ["two"]
    tail.close()


@pytest.mark.parametrize("named", ["by the journal", "by the run", "by what it was asked to go on from"])
@pytest.mark.parametrize("step", [3, 4], ids=["before it", "there"])
def test_what_was_logged_before_the_journal_begins_is_told_up_to_there(named: str, step: int, tmp_path: Path) -> None:
    folder, kept = tmp_path / "run", tmp_path / ("other" if named == "by what it was asked to go on from" else "run")
    folder.mkdir()
    for saved in (2, 4):
        seal(write_checkpoint(kept / f"checkpoint-{saved}", saved, saved / 100, [4.0, 3.0, 2.0, 1.0][:saved]))
    if kept != folder:
        write_run_toml(folder, RunConfig(resume=str(kept / "checkpoint-4")), "run-of-ours")
    joined = started(step, "/elsewhere/checkpoint-4" if named == "by the journal" else None)
    assert [row.loss for row in logged_before(folder, joined)] == [4.0, 3.0, 2.0, 1.0][:step]
    assert logged_before(folder, started(0)) == () == logged_before(folder, started(5))


def test_what_another_run_logged_is_not_told_of_this_one(tmp_path: Path) -> None:
    seal(write_checkpoint(tmp_path / "checkpoint-4", 4, 0.04, [4.0, 3.0, 2.0, 1.0]))
    assert logged_before(tmp_path, started(3, None, "another run")) == ()
