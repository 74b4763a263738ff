from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints import commit as module
from engine.checkpoints.commit import Committer, place, remove, sweep
from engine.checkpoints.retain import Kept, surplus
from engine.checkpoints.trash import from_trash, put_away, to_trash
from engine.errors import OutputError


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

    committer.commit(staging, 1, None, lambda: None, full)
    with pytest.raises(OSError, match="No space left"):
        committer.wait()
    committer.close()
    assert list(tmp_path.iterdir()) == []
