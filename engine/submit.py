"""A run on a machine that somebody else hands out: as a batch script for Slurm, or as a task for SkyPilot. No scheduler of our own.

Both come back to the same command with `--resume auto`: whatever ended the job, the next one goes on from the furthest checkpoint.
The signals are those a run answers anyway (tui/headless.py): it saves and leaves with 128 + the signal's number.
Formats: https://slurm.schedmd.com/sbatch.html, https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import engine
from engine.errors import ConfigError
from engine.i18n import _

WARNING_SECONDS = 300
"""Before the time limit; enough to end a step, save and sync."""
STOPPED_BY_LIMIT = 138
"""The exit code of a run that USR1 made save and stop."""
SHORTEST_MINUTES = 2 * WARNING_SECONDS // 60


@dataclass(frozen=True)
class Job:
    """What is asked of the cluster. None: its own default."""

    time: str = "24:00:00"
    """minutes, [days-]hours:minutes:seconds, as sbatch takes it."""
    gpus: str = "1"
    """A number, or type:number."""
    cpus: int = 4
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    setup: str | None = None
    """A line that is run before, such as `module load cuda`; not quoted."""

    def __post_init__(self) -> None:
        checks = (
            ("time", self.time, r"\d+|\d+:\d{2}(:\d{2})?|\d+-\d+(:\d{2}){0,2}", "90, 12:00:00, 2-00:00:00"),
            ("gpus", self.gpus, r"\d+|[\w.-]+:\d+", "1, a100:1, 0"),
            ("memory", self.memory, r"\d+[KMGT]?", "32G"),
            ("partition", self.partition, r"[\w.,-]+", "gpu"),
            ("account", self.account, r"[\w.-]+", "lab"),
            ("constraint", self.constraint, r"[\w.&|*()\[\],-]+", "a100|h100"),
        )
        for name, value, pattern, examples in checks:
            if value is not None and not re.fullmatch(pattern, value, re.ASCII):
                raise ConfigError(
                    _("--{name} {value}: not what a cluster takes").format(name=name, value=value),
                    fix=_("Such as: {examples}.").format(examples=examples),
                )
        if self.setup is not None and not self.setup.isprintable():
            raise ConfigError(_("--setup must be one line"), fix=_("Join commands with &&."))
        if self.devices > 1:
            raise ConfigError(
                _("--gpus {gpus}: a run trains on one GPU").format(gpus=self.gpus),
                _("Several devices for one run are not there yet."),
                _("Ask for one; several runs can be submitted side by side."),
            )

    @property
    def devices(self) -> int:
        """GPUs in all."""
        return int(self.gpus.rpartition(":")[2])


def slurm_script(job: Job, name: str, log: Path, where: Path, command: Sequence[str]) -> str:
    """The text of a batch script that runs `command` (lora-tui and its flags) in the folder `where`, its output appended to `log`."""
    wanted = {
        "job-name": _one_word(name),
        "output": str(log),
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(job.cpus),
        **({"gpus": job.gpus} if job.devices else {}),
        **({"mem": job.memory} if job.memory else {}),
        "time": job.time,
        "requeue": None,
        "signal": f"B:USR1@{WARNING_SECONDS}",
        **{key: value for key, value in (("partition", job.partition), ("account", job.account),
                                         ("constraint", job.constraint)) if value},
    }  # fmt: skip
    head = [f"#SBATCH --{key}" + (f"={_argument(value)}" if value is not None else "") for key, value in wanted.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Written by lora-tui {engine.__version__}. Slurm sends it again when its node fails, and it sends",
            "# itself again when its time is up; each time it goes on from the furthest checkpoint. scancel ends it: the run saves,",
            "# and nothing is sent again.",
            *head,
            "",
            f"cd {shlex.quote(str(where))} || exit 5",
            *([job.setup] if job.setup else []),
            f"{shlex.join(command)} &",
            "run=$!",
            "trap 'kill -USR1 \"$run\"' USR1    # the time is nearly up: save and stop",
            "trap 'kill -TERM \"$run\"' TERM    # somebody ends it: save and stop",
            "while :; do",
            '    wait "$run"    # comes back early when a signal is passed on',
            "    code=$?",
            '    kill -0 "$run" 2>/dev/null || break',
            "done",
            f'if [ "$code" -eq {STOPPED_BY_LIMIT} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def skypilot_task(job: Job, name: str, command: Sequence[str], needs: Sequence[str]) -> str:
    """The text of a SkyPilot task. `needs`: local paths that the command names, which must reach the machine."""
    quoted = shlex.join(command)
    kind, _colon, count = job.gpus.rpartition(":")
    accelerators = [f"  accelerators: {kind or 'H100'}:{count}"] if job.devices else []
    guessed = not kind and bool(job.devices)
    return "\n".join(
        [
            f"# Written by lora-tui {engine.__version__}: sky jobs launch FILE. A machine that is taken away is replaced,",
            "# and the run goes on from the furthest checkpoint in the bucket. Put the name of a bucket of yours below.",
            *(["# The kind of GPU was not named (--gpus KIND:1); H100 stands in."] if guessed else []),
            f"name: {_one_word(name)}",
            "resources:",
            *accelerators,
            f"  cpus: {job.cpus}+",
            *([f"  memory: {job.memory.rstrip('KMGT')}+"] if job.memory else []),
            "  use_spot: true",
            "workdir: .",
            "file_mounts:",
            "  ~/sky_workdir/out:",
            "    name: YOUR-BUCKET",
            "    mode: MOUNT",
            *[f"  # must be in the working folder, or mounted here: {_comment(path)}" for path in needs],
            "setup: |",
            "  pip install lora-tui",
            *([f"  {job.setup}"] if job.setup else []),
            "run: |",
            f"  {quoted}",
            "",
        ]
    )


def _one_word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"lora-{name}").strip("-")[:60]


def _argument(value: str) -> str:
    """`value` behind a `#SBATCH` flag: sbatch takes quotes there as a shell does, and % as its own."""
    return shlex.quote(value)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
