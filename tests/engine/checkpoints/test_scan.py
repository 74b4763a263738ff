"""Scanning: what counts as a checkpoint, and what is only told."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints import scan as module
from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import choose
from engine.checkpoints.scan import Scan, glance, scan, scan_many
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.resume.recommend import recommend, settle, settle_over_rows
from tests.engine.checkpoints.folders import seal, write_checkpoint, write_torch_files


@functools.cache
def _torch_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_torch_files(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def copied(folder: Path) -> None:
    """The torch files of a checkpoint, made once."""
    for name, content in _torch_files().items():
        (folder / name).write_bytes(content)


def test_the_furthest_epoch_wins_over_the_newest_folder(tmp_path: Path) -> None:
    late = write_checkpoint(tmp_path / "checkpoint-327", 327, 2.9, [4.4, 2.0, 0.17])
    early = write_checkpoint(tmp_path / "checkpoint-12", 12, 0.11, [4.4])
    for path in (*early.iterdir(), early):
        os.utime(path, (time.time() + 3600, time.time() + 3600))
    os.utime(late, (1, 1))
    choice = choose(scan(tmp_path).checkpoints)
    assert choice.checkpoint is not None and choice.checkpoint.name == "checkpoint-327"
    assert "2.90" in choice.reason and "327" in choice.reason


@pytest.mark.parametrize(
    "name",
    ["checkpoint-٣", "checkpoint-007", "checkpoint-7\n", "checkpoint-100-backup", "checkpoint-", "checkpoint", "Checkpoint-5",
     "checkpoint-1e3", "checkpoint--4", "checkpoint-" + "9" * 40, "checkpoint-\x1b]52;c;aGk=\x07", "checkpoint-5 "],
)  # fmt: skip
def test_a_name_that_only_looks_like_a_checkpoint_is_ignored_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    found = scan(tmp_path)
    assert found.checkpoints == () and [one.name for one in found.ignored] == [name] and found.ignored[0].reason


def test_links_pipes_and_files_are_ignored_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "checkpoint-1").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-3").write_text("")
    found = scan(tmp_path)
    assert found.checkpoints == () and len({one.reason for one in found.ignored}) == 3


def test_staging_and_trash_are_never_seen(tmp_path: Path) -> None:
    for name in (".staging-1-1", ".trash", ".trash-checkpoint-3-1", "final"):
        (tmp_path / name / "checkpoint-3").mkdir(parents=True)
    found = scan(tmp_path)
    assert (found.checkpoints, found.ignored) == ((), ())


def test_a_hundred_thousand_other_entries_do_not_matter(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint-3", 3, 0.1, torch_files=None)
    for number in range(100_000):
        os.mknod(f"{tmp_path}/f{number}")
    begun = time.monotonic()
    assert len(scan(tmp_path).checkpoints) == 1
    assert time.monotonic() - begun < 2


def test_one_that_goes_while_the_folder_is_listed_is_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As retention of a run that is going on takes them, between the listing and the look at each."""
    for step in (10, 20):
        write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=None)
    listed = os.scandir

    @contextlib.contextmanager
    def retained_meanwhile(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with listed(folder) as entries:
            found = list(entries)
        if folder == tmp_path:
            shutil.rmtree(tmp_path / "checkpoint-10")
        yield found

    monkeypatch.setattr("engine.checkpoints.scan.os.scandir", retained_meanwhile)
    found = glance(tmp_path)
    assert ([one.name for one in found.checkpoints], found.ignored) == (["checkpoint-20"], ())


@pytest.mark.parametrize("look", [scan, scan_many, glance])
def test_one_whose_manifest_is_torn_stays_with_the_run_its_losses_tell(look: Callable[[Path], Scan], tmp_path: Path) -> None:
    seal(write_checkpoint(tmp_path / "checkpoint-1", 1, 0.5, [4.4], copied))
    torn = seal(write_checkpoint(tmp_path / "checkpoint-2", 2, 1.0, [4.4, 2.0], copied)) / "manifest.json"
    torn.write_bytes(torn.read_bytes()[:100])
    assert [one.run for one in look(tmp_path).checkpoints] == ["run-of-ours", "run-of-ours"]


@pytest.mark.parametrize("look", [scan, scan_many, glance])
def test_one_that_goes_while_it_is_judged_is_gone_and_not_broken(
    tmp_path: Path, look: Callable[[Path], Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=None))
    listed = module._listed

    def retained_meanwhile(folder: Path) -> tuple[list[str], tuple[module.Ignored, ...]]:
        found = listed(folder)
        shutil.rmtree(folder / "checkpoint-10")
        return found

    monkeypatch.setattr(module, "_listed", retained_meanwhile)
    assert [one.name for one in look(tmp_path).checkpoints] == ["checkpoint-20"]


@pytest.mark.parametrize("look", [scan, scan_many, glance])
def test_one_that_goes_in_the_middle_of_being_judged_is_gone_and_not_damaged(
    tmp_path: Path, look: Callable[[Path], Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=None))

    def rotated_away(judge: Callable[..., Any]) -> Callable[..., Any]:
        def judged(folder: Path, *more: Any, **others: Any) -> Any:
            if folder.name == "checkpoint-10":
                (folder / "optimizer.pt").unlink(missing_ok=True)
                found = judge(folder, *more, **others)
                shutil.rmtree(folder)
                return found
            return judge(folder, *more, **others)

        return judged

    for name in ("inspect_folder", "glimpse"):
        monkeypatch.setattr(module, name, rotated_away(getattr(module, name)))
    assert [one.name for one in look(tmp_path).checkpoints] == ["checkpoint-20"]


@pytest.mark.usefixtures("as_anybody")
@pytest.mark.parametrize("look", [scan, scan_many, glance])
def test_one_that_may_not_be_entered_hides_no_other(tmp_path: Path, look: Callable[[Path], Scan]) -> None:
    for step in (10, 20):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=copied))
    (tmp_path / "checkpoint-20").chmod(0)
    try:
        found = {one.name: one.continuable for one in look(tmp_path).checkpoints}
    finally:
        (tmp_path / "checkpoint-20").chmod(0o700)
    assert found == {"checkpoint-10": True, "checkpoint-20": False}


def test_no_such_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ConfigError) as refused:
            scan(path)
        assert refused.value.detail == os.strerror(errno.ENOENT if path.name == "nowhere" else errno.ENOTDIR)


def test_a_checkpoint_folder_itself_holds_no_checkpoints(whole: Path) -> None:
    assert scan(whole).checkpoints == ()


KINDS = ("sound", "torn", "other run", "unsealed", "no optimizer", "as far as the one before")


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_a_glance_settled_recommends_what_a_full_scan_does(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str]
) -> None:
    out = tmp_path_factory.mktemp("out")
    for number, kind in enumerate(kinds, 1):
        far = number - (kind == "as far as the one before")
        folder = write_checkpoint(
            out / f"checkpoint-{number * 10}",
            far * 10,
            far / 10,
            torch_files=None if kind == "no optimizer" else copied,
        )
        if kind != "unsealed":
            seal(folder, run_id="theirs" if kind == "other run" else "ours")
        if kind == "torn":
            with open(folder / "adapter_model.safetensors", "r+b") as file:
                file.truncate(100)
    settled, choice = settle(glance(out))
    assert choice == recommend(scan(out))
    assert settled.checkpoints[-1].run == scan(out).checkpoints[-1].run


def test_a_glance_judges_only_down_to_the_one_that_can_be_continued(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=copied))
    (tmp_path / "checkpoint-40" / "adapter_model.safetensors").write_bytes(b"")
    settled, choice = settle(glance(tmp_path))
    assert choice.checkpoint is not None
    assert (choice.checkpoint.name, settled.unverified) == ("checkpoint-30", {"checkpoint-10", "checkpoint-20"})


def test_each_checkpoint_is_held_against_the_settings_once(tmp_path: Path) -> None:
    """To hold a base model against what was saved takes its files: with 200 checkpoints a plan took minutes."""
    for step in (10, 20, 30, 40):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100, torch_files=copied))
    asked: list[str] = []

    def refuse(candidate: Checkpoint) -> str:
        asked.append(candidate.name)
        return "another base model"

    _settled, choice = settle_over_rows(glance(tmp_path), RunConfig(), refuse)
    assert choice.checkpoint is None and {passed.reason for passed in choice.passed_over} == {"another base model"}
    assert asked == ["checkpoint-40", "checkpoint-30", "checkpoint-20", "checkpoint-10"]
