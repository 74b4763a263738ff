"""Two machines: each with a network of its own (network namespaces), joined by a link that can be cut. Needs root and iproute2."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from tests.cluster.test_processes import SETTINGS, TOLERANCE, flags
from tests.cluster.world import KILL, Run, all_gone, steps_told, wait_until
from tests.engine.runs import adapter_bytes, losses, train

pytestmark = pytest.mark.slow
TIMEOUT = 15
ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 29611


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Link:
    """Machine 0 and machine 1, and what is between them."""

    names = ("lora0", "lora1")

    def up(self, is_up: bool) -> None:
        ip("-n", self.names[0], "link", "set", "eth0", "up" if is_up else "down")

    def run(self, machine: int, folder: Path, *arguments: object, through: tuple[str, ...] = ()) -> Run:
        """`lora-tui` on this machine; `through`: a command in front of it."""
        own = ("--nnodes", 2, "--node-rank", machine, "--rendezvous", f"{ADDRESSES[0]}:{PORT}", "--ddp-timeout", TIMEOUT)
        prefix = ("ip", "netns", "exec", self.names[machine], *through)
        return Run(folder, *arguments, *own, prefix=prefix, name=str(machine))


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    if shutil.which("ip") is None:
        pytest.skip("no iproute2 here")
    try:
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            ip("netns", "add", name)
        ip("-n", made.names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", made.names[1])
        for name, address in zip(made.names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    yield made
    for name in made.names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def both(link: Link, tmp_path: Path, tiny_model: Path, chat_file: Path) -> Iterator[Any]:
    """The run on both machines: [Run of machine 0, of machine 1]. `through`: a command in front of machine 1's."""
    started: list[Run] = []

    def begin(through: tuple[str, ...] = (), **more: Any) -> list[Run]:
        settings = {
            "batch_size": 2,
            **SETTINGS,
            "output": tmp_path / "run",
            "dataset": chat_file,
            "model": tiny_model,
            **more,
        }
        for machine in (0, 1):
            started.append(link.run(machine, tmp_path, "--yes", *flags(**settings), through=through if machine else ()))
        return started[-2:]

    yield begin
    for run in started:
        run.end()


def test_two_machines_learn_what_one_process_learns_and_both_tell_of_it(
    both: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    for run in both():
        assert run.code() == 0, run.said()
        assert "done · step 21" in run.said()
    alone = tmp_path / "alone"
    train(dataset=chat_file, model=tiny_model, output=alone, batch_size=4, **SETTINGS)
    pairs = zip(losses(alone), losses(tmp_path / "run"), strict=True)
    assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in pairs) < TOLERANCE


def test_a_link_that_is_cut_ends_the_run_on_both_sides_with_a_sound_checkpoint(
    both: Any, link: Link, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    runs = both(epochs=90)
    wait_until(lambda: steps_told(out) > 4, runs[0])
    families = [process for run in runs for process in run.family()]
    link.up(False)
    for run in runs:
        assert run.code() == 1, run.said()
        assert "lost" in run.said() or "cannot be reached" in run.said()
    assert all_gone(families)
    found = scan(out).checkpoints
    assert found and all(one.grade == "proven" for one in found)


def test_a_link_that_comes_back_lets_the_run_go_on_to_the_same_end(
    both: Any, link: Link, tmp_path: Path, tiny_model: Path, chat_file: Path, one_thread: None
) -> None:
    straight = tmp_path / "straight"
    whole = Run(
        tmp_path, "--yes",
        *flags(dataset=chat_file, model=tiny_model, output=straight, nproc=2, batch_size=2, **{**SETTINGS, "epochs": 30}),
        name="straight",
    )  # fmt: skip
    assert whole.code() == 0, whole.said()
    out = tmp_path / "run"
    runs = both(epochs=30)
    wait_until(lambda: steps_told(out) > 4, runs[0])
    link.up(False)
    time.sleep(TIMEOUT + 8)
    link.up(True)
    for run in runs:
        assert run.code() == 0, run.said()
    assert adapter_bytes(out) == adapter_bytes(straight)


def test_settings_that_differ_are_named_on_both_machines_and_nothing_is_begun(
    link: Link, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    asked = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run"}
    runs = [link.run(machine, tmp_path, "--yes", *flags(**asked, learning_rate=(machine + 1) / 100)) for machine in (0, 1)]
    for run in runs:
        assert run.code() == 2, run.said()
        assert "--learning-rate" in run.said() and "0.01 in process 0" in run.said() and "0.02 in process 1" in run.said()
    assert not (tmp_path / "run").exists()


def test_a_machine_that_does_not_come_is_told_and_waited_for_no_longer_than_asked(link: Link, tmp_path: Path, tiny_model: Path,
                                                                                  chat_file: Path) -> None:  # fmt: skip
    run = link.run(0, tmp_path, "--yes", *flags(dataset=chat_file, model=tiny_model, output=tmp_path / "run"))
    family = run.family()
    assert run.code() == 1 and "1/2 clients joined" in run.said()
    assert all_gone(family)


SHIFTED = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) { const char *said = getenv("CLOCK_APART"); return said ? atol(said) : 0; }
int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += shift();
    return failed;
}
time_t time(time_t *at) { struct timeval now; gettimeofday(&now, 0); if (at) *at = now.tv_sec; return now.tv_sec; }
"""
"""A library that shifts the time of day and nothing else: faketime also shifts what waits are measured by, and Python then waits for
as long as the clocks are apart."""


def clock(seconds: int, folder: Path) -> tuple[str, ...]:
    """A command in front of another that has its time of day so many seconds off."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    source, library = folder / "apart.c", folder / "apart.so"
    source.write_text(SHIFTED)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return ("env", f"LD_PRELOAD={library}", f"CLOCK_APART={seconds}")


@pytest.mark.parametrize("seconds", [-400 * 86_400, 3 * 3600])
def test_clocks_that_are_apart_change_nothing(both: Any, tmp_path: Path, one_thread: None, seconds: int) -> None:
    out, straight, apart = tmp_path / "run", tmp_path / "straight", clock(seconds, tmp_path)
    for run in both(output=straight):
        assert run.code() == 0, run.said()
    runs = both(through=apart)
    wait_until(lambda: steps_told(out) > 4, runs[0])
    runs[1].worker(1).send_signal(KILL)
    for run in runs:
        assert run.code() == 0, run.said()
    assert adapter_bytes(out) == adapter_bytes(straight) and losses(out) == losses(straight)
    for run in both(through=apart, epochs=6):  # what is the furthest is no matter of when it was written
        assert run.code() == 0, run.said()
        assert "continuing from checkpoint-21" in run.said()


def test_a_machine_that_sees_the_folder_as_it_was_is_named_and_nothing_is_trained(both: Any, tmp_path: Path) -> None:
    """Its network file system's cache is stale: the newest checkpoints are not there for it."""
    out, stale = tmp_path / "run", tmp_path / "stale"
    for run in both():
        assert run.code() == 0, run.said()
    shutil.copytree(out, stale)
    for name in ("checkpoint-21", "checkpoint-18", "final"):
        shutil.rmtree(stale / name)
    there = steps_told(out)
    runs = both(through=("unshare", "-m", "sh", "-c", f'mount --bind {stale} {out} && exec "$@"', "sh"), epochs=6)
    for run in runs:
        assert run.code() == 2, run.said()
        assert "checkpoint-21" in run.said() and "checkpoint-15" in run.said()
    assert steps_told(out) == there
    assert {one.grade for one in scan(out).checkpoints} == {"proven"}
