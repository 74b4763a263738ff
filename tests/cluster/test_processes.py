"""Two real processes and torchrun on this machine: the run of one process, only shared out; lost ones come back to the same bits."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.checkpoints.proof import read_manifest
from engine.checkpoints.scan import scan
from engine.events import Warned
from engine.journal import read_journal
from engine.lock import ask_to_stop
from engine.watch import standing
from tests.cluster.world import KILL, Run, all_gone, flags, steps_told, wait_until
from tests.conftest import chats, write_jsonl
from tests.engine.runs import adapter_bytes, losses, receipt, train

TOLERANCE = 2e-6
"""Of a loss near 6 in float32: sums in another order, and no more."""
SETTINGS: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "save_steps": 3, "logging_steps": 2, "keep": 9}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(place: Path, tiny_model: Path, chat_file: Path) -> Path:
    """The run of two processes that nothing happens to: 26 rows, steps of 2 x 2."""
    out = place / "two"
    run = Run(place, "--yes", *flags(dataset=chat_file, model=tiny_model, output=out, nproc=2, batch_size=2, **SETTINGS))
    assert run.code() == 0, run.said()
    return out


@pytest.fixture
def begun(tmp_path: Path, tiny_model: Path, chat_file: Path) -> Iterator[Any]:
    """The same run, under way: (Run, its folder) once it has done some steps."""
    started: list[Run] = []

    def begin(steps: int = 5, **more: Any) -> tuple[Run, Path]:
        out = tmp_path / "run"
        settings = {"nproc": 2, "batch_size": 2, **SETTINGS, **more}
        run = Run(tmp_path, "--yes", *flags(dataset=chat_file, model=tiny_model, output=out, **settings))
        started.append(run)
        wait_until(lambda: steps_told(out) * int(settings["logging_steps"]) >= steps, run)
        return run, out

    yield begin
    for run in started:
        run.end()


def test_two_processes_learn_what_one_learns(two: Path, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "one"
    train(dataset=chat_file, model=tiny_model, output=out, batch_size=4, **SETTINGS)
    alone, shared = losses(out), losses(two)
    assert [step for step, _loss in alone] == [step for step, _loss in shared] and len(alone) > 8
    assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in zip(alone, shared, strict=True)) < TOLERANCE
    tokens = [[record["tokens"] for record in read_journal(folder) if record["type"] == "step"] for folder in (out, two)]
    assert tokens[0] == tokens[1]


@pytest.mark.slow
def test_two_processes_measure_the_eval_loss_of_one(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    """Of five rows the last is there for one of them alone."""
    measured = write_jsonl(tmp_path / "measured.jsonl", chats(31)[26:])
    settings = {"dataset": chat_file, "model": tiny_model, "eval_dataset": measured, "max_steps": 2, "save_steps": 1}
    train(**settings, output=tmp_path / "one", batch_size=4)
    run = Run(tmp_path, "--yes", *flags(**settings, output=tmp_path / "two", nproc=2, batch_size=2))
    assert run.code() == 0, run.said()
    alone, shared = (
        [record["eval_loss"] for record in read_journal(tmp_path / out) if record["type"] == "evaluated"]
        for out in ("one", "two")
    )
    assert len(alone) == 2 and shared == pytest.approx(alone, abs=TOLERANCE)


def test_the_checkpoints_of_two_hold_the_states_of_both_and_are_proven(two: Path) -> None:
    found = scan(two)
    assert {one.grade for one in found.checkpoints} == {"proven"}
    manifest = read_manifest(two / "checkpoint-3")
    assert (manifest.geometry.world_size, manifest.geometry.rows, len(manifest.others)) == (2, 4, 1)
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest.files)
    assert manifest.others[0].rng != manifest.rng, "both would drop the same units"


def test_a_killed_process_brings_all_back_and_the_run_is_the_same(begun: Any, two: Path) -> None:
    run, out = begun()
    run.worker(1).send_signal(KILL)
    assert run.code() == 0, run.said()
    assert adapter_bytes(out) == adapter_bytes(two) and losses(out) == losses(two)
    told = [record["code"] for record in read_journal(out) if record["type"] == Warned.type]
    assert "peer_lost" in told and "cut_off" in told


@pytest.mark.slow
def test_a_model_in_parts_is_trained_to_the_same_bits_and_comes_back_after_a_kill(begun: Any, two: Path) -> None:
    run, out = begun(parallel="fsdp2")
    run.worker(1).send_signal(KILL)
    assert run.code() == 0, run.said()
    assert "parallel fsdp2 · as set" in run.said()
    assert adapter_bytes(out) == adapter_bytes(two) and losses(out) == losses(two)
    assert {one.grade for one in scan(out).checkpoints} == {"proven"}


@pytest.mark.parametrize("processes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on_in_the_middle_of_an_epoch(two: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    shutil.copytree(two, out, ignore=lambda _folder, names: {name for name in names if name not in kept(names)})
    if processes == 1:
        _outcome, events = train(output=out, nproc=1)
        assert receipt(events)["batch_geometry"] == receipt(events)["rng"] == "changed"
        assert set(receipt(events).values()) == {"ok", "changed"}
        pairs = zip(losses(out), losses(two), strict=True)
        assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in pairs) < TOLERANCE
    else:
        run = Run(tmp_path, "--yes", "--output", out, "--nproc", processes)
        assert run.code() == 0, run.said()
        assert "a step was 4 rows and becomes 3" in run.said()
    last = read_manifest(max((one.path for one in scan(out).checkpoints), key=lambda path: int(path.name.split("-")[1])))
    assert (last.cursor.epoch, last.cursor.rows_consumed, last.geometry.world_size) == (3, 0, processes)
    assert last.logs.tokens == read_manifest(two / "checkpoint-21").logs.tokens, "each row exactly once an epoch"


def kept(names: list[str]) -> set[str]:
    """Of a run's folder: what was there when it had done three steps, in the middle of the first epoch."""
    return {
        name
        for name in names
        if name in ("checkpoint-3", "run.toml", "events.jsonl") or "." in name or name == "manifest.json"
    }


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("victim", ["first", "last"])
def test_dropout_and_an_open_logging_window_survive_a_kill_of_any_process(
    begun: Any, tmp_path: Path, tiny_model: Path, chat_file: Path, processes: int, victim: str
) -> None:
    settings = {"nproc": processes, "lora_dropout": 0.1, "logging_steps": 1, "epochs": 6}
    straight = tmp_path / "straight"
    whole = Run(
        tmp_path,
        "--yes",
        *flags(dataset=chat_file, model=tiny_model, output=straight, batch_size=2, **{**SETTINGS, **settings}),
    )
    assert whole.code() == 0, whole.said()
    run, out = begun(7, **settings)
    run.worker(0 if victim == "first" else processes - 1).send_signal(KILL)
    assert run.code() == 0, run.said()
    assert adapter_bytes(out) == adapter_bytes(straight) and losses(out) == losses(straight)


@pytest.mark.slow
def test_one_process_becomes_two_in_the_middle_of_an_epoch(
    two: Path, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    train(stop_at=3, dataset=chat_file, model=tiny_model, output=out, batch_size=4, **SETTINGS)
    run = Run(tmp_path, "--yes", "--output", out, "--nproc", 2)
    assert run.code() == 0, run.said()
    pairs = list(zip(losses(out), losses(two), strict=True))
    assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in pairs) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["torchrun", "lora-tui"])
def test_processes_that_lose_whoever_started_them_save_and_go(begun: Any, lost: str) -> None:
    run, out = begun(5, epochs=60)
    family = run.family()
    (run.launcher() if lost == "torchrun" else run.process).send_signal(KILL)
    assert all_gone(family), "orphans"
    ended = [record for record in read_journal(out) if record["type"] == "run_stopped"]
    assert ended[-1]["reason"] == "parent_gone" and (out / ended[-1]["checkpoint"] / "manifest.json").exists()
    if lost == "torchrun":
        assert run.code() == 1 and "died" in run.said()


@pytest.mark.slow
def test_a_signal_saves_and_leaves_with_its_code_and_no_process_behind(begun: Any) -> None:
    run, out = begun(5, epochs=60)
    family = run.family()
    run.process.terminate()
    assert run.code() == 143
    assert all_gone(family)
    stopped = [record for record in read_journal(out) if record["type"] == "run_stopped"][-1]
    assert read_manifest(out / stopped["checkpoint"]).step == stopped["step"]
    assert stopped["reason"] == "SIGTERM"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_that_is_asked_for_while_a_lost_process_is_started_again_is_heeded(begun: Any, rank: int) -> None:
    run, out = begun(5, epochs=60)
    before = run.worker(0)
    run.worker(rank).send_signal(KILL)
    states = {standing(out).state}
    ask_to_stop(out)
    while run.process.poll() is None:
        if before.is_running() and before.status() != psutil.STATUS_ZOMBIE:
            ask_to_stop(out)  # also after the one that heard it has lost its peer
        found = standing(out).state
        if not any(record["type"] == "run_stopped" for record in read_journal(out)):
            states.add(found)
        time.sleep(0.02)
    assert run.code() == 0, run.said()
    told = list(read_journal(out))
    assert [record["type"] for record in told].count("run_started") == 2 and states == {"running"}
    stopped = told[-1]
    assert (stopped["type"], stopped["reason"]) == ("run_stopped", "watcher")


@pytest.mark.slow
def test_a_run_whose_process_always_dies_ends_and_says_so(begun: Any) -> None:
    run, out = begun(1, epochs=60)
    family = run.family()
    for _time in range(4):
        before = steps_told(out)
        run.worker(1).send_signal(KILL)
        if _time < 3:
            wait_until(lambda: steps_told(out) > before, run)  # noqa: B023
    assert run.code() == 1
    assert "lost 4 times" in run.said() and "killed by SIGKILL" in run.said() and "--resume auto" in run.said()
    assert all_gone(family)
    assert all(one.grade == "proven" for one in scan(out).checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_rows_that_one_process_cannot_hold_become_fewer_in_all(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(Run, "path", f"{Path(__file__).parent / 'little_memory'}:{Run.path}")
    monkeypatch.setenv("TEST_RANK", str(rank))
    monkeypatch.setenv("TEST_ROWS", "2")
    out = tmp_path / "run"
    run = Run(tmp_path, "--yes", *flags(dataset=chat_file, model=tiny_model, output=out, nproc=2, **SETTINGS))
    assert run.code() == 0, run.said()
    for step in ("going on with 4, and 2 of them for a step", "going on with 2, and 4 of them for a step"):
        assert step in run.said()
    geometry = [manifest.geometry for manifest in (read_manifest(one.path) for one in scan(out).checkpoints)]
    assert {(one.batch_size, one.grad_accum, one.world_size) for one in geometry} == {(8, 1, 2), (2, 4, 2)}
    run = Run(tmp_path, "--yes", *flags(output=out, epochs=4), name="again")
    assert run.code() == 0, run.said()
    assert "batch_size 2" in run.said(), "what was found is kept"


@pytest.mark.slow
def test_a_full_disk_ends_all_of_them_with_the_code_of_one(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    limit = "import resource,sys,os;resource.setrlimit(resource.RLIMIT_FSIZE,(130000,130000));os.execvp(sys.argv[1],sys.argv[1:])"
    asked = flags(dataset=chat_file, model=tiny_model, output=out, nproc=2, batch_size=2, **SETTINGS)
    run = Run(tmp_path, "--yes", *asked, prefix=(sys.executable, "-c", limit))
    assert run.code() == 5, run.said()
    assert "checkpoint of step 3 could not be saved" in run.said()
    assert not list(out.glob(".staging-*"))


@pytest.mark.slow
def test_json_tells_each_step_once(place: Path, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    run = Run(tmp_path, "--yes", "--json", *flags(dataset=chat_file, model=tiny_model, output=tmp_path / "run", nproc=2,
              batch_size=2, epochs=1))  # fmt: skip
    assert run.code() == 0, run.said()
    told = [json.loads(line) for line in run.out.read_text().splitlines()]
    assert [record["step"] for record in told if record["type"] == "step"] == [1, 2, 3, 4, 5, 6, 7]
