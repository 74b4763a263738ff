from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.checkpoints import commit as module
from engine.checkpoints.commit import Committer, Staged, place, remove, sweep
from engine.checkpoints.manifest import MANIFEST_NAME, Manifest, parse_manifest
from engine.checkpoints.retain import Kept, good, surplus
from engine.checkpoints.trash import from_trash, put_away, to_trash
from engine.errors import OutputError
from tests.engine.checkpoints.folders import seal, write_checkpoint


def test_the_furthest_and_the_best_stay() -> None:
    found = [Kept("a", 1, 0.2), Kept("b", 2, 0.9), Kept("c", 3, 0.8), Kept("d", 4, 0.7)]
    assert surplus(found, keep=2) == ("b",)


def test_the_last_one_from_before_the_loss_left_its_path_stays() -> None:
    found = [Kept(name, step, None) for step, name in enumerate("abcd")]
    assert surplus(found, keep=1, good_until=[1]) == ("a", "c")


def test_of_equally_good_ones_the_furthest_is_the_best() -> None:
    found = [Kept("a", 1, 0.5), Kept("b", 2, 0.5), Kept("c", 3, 0.9)]
    assert surplus(found, keep=1) == ("a",)


def test_a_checkpoint_that_stands_in_the_way_is_put_into_the_trash(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "precious").write_text("x")
    (tmp_path / "staged").mkdir()
    place(tmp_path / "staged", tmp_path / "checkpoint-1")
    assert [path.name for path in (tmp_path / ".trash").glob("*/*")] == ["precious"]


def test_what_comes_back_from_the_trash_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "precious").write_text("x")
    place = to_trash(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").exists()
    assert from_trash(place) == tmp_path / "checkpoint-1"
    assert (tmp_path / "checkpoint-1" / "precious").read_text() == "x"


def test_a_name_that_is_taken_again_is_not_overwritten_from_the_trash(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    place = to_trash(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(FileExistsError):
        from_trash(place)
    assert place.is_dir()


def test_the_same_name_can_be_put_into_the_trash_twice(tmp_path: Path) -> None:
    places = set()
    for _time in range(2):
        (tmp_path / "checkpoint-1").mkdir()
        places.add(to_trash(tmp_path / "checkpoint-1"))
    assert len([place for place in places if place.is_dir()]) == 2


def test_a_trash_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere, run / "checkpoint-1", run / "staged"):
        folder.mkdir()
    (run / ".trash").symlink_to(elsewhere)
    with pytest.raises(OSError, match="is a link"):
        place(run / "staged", run / "checkpoint-1")
    with pytest.raises(OutputError, match="is a link"):
        put_away(run / "checkpoint-1")
    assert (run / "checkpoint-1").is_dir() and (run / "staged").is_dir() and not list(elsewhere.iterdir())


def test_sweeping_takes_only_what_is_ours_and_half_made(tmp_path: Path) -> None:
    for name in (".staging-1-1", ".trash-checkpoint-1-5", ".trash", "checkpoint-1", ".staging", "notes"):
        (tmp_path / name).mkdir()
    assert set(sweep(tmp_path)) == {".staging-1-1", ".trash-checkpoint-1-5"}
    assert {path.name for path in tmp_path.iterdir()} == {".trash", "checkpoint-1", ".staging", "notes"}


def test_a_removed_checkpoint_is_never_seen_torn_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "file").write_text("x")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").exists()


def test_an_error_of_the_background_reaches_the_loop_and_leaves_no_staging(tmp_path: Path) -> None:
    committer = Committer(tmp_path, keep=3)
    staging = committer.stage()
    (staging / "file").write_text("x")

    def full(files: Any) -> Any:
        raise OSError(28, "No space left on device")

    committer.commit(Staged(staging, 1, None, lambda: None, full))
    with pytest.raises(OSError, match="No space left"):
        committer.wait()
    committer.close()
    assert list(tmp_path.iterdir()) == []


def manifest_of(folder: Path) -> Manifest:
    """Some manifest."""
    return parse_manifest((seal(write_checkpoint(folder, 7, 0.7, torch_files=None)) / MANIFEST_NAME).read_bytes())


def test_what_is_committed_is_proven_and_every_file_of_it_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, synced = manifest_of(tmp_path / "elsewhere"), []
    monkeypatch.setattr(module, "sync_file", lambda path: synced.append(path.name))
    out = tmp_path / "out"
    out.mkdir()
    committer = Committer(out, keep=1, kept=[Kept("checkpoint-5", 5, None), Kept("checkpoint-7", 7, None)])
    (out / "checkpoint-5").mkdir()
    staging = committer.stage()
    (staging / "first").write_text("abc")

    def write() -> None:
        (staging / "second").write_text("de")

    committer.commit(Staged(staging, 7, 0.25, write, lambda files: manifest.model_copy(update={"files": files})))
    done = committer.wait()
    committer.close()
    assert done is not None and (done.name, done.step, done.removed, done.replaced) == (
        "checkpoint-7",
        7,
        ("checkpoint-5",),
        None,
    )
    written = parse_manifest((done.path / MANIFEST_NAME).read_bytes())
    assert {name: record.size for name, record in written.files.items()} == {"first": 3, "second": 2}
    assert written.files["first"].sha256 == hashlib.sha256(b"abc").hexdigest()
    assert sorted(synced) == ["first", "second"]
    assert done.bytes == sum(path.stat().st_size for path in done.path.iterdir())
    assert committer.kept == [Kept("checkpoint-7", 7, 0.25)] and [path.name for path in out.iterdir()] == ["checkpoint-7"]
    assert committer.wait() is None and committer.poll() is None


def two(folder: Path) -> tuple[Path, Path]:
    """A staged checkpoint and one that stands in its way, each with its own file."""
    staged, final = folder / ".staging-1-1", folder / "checkpoint-1"
    for path in (staged, final):
        path.mkdir()
        (path / path.name).write_text("x")
    return staged, final


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()], ids=["refused", "killed"])
def test_what_was_to_be_replaced_has_its_name_again_when_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    staged, final = two(tmp_path)
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == staged:
            raise error
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(Path, "rename", refused)
        place(staged, final)
    if isinstance(error, KeyboardInterrupt):
        assert not final.exists()
        sweep(tmp_path)
    assert (final / "checkpoint-1").exists() and not list((tmp_path / ".trash").iterdir())


def test_what_was_being_replaced_when_a_kill_came_goes_into_the_trash_where_its_name_is_taken(tmp_path: Path) -> None:
    _staged, final = two(tmp_path)
    (tmp_path / ".replaced-checkpoint-1.5").mkdir()
    assert sweep(tmp_path) == (".replaced-checkpoint-1.5", ".staging-1-1")
    assert (final / "checkpoint-1").exists() and len(list((tmp_path / ".trash").glob("checkpoint-1.*"))) == 1


def test_a_link_among_what_is_swept_is_taken_away_and_not_followed(tmp_path: Path) -> None:
    _staged, final = two(tmp_path)
    (tmp_path / ".staging-2-1").symlink_to(final)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"] and (final / "checkpoint-1").exists()


@pytest.mark.parametrize(("free", "enough"), [(199, False), (200, True)])
def test_two_checkpoints_must_have_room_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda folder: free)
    module.need_room(tmp_path, free)
    with pytest.raises(OSError, match="no space left"):
        module.need_room(tmp_path, free + 1)
    with contextlib.nullcontext() if enough else pytest.raises(OutputError, match="too full"):
        module.need_room_to_begin(tmp_path, 100)


@pytest.mark.parametrize(("files", "left", "full"), [(1000, 31, True), (1000, 32, False), (0, 0, False)])
def test_a_full_table_of_files_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, left: int, full: bool
) -> None:
    monkeypatch.setattr(module.os, "statvfs", lambda folder: SimpleNamespace(f_files=files, f_favail=left), raising=False)
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1)
    with pytest.raises(OSError, match="inodes") if full else contextlib.nullcontext():
        module.need_room(tmp_path, 1)


@pytest.mark.parametrize("until", [None, 0, 1, 2, 5])
def test_what_was_good_until_a_step_is_the_furthest_saved_up_to_it(until: int | None) -> None:
    found = good([Kept("b", 2, None), Kept("a", 1, None), Kept("c", 4, None)], until)
    assert (found.step if found is not None else None) == {None: None, 0: None, 1: 1, 2: 2, 5: 4}[until]
