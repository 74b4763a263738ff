from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from engine.answers import gather
from engine.config import RunConfig
from engine.errors import ConfigError, OutputError
from engine.folder import RUN_TOML, free_sibling, last_run, look_at, proposed_output, source_of_run, write_run_toml
from engine.lock import ask_to_stop, holder_of, is_held, locked, stop_asked


def test_a_held_folder_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OutputError) as error, locked(tmp_path):
        pass
    assert str(os.getpid()) in error.value.detail


def test_a_lock_is_free_again_after_it(tmp_path: Path) -> None:
    for _time in range(2):
        with locked(tmp_path):
            pass


def test_somebody_who_only_looks_whether_a_folder_is_held_does_not_make_it_busy(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    looking = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [looking]).start()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("note", "held"),
    [
        ({}, True),
        ({"started": 1.0}, False),
        ({"pid": 2**22 + 1}, False),
        ({"pid": 2**22 + 1, "launcher": os.getpid()}, True),
        ({"pid": 2**22 + 1, "launcher": os.getpid(), "started": 1.0}, False),
        ({"pid": 2**22 + 1, "host": "another-machine"}, True),
        ({"pid": "no number"}, False),
        ({"started": "1e999", "pid": 2**22 + 1}, False),
    ],
    ids=["there", "its number given out again", "gone", "started again", "by another process", "elsewhere", "damaged", "endless"],
)  # fmt: skip
def test_where_there_are_no_locks_a_folder_is_held_as_long_as_the_process_of_the_note_is_there(
    note: dict[str, object], held: bool, tmp_path: Path
) -> None:
    whole = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    (tmp_path / ".lock.holder").write_text(json.dumps({**whole, **note}))
    assert is_held(tmp_path) is held


@pytest.mark.parametrize("note", [{}, {"host": "another-machine", "launcher": os.getpid()}, {"pid": "no number"}])
def test_a_free_lock_is_believed_whatever_the_note_beside_it_says(note: dict[str, object], tmp_path: Path) -> None:
    whole = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
    (tmp_path / ".lock.holder").write_text(json.dumps({**whole, **note}))
    (tmp_path / ".lock").touch()
    assert is_held(tmp_path) is False


@pytest.mark.parametrize("started", ["1e999", "NaN"])
def test_a_note_of_a_time_that_is_none_is_no_note(started: str, tmp_path: Path) -> None:
    (tmp_path / ".lock.holder").write_text(f'{{"pid": 1, "host": "here", "started": {started}}}')
    assert holder_of(tmp_path) is None  # what tells of it as JSON could not


def test_what_ends_a_run_is_passed_on_and_leaves_no_note_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost"), locked(tmp_path):
        raise RuntimeError("lost")
    with locked(tmp_path) as notes:
        assert not notes


@pytest.mark.parametrize("name", [".lock.holder", ".stop"])
def test_a_folder_in_the_place_of_a_note_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "full").mkdir(parents=True)
    with pytest.raises(OutputError) as refused:
        ask_to_stop(tmp_path) if name == ".stop" else locked(tmp_path).__enter__()
    assert str(tmp_path) in refused.value.title


def test_a_folder_made_for_a_run_that_left_nothing_in_it_goes_with_it_and_no_other(tmp_path: Path) -> None:
    for name, before, left in (("new", False, False), ("used", False, True), ("old", True, False)):
        folder = tmp_path / name
        if before:
            folder.mkdir()
        with locked(folder):
            if left:
                (folder / "run.toml").touch()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["old", "used"]
    assert (tmp_path / "used" / ".lock").exists(), "another may be waiting for it"


def test_whoever_is_refused_a_held_folder_takes_nothing_of_its_run_away(tmp_path: Path) -> None:
    with locked(tmp_path):
        ask_to_stop(tmp_path, "TERM")
        with contextlib.suppress(OutputError), locked(tmp_path):
            pass
        assert (is_held(tmp_path), stop_asked(tmp_path)) == (True, "TERM")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as refused, locked(tmp_path / "file"):
        pass
    assert (str(tmp_path / "file") in refused.value.title, refused.value.detail) == (True, os.strerror(errno.ENOTDIR))


def test_of_a_folder_that_may_not_be_listed_no_run_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_folder: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refused)
    assert last_run(tmp_path) is None


def test_the_last_run_is_the_one_whose_journal_spoke_last_whatever_the_file_times(tmp_path: Path) -> None:
    for name, spoke in (("old", 100.0), ("new", 200.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text(json.dumps({"type": "step", "t": spoke}) + "\n")
    os.utime(tmp_path / "old" / "events.jsonl", (time.time() + 1000, time.time() + 1000))
    assert last_run(tmp_path) == tmp_path / "new"


def test_what_ended_before_its_first_step_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    """Its settings were taken away again, for they are wrong; the journal stays to tell of it."""
    for name, spoke in (("trained", 100.0), ("saved", 50.0), ("refused", 200.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text(json.dumps({"type": "run_failed", "t": spoke}) + "\n")
    write_run_toml(tmp_path / "trained", RunConfig(), "a")
    (tmp_path / "saved" / "checkpoint-1").mkdir()
    assert last_run(tmp_path, to_go_on=True) == tmp_path / "trained"
    (tmp_path / "trained" / RUN_TOML).unlink()
    assert last_run(tmp_path, to_go_on=True) == tmp_path / "saved"


def test_an_occupied_folder_gets_the_next_free_sibling(tmp_path: Path) -> None:
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "something").write_text("x")
    assert free_sibling(tmp_path / "run") == tmp_path / "run-3"


@pytest.mark.usefixtures("as_anybody")
def test_a_folder_that_may_not_be_looked_into_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0)
    try:
        with pytest.raises(OutputError, match="cannot write here"):
            free_sibling(tmp_path / "run")
    finally:
        (tmp_path / "run").chmod(0o700)


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    assert free_sibling(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("dataset", "model", "name"),
    [
        ("data/chat.jsonl", "./Qwen3-0.6B", "chat-Qwen3-0.6B"),
        ("org/set", "org/model", "set-model"),
        ("客服.jsonl.gz", "m/", "客服-m"),
        ("../..", "m", "m"),
        ("客" * 60, "m" * 39, "客" * 60 + "-" + "m" * 39),
        ("客" * 60, "m" * 40, "客" * 36 + "-" + "m" * 40),
        ("客" * 80, "模" * 80, "客" * 36 + "-" + "模" * 36),
    ],
)
def test_the_proposed_folder_is_named_after_dataset_and_model(dataset: str, model: str, name: str) -> None:
    assert proposed_output(dataset, model) == Path("out") / name
    assert len(f"{name}-12.slurm-123456789.log".encode()) <= 255, "what file systems take"


def test_names_of_nothing_but_dots_need_an_output() -> None:
    with pytest.raises(ConfigError):
        proposed_output("..", "../..")


def test_a_run_toml_that_was_cut_short_is_told(tmp_path: Path) -> None:
    """At the end of a line it is still TOML."""
    write_run_toml(tmp_path, RunConfig(dataset="d", model="m", learning_rate=1e-3), "id")
    path = tmp_path / RUN_TOML
    whole = path.read_text().splitlines(keepends=True)
    told = source_of_run(tmp_path)
    assert told is not None and told.values["learning_rate"] == 1e-3
    for lines in range(len(whole)):
        path.write_text("".join(whole[:lines]))
        with pytest.raises(ConfigError, match="cut short"):
            source_of_run(tmp_path)
        with pytest.raises(ConfigError, match="cut short"):
            gather({"output": str(tmp_path)}, environ={})
    path.write_text("".join(whole[1:]))  # as it was written before it told
    assert source_of_run(tmp_path) == told
    path.unlink()
    assert source_of_run(tmp_path) is None


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_trash_that_is_none_is_told_before_a_run_needs_it(
    kind: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    from tests.engine.runs import train

    out = tmp_path / "run"
    out.mkdir()
    (out / ".trash").symlink_to(tmp_path) if kind == "link" else (out / ".trash").write_text("x")
    assert look_at(out).problem is not None
    with pytest.raises(OutputError, match="is no plain folder"):
        train(dataset=chat_file, model=tiny_model, output=out, max_steps=2)
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("content", "title", "fix"),
    [
        ("x = [", "is not TOML", "Put it back from a copy"),
        ("run_id = 'a'\nschema_version = 99", "schema_version 99", "Put it back from a copy"),
        ("settings = 1\nrun_id = 'a'\nepoch = 3", "epoch: there is no such setting", "Put these lines"),
        ("settings = 1\nrun_id = 'a'\nepochs = 'x'", "epochs: 'x'", "Put these lines"),
        (b"\xff\xfe", "cannot be read", "Put it back from a copy"),
    ],
)
def test_a_run_toml_that_cannot_be_taken_is_told_with_a_way_on(
    content: str | bytes, title: str, fix: str, tmp_path: Path
) -> None:
    path = tmp_path / RUN_TOML
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=title) as refused:
        gather({"output": str(tmp_path)}, environ={})
    assert fix in refused.value.fix and "checkpoints tell" in refused.value.fix


def test_a_settings_file_that_cannot_be_taken_is_told_with_a_way_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as refused:
        gather({}, tmp_path / "no.toml", environ={})
    assert "--config" in refused.value.fix
    (tmp_path / "bad.toml").write_text("x = [")
    with pytest.raises(ConfigError, match="is not TOML") as refused:
        gather({}, tmp_path / "bad.toml", environ={})
    assert "leave --config out" in refused.value.fix


@pytest.mark.parametrize("kind", ["link", "folder"])
@pytest.mark.parametrize("name", ["events.jsonl", "run.log"])
def test_what_stands_in_the_place_of_a_run_s_file_is_named(
    name: str, kind: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    from tests.engine.runs import train

    out = tmp_path / "run"
    out.mkdir()
    (out / name).symlink_to(tmp_path / "else") if kind == "link" else (out / name).mkdir()
    with pytest.raises(OutputError, match=f"{name}: is no plain file"):
        train(dataset=chat_file, model=tiny_model, output=out, max_steps=2)
    assert not (tmp_path / "else").exists()
