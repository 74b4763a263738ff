"""Disks that refuse: full, over quota, broken, read-only, gone, without locks, with names that are too long."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from engine.checkpoints.commit import need_room
from engine.checkpoints.scan import scan
from engine.durable import sync
from engine.errors import LoraTuiError, OutputError
from engine.events import RunStopped
from engine.journal import Journal, read_journal
from engine.lock import locked
from tests.engine.runs import adapter_bytes, losses, train

FLAGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "save_steps": 2}


def refuse(monkeypatch: pytest.MonkeyPatch, error: int, after: int) -> list[int]:
    """From the `after`th fsync of a file on every one fails with `error`, as quotas, thin disks and broken ones show themselves."""
    seen: list[int] = []
    sync = os.fsync

    def fails(descriptor: int) -> None:
        seen.append(descriptor)
        if len(seen) > after:
            raise OSError(error, os.strerror(error))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    return seen


@pytest.mark.parametrize(
    "error",
    [errno.EIO, *(pytest.param(error, marks=pytest.mark.slow) for error in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))],
    ids=str,
)
def test_a_disk_that_begins_to_refuse_stops_the_run_and_keeps_what_was_saved(
    error: int, tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    refuse(monkeypatch, error, after=20)  # in the middle of the second save
    with pytest.raises(OutputError) as failed:
        train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    assert os.strerror(error) in str(failed.value) and "checkpoint-2" in str(failed.value)
    monkeypatch.undo()
    assert [(one.name, one.grade) for one in scan(out).checkpoints] == [("checkpoint-2", "proven")]
    train(output=out)
    assert losses(out)[-1][0] == 7


def test_an_error_without_words_is_told_as_a_save_that_failed(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("engine.training.saving.write_small_files", fails)
    with pytest.raises(OutputError, match="the checkpoint of step 2 could not be saved") as failed:
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    assert "MemoryError." in failed.value.detail


def test_a_run_that_may_go_on_does_and_says_what_was_not_saved(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EDQUOT, after=20)
    told: list[Any] = []
    with pytest.raises(OutputError, match="final adapter"):
        train(
            watch=told.append,
            dataset=chat_file,
            model=tiny_model,
            output=tmp_path / "run",
            on_save_error="continue",
            **FLAGS,
        )
    assert [event.code for event in told if event.type == "warned"].count("save_failed") >= 2
    assert losses(tmp_path / "run")[-1][0] == 7


def test_a_folder_that_vanishes_in_the_middle_ends_the_run_with_its_own_error(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"

    def gone(event: Any) -> None:
        if event.type == "step" and event.step == 3:
            out.rename(tmp_path / "moved")  # at once: a folder that is emptied file by file is written to meanwhile

    with pytest.raises(OutputError) as failed:
        train(watch=gone, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    assert "The folder is gone" in str(failed.value) and "MB are free" not in str(failed.value)


def test_a_full_disk_under_the_journal_is_said_and_does_not_end_the_run(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    write, told = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        if b'"type": "step"' in data and b'"step": 3,' in data:
            return write(descriptor, data[: len(data) // 2])  # half of the line still fitted
        if b'"type": "step"' in data and b'"step": 4,' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    # No save in between: what the committer tells between the two steps would be written, and the second failure told as a new one.
    flags = {**FLAGS, "save_steps": 7}
    outcome, _events = train(watch=told.append, dataset=chat_file, model=tiny_model, output=out, **flags)
    assert outcome.state == "finished"
    assert [event.code for event in told if event.type == "warned"] == ["journal_failed"]
    kept = list(read_journal(out))
    assert [record["step"] for record in kept if record["type"] == "step"] == [1, 2, 5, 6, 7]
    assert "could not be written here" in next(record["message"] for record in kept if record["type"] == "warned")
    assert len((out / "events.jsonl").read_bytes().splitlines()) == len(kept), "no torn line"


def test_a_journal_that_cannot_be_cut_back_begins_a_new_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    monkeypatch.setattr(os, "ftruncate", lambda descriptor, size: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    journal.write(RunStopped(1, 0.1, "lost", None))
    monkeypatch.undo()
    journal.write(RunStopped(2, 0.2, "kept", None))
    journal.close()
    assert [record["type"] for record in read_journal(tmp_path)] == ["warned", "run_stopped"]


def test_a_disk_like_fat_without_locks_modes_and_syncing_of_folders_serves(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    def no_modes(*_words: Any, **_options: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def no_locks(self: Any, *_words: Any, **_options: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(os, "fsync", no_folders)
    monkeypatch.setattr(os, "fchmod", no_modes)
    monkeypatch.setattr(os, "chmod", no_modes)
    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    out = tmp_path / "run"
    outcome, events = train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    assert outcome.state == "finished"
    assert [event.code for event in events if event.type == "warned"] == ["soft_lock"]  # type: ignore[attr-defined]
    assert {one.grade for one in scan(out).checkpoints} == {"proven"}


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_macos_is_asked_to_empty_the_memory_of_the_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    asked: list[str] = []
    answer: list[int] = []

    def full(descriptor: int, command: int, *_more: Any) -> int:
        asked.append("full")
        if answer:
            raise OSError(answer[0], os.strerror(answer[0]))
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("plain"))
    sync(0)
    answer.append(errno.ENOTSUP)
    sync(0)
    answer[0] = errno.EIO
    with pytest.raises(OSError, match="error"):
        sync(0)
    assert asked == ["full", "full", "plain", "full"]


def test_a_slow_disk_costs_time_and_nothing_else(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.05)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    out = tmp_path / "run"
    _outcome, events = train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    saved = [event.step for event in events if event.type == "checkpoint_saved"]  # type: ignore[attr-defined]
    assert saved == [2, 4, 6, 7] and losses(out)[-1][0] == 7
    assert not [event for event in events if event.type == "warned"]


def test_a_disk_that_cannot_rename_says_so_and_keeps_what_was_saved(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, renamed = Path.rename, 0

    def across(self: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += target.name.startswith("checkpoint-")
        if renamed > 1 and target.name.startswith("checkpoint-"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    out = tmp_path / "run"
    with pytest.raises(OutputError, match=os.strerror(errno.EXDEV)):
        train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    assert [(one.name, one.grade) for one in scan(out).checkpoints] == [("checkpoint-2", "proven")]
    assert not list(out.glob(".staging-*"))


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, None])
def test_where_there_are_no_locks_a_file_stands_for_one_and_that_is_said(
    error: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: Any, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError if error is None else OSError(error, os.strerror(error))

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with locked(tmp_path) as notes:
        assert [note.code for note in notes] == ["soft_lock"]
        with pytest.raises(OutputError, match="another run"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_soft_lock_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.lock.NO_LOCKS", (errno.ENOLCK,))

    def none(self: Any, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    child = os.fork()
    if child == 0:
        held = locked(tmp_path)
        held.__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    with locked(tmp_path) as notes:
        assert [note.code for note in notes] == ["soft_lock", "lock_taken_over"]
        assert str(child) in notes[1].message


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128, "n" * 255])
def test_a_name_at_or_beyond_the_limit_is_an_output_error_or_works(
    name: str, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    flags = ["--yes", "--dataset", chat_file, "--model", tiny_model, "--epochs", 1, "--output", tmp_path / name]
    code, _out, err = lora_tui(*flags)
    assert code == (0 if len(name.encode()) <= 255 else 5), err
    assert "Traceback" not in err
    if code == 0:  # and its sibling has a name that is too long
        code, _out, err = lora_tui(*flags, "--resume", "never")
        assert code == 5 and "Traceback" not in err, err


@pytest.mark.parametrize("name", ["events.jsonl", "run.log", ".lock.holder", "run.toml", ".lock"])
@pytest.mark.parametrize(
    "kind", ["link", pytest.param("pipe", marks=pytest.mark.slow), pytest.param("folder", marks=pytest.mark.slow)]
)
def test_a_link_or_pipe_in_the_place_of_a_runs_own_file_is_neither_written_through_nor_waited_for(
    name: str, kind: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out, precious = tmp_path / "run", tmp_path / "precious"
    out.mkdir()
    precious.write_text("mine")
    {"link": lambda: (out / name).symlink_to(precious), "pipe": lambda: os.mkfifo(out / name),
     "folder": lambda: (out / name).mkdir()}[kind]()  # fmt: skip
    try:
        train(stop_at=1, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    except LoraTuiError as error:
        assert error.exit_code in (2, 5), error
    assert precious.read_text() == "mine"


def test_a_pipe_as_settings_is_refused(lora_tui: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.toml")
    code, _out, err = lora_tui("--yes", "--config", "settings.toml")
    assert code == 2 and "not a plain file" in err


def test_a_table_of_files_that_is_full_counts_as_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    class Full:
        f_files, f_favail = real.f_files or 1, 3

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    with pytest.raises(OSError, match="inodes"):
        need_room(tmp_path, 0)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real file system of a few megabytes; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    kind = request.param
    command = ["mount", "-t", "tmpfs", "-o", kind, "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["size=400k", "size=40m,nr_inodes=40", "size=2m", "size=1500k"], indirect=True)
def test_a_real_small_disk_keeps_every_checkpoint_that_was_told_as_saved(
    small_disk: Path, lora_tui: Any, tiny_model: Path, chat_file: Path
) -> None:
    flags = ["--yes", "--dataset", chat_file, "--model", tiny_model, "--output", small_disk / "run", "--epochs", 3, "--batch-size", 2,
             "--save-steps", 2, "--keep", 50]  # fmt: skip
    code, _out, err = lora_tui(*flags)
    assert code == 5, err
    assert "Traceback" not in err
    if (small_disk / "run").is_dir():
        found = scan(small_disk / "run").checkpoints
        assert {one.grade for one in found} <= {"proven"}
        told = {record["checkpoint"] for record in read_journal(small_disk / "run") if record["type"] == "checkpoint_saved"}
        assert told <= {one.name for one in found}
    subprocess.run(["mount", "-o", "remount,size=100m,nr_inodes=10000", str(small_disk)], check=True)
    code, _out, err = lora_tui(*flags)
    assert code == 0, err
    assert adapter_bytes(small_disk / "run")
