"""A real Slurm on loopback (Debian: slurmctld, slurmd, slurm-client, munge): what `submit` writes is submitted, ended in the middle by
Slurm's own signal, sent again by itself, and goes on. Needs root; Slurm is started here and ended again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.journal import read_journal
from tests.cluster.test_processes import SETTINGS, TOLERANCE, flags
from tests.cluster.world import Run, steps_told
from tests.engine.runs import adapter_bytes, losses

pytestmark = pytest.mark.slow
NODES = ("lora0", "lora1")

CONF = """
ClusterName=lora
SlurmctldHost={host}
SlurmctldPort=17817
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/ctld.pid
SlurmdPidFile={place}/d-%n.pid
SlurmctldLogFile={place}/ctld.log
SlurmdLogFile={place}/d-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=60
SchedulerParameters=bf_interval=5,sched_interval=5
NodeName=lora[0-1] NodeHostname={host} Port=[17818-17819] CPUs=2 RealMemory=4000
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the environment needs so that sbatch, squeue and scontrol talk to a Slurm of two nodes."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    if os.geteuid() != 0 or not all(shutil.which(name) for name in needed):
        pytest.skip(f"needs root and {', '.join(needed)}")
    place = Path("/tmp") / f"lora-slurm-{os.getpid()}"  # a socket's path must be short
    place.mkdir(mode=0o755)
    (place / "state").mkdir()
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), place=place))
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o400)
    environment = {"SLURM_CONF": str(conf)}
    daemons = [
        ["munged", "-F", "--force", f"--key-file={place}/munge.key", f"--socket={place}/munge.socket",
         f"--pid-file={place}/munged.pid", f"--log-file={place}/munged.log", f"--seed-file={place}/munge.seed"],
        ["slurmctld", "-D", "-c", "-f", str(conf)],
        *(["slurmd", "-D", "-N", node, "-f", str(conf)] for node in NODES),
    ]  # fmt: skip
    running = []
    try:
        for daemon in daemons:
            with open(place / "daemons.log", "ab") as log:
                running.append(subprocess.Popen(daemon, env={**os.environ, **environment}, stdout=log, stderr=log))
            time.sleep(1)
        until(lambda: _asked(environment, "sinfo", "-h", "-o", "%D %t") == "2 idle", 30)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(20)
        shutil.rmtree(place, ignore_errors=True)


def _asked(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip()


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.3)


def state(environment: dict[str, str], job: str) -> str:
    """Slurm's word for how the job stands, and how often it was sent again."""
    told = _asked(environment, "scontrol", "show", "job", job)
    fields = dict(word.partition("=")[::2] for word in told.split())
    return f"{fields.get('JobState')} {fields.get('Restarts')}"


def submitted(slurm: dict[str, str], folder: Path, *arguments: object) -> str:
    """The number of the job that `lora-tui submit` has submitted in `folder`."""
    done = subprocess.run(
        [*Run.program, "submit", "--slurm", "--gpus", "0", "--cpus", "1", "--memory", "1G", *map(str, arguments)],
        cwd=folder, env={**os.environ, **slurm, "PYTHONPATH": Run.path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(line.split()[-1] for line in done.stdout.splitlines() if "Submitted batch job" in line)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_whose_time_runs_out_is_sent_again_by_itself_and_ends_as_if_nothing_had_been(
    slurm: dict[str, str], tmp_path: Path, tiny_model: Path, chat_file: Path, nodes: int, one_thread: None
) -> None:
    settings: dict[str, Any] = {**SETTINGS, "epochs": 40}
    straight = tmp_path / "straight"
    alike = {"dataset": chat_file, "model": tiny_model, "nproc": nodes, "batch_size": 4 // nodes, **settings}
    # In processes of their own: with as many threads as the job.
    whole = Run(tmp_path, "--yes", *flags(output=straight, **alike))
    assert whole.code() == 0, whole.said()
    asked = flags(dataset=chat_file, model=tiny_model, output="out/mine", batch_size=4 // nodes, **settings)
    job = submitted(slurm, tmp_path, "--nodes", nodes, *asked)
    out = tmp_path / "out" / "mine"
    until(lambda: steps_told(out) > 5, 120)
    # What --signal=B:USR1@300 does when the time is nearly up.
    assert _asked(slurm, "scancel", "--signal=USR1", "--batch", job) == ""
    until(lambda: state(slurm, job).endswith(" 1"), 60)
    stopped = [record for record in read_journal(out) if record["type"] == "run_stopped"]
    assert len(stopped) == 1 and (out / stopped[0]["checkpoint"] / "manifest.json").exists()
    time.sleep(3)  # for its node to be done with it: started in the same second it would be "already killed"
    _asked(slurm, "scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm lets it wait for two minutes
    until(lambda: state(slurm, job).split()[0] in ("COMPLETED", "FAILED"), 180)
    assert state(slurm, job) == "COMPLETED 1", next(tmp_path.glob("out/*.log")).read_text()[-3000:]
    assert adapter_bytes(out) == adapter_bytes(straight)
    pairs = zip(losses(out), losses(straight), strict=True)
    assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in pairs) < TOLERANCE
    assert all(one.grade == "proven" for one in scan(out).checkpoints)


def test_a_job_that_somebody_cancels_saves_and_is_not_sent_again(
    slurm: dict[str, str], tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    job = submitted(
        slurm, tmp_path, *flags(dataset=chat_file, model=tiny_model, output="out/mine", epochs=200, save_steps=1000)
    )
    out = tmp_path / "out" / "mine"
    until(lambda: steps_told(out) > 5, 120)
    _asked(slurm, "scancel", job)
    until(lambda: state(slurm, job).split()[0] not in ("RUNNING", "COMPLETING"), 90)
    assert state(slurm, job).startswith("CANCELLED")
    until(lambda: any(record["type"] == "run_stopped" for record in read_journal(out)), 30)
    assert [one.grade for one in scan(out).checkpoints] == ["proven"]
