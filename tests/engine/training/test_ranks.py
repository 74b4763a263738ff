"""Several processes cut the same rows among themselves, whatever their number; what must be alike is compared."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import devices
from engine.child import handed_over
from engine.config import RunConfig
from engine.course.steps import kept_geometry
from engine.devices import placed, visible_gpus
from engine.errors import CannotContinue, ConfigError, LoraTuiError, ModelError
from engine.events import Event
from engine.journal import read_journal
from engine.launch import InSeveralProcesses, runner_of
from engine.resume.plan import ResumePlan
from engine.runner import InThisProcess
from engine.training.batches import RowBatches
from engine.training.ranks import Ranks
from engine.training.trainer import Trainer
from engine.watch import died
from tests.engine.runs import adapter_bytes, plan

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=70).map(np.array)


def parts(lengths: np.ndarray, each: int, world: int, begin: int, epoch: int = 0) -> list[list[list[int]]]:
    """What each process takes: process -> batch -> rows."""
    found = []
    for rank in range(world):
        batches = RowBatches(lengths, 7, each, rank, world)
        batches.at(epoch, begin)
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    return found


@given(LENGTHS, st.integers(1, 5), st.integers(1, 5), st.data())
def test_each_row_is_one_process_s_exactly_once_and_all_have_as_many_batches(
    lengths: np.ndarray, each: int, world: int, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(lengths)))
    taken = parts(lengths, each, world, begin)
    order = RowBatches(lengths, 7, each).order(0)
    assert sorted(row for part in taken for batch in part for row in batch if row >= 0) == sorted(order[begin:].tolist())
    assert len({len(part) for part in taken}) == 1
    assert all(len(batch) <= each and batch for part in taken for batch in part)


@given(LENGTHS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_another_number_of_processes_in_the_middle_of_an_epoch_takes_the_rest_once(
    lengths: np.ndarray, each: int, before: int, after: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(0, -(-len(lengths) // (each * before))))
    first = [row for part in parts(lengths, each, before, 0) for batch in part[:steps] for row in batch if row >= 0]
    at_a_time, times = kept_geometry(each * before, each, after)
    second = [
        row for part in parts(lengths, at_a_time * times, after, len(first)) for batch in part for row in batch if row >= 0
    ]
    assert sorted(first + second) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 5), st.integers(1, 5))
def test_the_processes_together_train_the_batches_of_one(lengths: np.ndarray, each: int, world: int) -> None:
    together = parts(lengths, each, world, 0)
    (alone,) = parts(lengths, each * world, 1, 0)
    assert [sorted(row for part in step for row in part if row >= 0) for step in zip(*together, strict=True)] == [
        sorted(batch) for batch in alone
    ]


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 9))
def test_the_rows_of_a_step_are_kept_where_the_processes_divide_them(rows: int, batch_size: int, world: int) -> None:
    at_a_time, times = kept_geometry(rows, batch_size, world)
    assert 1 <= at_a_time <= batch_size and times >= 1
    if rows % world == 0:
        assert at_a_time * times * world == rows
    else:
        assert abs(at_a_time * times * world - rows) <= max(world - 1, world / 2)


class Facts(Ranks):
    """A process whose peers have said what they have."""

    def __init__(self, *told: dict[str, str]) -> None:
        super().__init__(world=len(told))
        self.told = told

    def gather(self, mine: Any) -> list[Any]:
        return [(f"host{rank}", facts) for rank, facts in enumerate(self.told)]


@pytest.mark.parametrize(
    ("what", "kind"),
    [("torch", ConfigError), ("--learning-rate", ConfigError), ("model", ModelError), ("adapter", CannotContinue)],
)
def test_what_differs_is_named_with_both_values_and_where(what: str, kind: type[LoraTuiError]) -> None:
    with pytest.raises(kind) as raised:
        Facts({what: "1"}, {what: "1"}, {what: "2"}).agree({})
    assert what in raised.value.title
    assert all(word in raised.value.detail for word in ("1 in process 0 on host0", "2 in process 2 on host2"))


def test_what_one_of_them_lacks_differs() -> None:
    with pytest.raises(ConfigError, match="- in process 1"):
        Facts({"peft": "1"}, {}).agree({})


def test_the_same_everywhere_goes_on() -> None:
    Facts({"torch": "1", "model": "a"}, {"model": "a", "torch": "1"}).agree({})


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with so many GPUs, as its driver tells of them."""

    def there(count: int) -> None:
        for index in range(count):
            (tmp_path / f"0000:{index:02}").mkdir()
        monkeypatch.setattr(devices, "GPUS", tmp_path)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return there


def fresh(asked: RunConfig, out: Path) -> ResumePlan:
    return ResumePlan("fresh", asked, out, "run", None, None, "")


def config(**answers: Any) -> RunConfig:
    return RunConfig(dataset="d", model="m", **answers)


def test_auto_is_a_process_for_each_gpu_that_may_be_used(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(4)
    assert placed(config(nproc="auto")).nproc == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert (visible_gpus(), placed(config(nproc="auto")).nproc) == (2, 2)


def test_without_a_gpu_auto_is_one_process(gpus: Any) -> None:
    gpus(0)
    assert placed(config(nproc="auto")).nproc == 1


def test_more_processes_than_gpus_are_refused_with_their_number(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        placed(config(nproc=3))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"nnodes": 2, "node_rank": 2, "rendezvous": "a:1"}, "one of 0 to 1"),
        ({"nnodes": 2}, "needs --rendezvous"),
        ({"node_rank": 1}, "one of 0 to 0"),
    ],
)
def test_machines_that_cannot_meet_are_refused(answers: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        placed(config(**answers))


def test_a_plan_from_a_file_that_anybody_can_name_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with open(path, "rb") as file, pytest.raises(ConfigError, match="not by hand"):
        handed_over(file)


@pytest.mark.parametrize(
    ("words", "title", "detail"),
    [
        (
            "E failed (exitcode: -9) local_rank: 2 (pid: 7) of binary: x\nE failed (exitcode: 75) local_rank: 0 (pid: 9) of binary: x",
            "lost 2 times",
            "process 2: killed by SIGKILL; process 0: exit code 75",
        ),
        (
            "torch.distributed.DistStoreError: Timed out after 21 seconds waiting for clients. 1/2 clients joined.",
            "in time",
            "1/2",
        ),
        ("The server socket has failed: EADDRINUSE", "in use", ""),
        ("something else\nlast line", "died", "last line"),
    ],
)
def test_what_torchrun_says_to_programmers_is_said_to_people(words: str, title: str, detail: str) -> None:
    told = InSeveralProcesses(2).explain(died(None, None), words, 1)
    assert title in told.title and detail in told.detail


@pytest.mark.parametrize(("world", "several"), [("2", True), ("3", False), ("", False)])
def test_only_what_torchrun_says_of_this_very_run_counts(
    world: str, several: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (
        ("RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("TORCHELASTIC_RESTART_COUNT", "1"),
        ("WORLD_SIZE", world),
    ):
        monkeypatch.setenv(name, value)
    found = Ranks.of_environment(2)
    assert (found.alone, found.first) == (not several, not several)
    assert isinstance(runner_of(fresh(config(nproc=2), tmp_path)), InThisProcess if several else InSeveralProcesses)
    assert isinstance(runner_of(fresh(config(), tmp_path)), InThisProcess) and Ranks.of_environment(1).alone


def test_the_processors_that_a_job_was_given_are_shared_out_and_not_the_machines(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3}, raising=False)
    assert InSeveralProcesses(2).environment(fresh(config(nproc=2), tmp_path))["OMP_NUM_THREADS"] == "2"


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        asked = config(nnodes=2, rendezvous=f"127.0.0.1:{taken.getsockname()[1]}")
        wanted = fresh(asked, tmp_path)
        told: list[Event] = []
        with pytest.raises(ConfigError, match="is in use on this machine"):
            InSeveralProcesses(1).run(wanted, lambda event, record: told.append(event), lambda: None)
    assert [(event.type, getattr(event, "exit_code", 0)) for event in told] == [("run_failed", 2)]


def test_processes_that_cannot_be_asked_by_a_file_are_asked_by_a_signal(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(["sleep", "60"]) as child:
        InSeveralProcesses(2).ask(child, fresh(config(nproc=2), out), True, "SIGINT")  # there is no such folder to write to
        assert child.wait(10) == -signal.SIGTERM


def test_one_alone_needs_nobody() -> None:
    alone = Ranks()
    with alone.joined(5):
        assert (alone.share(3), alone.gather(4), alone.agreed(lambda: "stop")()) == (3, [4], "stop")
        alone.meet()
        alone.agree({"a": "b"})


def test_processes_lost_after_the_last_step_do_not_begin_anew(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    first = plan(dataset=chat_file, model=tiny_model, output=out, max_steps=2, batch_size=4)
    Trainer(first).run(lambda event, record: None, lambda: None)
    wanted = adapter_bytes(out)
    shutil.rmtree(out / "final")
    kept = (out / "checkpoint-2" / "manifest.json").read_bytes()
    again, told = Trainer(first), []
    again.ranks = Ranks(restarts=1)
    outcome = again.run(lambda event, record: told.append(event.type), lambda: None)
    assert (outcome.state, outcome.step, told) == ("finished", 2, ["run_finished"])
    assert adapter_bytes(out) == wanted and (out / "checkpoint-2" / "manifest.json").read_bytes() == kept
    assert list(read_journal(out))[-1]["type"] == "run_finished"
