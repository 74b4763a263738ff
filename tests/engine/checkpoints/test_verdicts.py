"""What was judged before is not read again, and every touch makes it be."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints import scan as scanning
from engine.checkpoints import verdicts
from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.scan import glance, scan, scan_many
from engine.resume.report import check_report
from tests.engine.checkpoints.folders import seal, write_checkpoint, write_json


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three proven checkpoints, a foreign one of another run and a broken one, all old enough to be remembered."""
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "GRAIN", 0.0)
    folder = tmp_path / "out"
    for step in (10, 20, 30):
        seal(write_checkpoint(folder / f"checkpoint-{step}", step, step / 100, [3.0, 2.0, 1.0][: step // 10]))
    write_checkpoint(folder / "checkpoint-40", 40, 0.1, [9.0, 8.0])
    torn = write_checkpoint(folder / "checkpoint-50", 50, 0.5, [3.0])
    os.truncate(torn / "adapter_model.safetensors", 100)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checkpoints that are judged from now on."""
    judged: list[str] = []
    judge = scanning.inspect_folder

    def counting(path: Path, **given: Any) -> Checkpoint:
        judged.append(path.name)
        return judge(path, **given)

    monkeypatch.setattr(scanning, "inspect_folder", counting)
    return judged


def test_a_second_look_reads_only_what_had_something_wrong_and_says_the_same(out: Path, read: list[str]) -> None:
    first = check_report(scan_many(out))
    assert first == check_report(scan(out))
    read.clear()
    assert check_report(scan_many(out)) == first
    assert read == ["checkpoint-50"]


def test_of_what_is_not_read_again_the_furthest_of_the_run_has_its_losses(out: Path, read: list[str]) -> None:
    """Where the loss jumped is told at a second look too."""
    for name in ("checkpoint-40", "checkpoint-50"):
        shutil.rmtree(out / name)
    scan_many(out)
    read.clear()
    assert [len(one.history) for one in scan_many(out).checkpoints] == [0, 0, 3] and not read


def test_what_a_manifest_leaves_open_is_the_same_judged_recalled_and_glanced_at(out: Path) -> None:
    """As of a run that was stopped between two evaluations: its log has an eval loss, which is of an earlier step."""
    folder = write_checkpoint(out / "checkpoint-60", 60, 0.6, [3.0, 2.0])
    state = json.loads((folder / "trainer_state.json").read_text())
    write_json(
        folder / "trainer_state.json", {**state, "log_history": [*state["log_history"], {"step": 2, "eval_loss": 8.5}]}
    )
    seal(folder, loss=None)
    for look in (scan, scan_many, scan_many, glance):
        (found,) = [one for one in look(out).checkpoints if one.name == "checkpoint-60"]
        assert (found.loss, found.eval_loss, found.step, found.epoch) == (None, None, 60, 0.6), look


def test_full_reads_everything_again(out: Path, read: list[str]) -> None:
    scan_many(out)
    read.clear()
    scan_many(out, full=True)
    assert len(read) == 5


def rewritten(path: Path) -> None:
    """One byte changed, size and time of writing put back."""
    weights, status = path / "adapter_model.safetensors", (path / "adapter_model.safetensors").stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file of the same size moved over it, with its times."""
    weights = path / "adapter_model.safetensors"
    other = path.parent / "other"
    other.write_bytes(weights.read_bytes()[:-1] + b"\0")
    os.utime(other, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
    other.replace(weights)


def emptied(path: Path) -> None:
    (path / "optimizer.pt").unlink()


def added(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(b"x")


def opened_to_all(path: Path) -> None:
    path.chmod(0o777)


@pytest.mark.parametrize("touch", [rewritten, replaced, emptied, added, opened_to_all])
def test_whatever_is_touched_is_judged_again(touch: Callable[[Path], None], out: Path, read: list[str]) -> None:
    scan_many(out)
    time.sleep(0.02)  # beyond the grain of the system's clock
    touch(out / "checkpoint-20")
    read.clear()
    found = {one.name: one for one in scan_many(out).checkpoints}
    assert read == ["checkpoint-50", "checkpoint-20"]
    assert found["checkpoint-20"].problems


def test_what_is_too_young_is_not_remembered(out: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "GRAIN", 3_600.0)
    scan_many(out)
    read.clear()
    scan_many(out)
    assert len(read) == 5


def test_what_other_rules_found_is_judged_again(out: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of this package: what was sound by its rules may not be by these."""
    scan_many(out)
    read.clear()
    monkeypatch.setattr(verdicts, "rules", lambda: "others")
    scan_many(out)
    assert len(read) == 5
    read.clear()
    scan_many(out)
    assert read == ["checkpoint-50"]


@pytest.mark.parametrize("content", ["", "[]", '{"rules": RULES, "sound": [1]}', '{"rules": 99, "sound": {}}', "[" * 10_000])
def test_a_damaged_memory_is_none(content: str, out: Path) -> None:
    before = check_report(scan_many(out))
    (memory,) = (out.parent / "cache" / "verdicts").iterdir()
    memory.write_text(content.replace("RULES", json.dumps(verdicts.rules())))
    assert check_report(scan_many(out)) == before


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out.parent / "blocked").write_text("a file")
    monkeypatch.setenv("LORA_TUI_CACHE", str(out.parent / "blocked"))
    assert [one.grade for one in scan_many(out).checkpoints].count(Grade.PROVEN) == 3


def test_many_are_judged_by_several_processes_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "FOR_A_PROCESS", 2)
    monkeypatch.setattr(scanning, "processors", lambda: 2)
    for step in range(1, 9):
        seal(write_checkpoint(tmp_path / f"checkpoint-{step}", step, step / 100))
    assert scan_many(tmp_path, full=True) == scan(tmp_path)
