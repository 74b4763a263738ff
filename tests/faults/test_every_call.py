"""Saving, retention, trash and recovery, broken at every file-system call in turn: 1st, 2nd, 3rd ... until none remain."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.commit import Committer, Staged, sweep
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.manifest import MANIFEST_NAME, Manifest
from engine.checkpoints.retain import Kept
from engine.checkpoints.scan import scan
from engine.checkpoints.trash import from_trash, to_trash
from engine.config import RunConfig
from engine.errors import LoraTuiError
from engine.events import RunStopped
from engine.folder import RUN_TOML, write_run_toml
from engine.journal import Journal, read_journal
from engine.lock import locked
from engine.resume.plan import ResumePlan
from engine.resume.recommend import settle
from engine.training.complete import conclude
from tests.engine.checkpoints.folders import seal, write_checkpoint
from tests.faults.seam import ERRORS, Breaker, Died, breaking


@dataclass(frozen=True)
class Operation:
    """Something that changes a run's folder."""

    name: str
    prepare: Callable[[Path], None]
    """Brings the folder into the state it begins from."""
    do: Callable[[Path], Any]
    there: frozenset[str]
    """Checkpoints that must be there whole whatever happens: under their name, or in .trash where the operation moves them there."""
    gained: str | None = None
    """What is there once it has been done."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoint-1 to -3, proven, and the parts of a fourth, not sealed yet, beside it."""
    root = tmp_path_factory.mktemp("made")
    first = write_checkpoint(root / "out" / "checkpoint-1", 1, 0.1)
    for step in (2, 3):
        shutil.copytree(first, root / "out" / f"checkpoint-{step}")
    shutil.copytree(first, root / "parts")
    for step in (1, 2, 3, 4):
        folder = root / "out" / f"checkpoint-{step}" if step < 4 else root / "parts"
        text = (folder / "trainer_state.json").read_text()
        (folder / "trainer_state.json").write_text(
            text.replace('"global_step": 1', f'"global_step": {step}').replace('"epoch": 0.1', f'"epoch": 0.{step}', 1)
        )
        seal(folder)
    return root


def save(out: Path, step: int = 4, keep: int = 2) -> None:
    """Save `step` as the training does, from parts that lie beside the folder; retention then takes the oldest."""
    parts = out.parent / "parts"
    committer = Committer(out, keep, [Kept(f"checkpoint-{step}", step, None) for step in (1, 2, 3)])
    try:
        staging = committer.stage()

        def write(large: bool) -> None:
            for path in sorted(parts.iterdir()):
                if path.name != MANIFEST_NAME and large == path.name.startswith(("adapter_model", "optimizer")):
                    with open(staging / path.name, "wb") as file:
                        file.write(path.read_bytes())

        write(large=False)
        manifest = Manifest.model_validate_json((parts / MANIFEST_NAME).read_bytes())
        complete = lambda files: manifest.model_copy(update={"files": files})  # noqa: E731
        committer.commit(Staged(staging, step, None, lambda: write(large=True), complete))
        committer.wait()
    finally:
        committer.close()


def leave_halves(out: Path) -> None:
    """What two killed runs leave: a save that was not sealed, a removal half done, half a run.toml."""
    shutil.copytree(out.parent / "parts", out / ".staging-1-1")
    (out / ".staging-1-1" / MANIFEST_NAME).unlink()
    (out / "checkpoint-1").rename(out / ".trash-checkpoint-1-5")
    (out / ".trash-checkpoint-1-5" / "optimizer.pt").unlink()
    (out / ".staging-run.toml-1").write_text("half")


def recover(out: Path) -> None:
    """What every start does with the folder before it reads the data."""
    with locked(out):
        sweep(out)
        journal = Journal(out)
        journal.write(RunStopped(3, 0.3, "test", None))
        journal.close()


def write_final(out: Path) -> None:
    """The result of a complete run, whose final folder is of an earlier end."""
    config = RunConfig(output=str(out))
    conclude(ResumePlan("complete", config, out, "run-of-ours", None, inspect_folder(out / "checkpoint-3"), ""))


def earlier_final(out: Path) -> None:
    (out / "final").mkdir()
    (out / "final" / "adapter_model.safetensors").write_bytes(b"an earlier end")


def in_trash(out: Path) -> None:
    to_trash(out / "checkpoint-3")


def nothing(out: Path) -> None:
    """It begins from the three checkpoints."""


ALL = frozenset({"checkpoint-1", "checkpoint-2", "checkpoint-3"})
OPERATIONS = [
    Operation("save and retention", nothing, save, frozenset({"checkpoint-3"}), "checkpoint-4"),
    Operation("save without retention", nothing, lambda out: save(out, keep=9), ALL, "checkpoint-4"),
    Operation("save over a name that is taken",
              lambda out: shutil.copytree(out.parent / "parts", out / "checkpoint-4") and None,
              lambda out: save(out, keep=9), ALL | {"checkpoint-4"}, "checkpoint-4"),
    Operation("into the trash", nothing, lambda out: to_trash(out / "checkpoint-2"), ALL),
    Operation("out of the trash", in_trash, lambda out: from_trash(next((out / ".trash").iterdir())), ALL, "checkpoint-3"),
    Operation("recovery", leave_halves, recover, ALL - {"checkpoint-1"}),
    Operation("the final adapter", earlier_final, write_final, ALL),
    Operation("run.toml", nothing, lambda out: write_run_toml(out, RunConfig(output=str(out)), "run-of-ours"), ALL),
]  # fmt: skip


@pytest.fixture
def begin(made: Path, tmp_path: Path) -> Callable[[Operation], Path]:
    """A folder in the state the operation begins from, as new each time."""
    (tmp_path / "parts").symlink_to(made / "parts")

    def anew(operation: Operation) -> Path:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "out", out, copy_function=os.link)  # files are replaced here, never written into
        (out / RUN_TOML).write_text('run_id = "run-of-ours"\n')
        operation.prepare(out)
        return out

    return anew


def count_calls(operation: Operation, out: Path, looking: bool) -> list[str]:
    with breaking(Breaker(out, looking=looking)) as breaker:
        operation.do(out)
    return breaker.calls


def assert_sound(operation: Operation, out: Path, told: str) -> None:
    """Whatever was broken: only sound checkpoints, the furthest chosen, nothing earlier lost."""
    found = scan(out)
    assert {one.grade for one in found.checkpoints} <= {Grade.PROVEN}, told
    names = {one.name for one in found.checkpoints}
    for name in operation.there - names:
        places = [place for pattern in (f".trash/{name}.*", f".replaced-{name}.*") for place in out.glob(pattern)]
        kept = [path for path in places if (path / MANIFEST_NAME).is_file()]
        assert kept, f"{told}: {name} is gone"
    choice = settle(found)[1].checkpoint
    assert choice is not None and choice.step == max(one.step or 0 for one in found.checkpoints), told
    assert (out / RUN_TOML).read_text().count("run_id") == 1, told


def assert_recovers(operation: Operation, out: Path, told: str) -> None:
    """The next start cleans up, and the operation can be done."""
    recover(out)
    left = [path.name for path in out.iterdir() if path.name.startswith((".staging", ".trash-", ".replaced-", ".run.toml"))]
    assert not left, f"{told}: {left} left"
    assert [record["type"] for record in read_journal(out)][-1] == "run_stopped", told
    if operation.gained is not None and not (out / operation.gained).exists():
        operation.do(out)
        assert (out / operation.gained).is_dir(), told
    assert_sound(operation, out, told)


def breaks(operation: Operation, begin: Callable[[Operation], Path], looking: bool) -> Iterator[int]:
    calls = count_calls(operation, begin(operation), looking)
    assert len(calls) >= 2
    yield from range(1, len(calls) + 1)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_process_that_dies_at_any_call_loses_nothing(operation: Operation, begin: Callable[[Operation], Path]) -> None:
    for at in breaks(operation, begin, looking=False):
        out = begin(operation)
        with breaking(Breaker(out, at, looking=False)) as breaker, pytest.raises(Died):
            operation.do(out)
        told = f"{operation.name} died at call {at}, {breaker.calls[-1]}"
        assert_sound(operation, out, told)
        assert_recovers(operation, out, told)


def test_a_name_that_is_being_replaced_is_that_of_a_whole_checkpoint_after_the_next_start_wherever_the_process_dies(
    begin: Callable[[Operation], Path],
) -> None:
    operation = next(one for one in OPERATIONS if one.name == "save over a name that is taken")
    for at in breaks(operation, begin, looking=False):
        out = begin(operation)
        with breaking(Breaker(out, at, looking=False)) as breaker, pytest.raises(Died):
            operation.do(out)
        recover(out)
        grades = {one.name: one.grade for one in scan(out).checkpoints}
        assert grades.get("checkpoint-4") == Grade.PROVEN, f"died at call {at}, {breaker.calls[-1]}"
        # The one of before is in the trash only once the new one has its name.
        assert len(list(out.glob(".trash/checkpoint-4.*"))) <= 1


def test_a_killed_recovery_of_what_was_being_replaced_is_done_by_the_next(begin: Callable[[Operation], Path]) -> None:
    def cut_off(out: Path) -> None:
        (out / "checkpoint-3").rename(out / ".replaced-checkpoint-3.5")
        shutil.copytree(out / "checkpoint-1", out / ".replaced-checkpoint-2.6")

    operation = Operation("recovery of what was being replaced", cut_off, recover, ALL, "checkpoint-3")
    for at in breaks(operation, begin, looking=False):
        out = begin(operation)
        with breaking(Breaker(out, at, looking=False)), pytest.raises(Died):
            operation.do(out)
        recover(out)
        assert {one.name for one in scan(out).checkpoints} == ALL
        assert len(list(out.glob(".trash/checkpoint-2.*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_call_that_fails_is_told_and_loses_nothing(
    operation: Operation, lasting: bool, begin: Callable[[Operation], Path]
) -> None:
    for at in breaks(operation, begin, looking=not lasting):
        # Each place with one error, in turn, so that every errno meets every kind of call; ENOSPC and EIO differ in nothing here.
        error = ERRORS[at % len(ERRORS)]
        out = begin(operation)
        with breaking(Breaker(out, at, error, lasting, looking=not lasting)) as breaker:
            try:
                operation.do(out)
            except (OSError, LoraTuiError):
                failed = True
            else:
                failed = False
        told = f"{operation.name}: call {at}, {breaker.calls[at - 1]}, failed with {errno.errorcode[error]}"
        assert_sound(operation, out, told)
        if operation.gained is not None and not failed:
            assert (out / operation.gained).is_dir(), f"{told} without a word"
        assert_recovers(operation, out, told)


def test_one_save_syncs_every_file_the_manifest_and_both_folders(begin: Callable[[Operation], Path]) -> None:
    operation = next(one for one in OPERATIONS if one.name == "save without retention")
    out = begin(operation)
    calls = count_calls(operation, out, looking=False)
    files = len(list((out / "checkpoint-4").iterdir()))
    assert calls.count("fsync") == files + 2
    assert calls[-2:] == ["rename", "fsync"]
