"""A run on a machine that somebody else hands out: as a batch script for Slurm, or as a task for SkyPilot. No scheduler of our own.

Both come back to the same command with `--resume auto`: whatever ended the job, the next one goes on from the furthest checkpoint.
The signals are those a run answers anyway (tui/headless.py): it saves and leaves with 128 + the signal's number.
Formats: https://slurm.schedmd.com/sbatch.html, https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import engine
from engine.errors import ConfigError
from engine.events import RunStopped
from engine.folder import RUN_TOML
from engine.i18n import _
from engine.paths import as_argument, is_file, with_its_name

WARNING_SECONDS = 300
"""Before the time limit; enough to end a step, save and sync."""
STOPPED_BY_LIMIT = 138
"""The exit code of a run that USR1 made save and stop."""
MOST_NODES = 4096
PORTS = range(20_000, 30_000)
"""Where the nodes of a job meet: one of these by the job's number, so that two jobs on a node do not take the same."""
SHORTEST_MINUTES = 2 * WARNING_SECONDS // 60
"""Of a job: half of it may go into the warning. A shorter one would be warned as soon as it begins."""
GIB = {"K": 2**-20, "M": 2**-10, "": 2**-10, "G": 1, "T": 2**10}
"""Slurm's units of memory in GiB; without one it means M."""


BATCH, TASK = ".sbatch", ".sky.yaml"
"""What the names of a script for Slurm and of a task for SkyPilot end in."""


def beside(output: Path, ending: str = BATCH) -> Path:
    """Where the script of the run in the folder `output` is written, unless another place is named: beside that folder."""
    whole = with_its_name(output)
    return whole.parent / ((whole.name or "lora-tui") + ending)


def is_sent_again(output: Path, stopped: RunStopped, began_at: int | None) -> bool:
    """Whether the batch script beside the folder `output` sends its job again after a run that `stopped` and began at this step: its
    time was up, and it has come further. That the job still stands in the queue is not asked."""
    further = stopped.checkpoint is not None and (began_at is None or stopped.step > began_at)
    return stopped.reason == "SIGUSR1" and further and is_file(beside(output))


@dataclass(frozen=True)
class Job:
    """What is asked of the cluster. None: its own default."""

    time: str = "24:00:00"
    """minutes, minutes:seconds, [days-]hours:minutes:seconds, as sbatch takes it; 0: without a limit."""
    gpus: str = "1"
    """Of a node: a number, or type:number."""
    cpus: int = 4
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    setup: str | None = None
    """A line that is run before, such as `module load cuda`; not quoted."""
    nodes: int = 1

    def __post_init__(self) -> None:
        checks = (
            ("time", self.time, r"\d{1,9}(:\d{2}){0,2}|\d{1,9}-\d{1,9}(:\d{2}){0,2}", "90, 12:00:00, 2-00:00:00"),
            ("gpus", self.gpus, r"([\w.-]+:)?\d{1,9}", "1, a100:1, 0"),
            ("memory", self.memory, r"\d{1,15}[KMGT]?", "32G"),
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
        if 0 < minutes_of(self.time) < SHORTEST_MINUTES:
            raise ConfigError(
                _("--time {value}: too short").format(value=self.time),
                _("A job is warned {warning} minutes before its end, so that the run can save.").format(
                    warning=WARNING_SECONDS // 60
                ),
                _("Give it at least {shortest} minutes.").format(shortest=SHORTEST_MINUTES),
            )
        if self.setup is not None and not self.setup.isprintable():
            raise ConfigError(_("--setup must be one line"), fix=_("Join commands with &&."))
        if not 1 <= self.nodes <= MOST_NODES:
            raise ConfigError(_("--nodes {count}: from 1 to {most}").format(count=self.nodes, most=MOST_NODES))

    @property
    def devices(self) -> int:
        """GPUs of a node."""
        return int(self.gpus.rpartition(":")[2])


def minutes_of(time: str) -> float:
    """A time limit as sbatch takes it, in minutes: one number is minutes, two are minutes and seconds, behind days they are hours."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60


def slurm_script(
    job: Job, output: Path, log: Path, where: Path, command: Sequence[str], again: Sequence[str] | None = None
) -> str:
    """The text of a batch script that runs `command` (lora-tui and its flags) in the folder `where`, its output appended to `log`.
    `output`: the run's folder; once the run has begun there, `again` is run instead, where it is given (`command` begins another
    run each time). A job that left no new checkpoint in it is not sent again: the next one would not come further.

    On several nodes srun starts it once on each, with the node's rank and the first node's address. srun passes signals on. Raises
    ConfigError for a name that no batch script can hold.
    """
    if "\n" in str(log):  # a line that begins with #SBATCH ends there, whatever quotes say
        raise ConfigError(
            _("{path}: sbatch takes no name with a line break").format(path=log.parent),
            fix=_("Name another --output, or start it in another folder."),
        )
    wanted = {
        "job-name": _one_word(output.name),
        "output": str(log),
        "open-mode": "append",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(job.cpus),
        **({"gpus-per-node": job.gpus} if job.devices else {}),
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
            "# itself again when its time is up and it has saved; each time it goes on from the furthest checkpoint. scancel ends it:",
            "# the run saves, and nothing is sent again.",
            *head,
            "",
            f"cd {shlex.quote(str(where))} || exit 5",
            f"saved() {{ ls -d {as_argument(output)}/checkpoint-* 2>/dev/null; }}",
            "before=$(saved)",
            *([job.setup] if job.setup else []),
            *(_addresses() if job.nodes > 1 else []),
            *_started([_on_each_node(one) if job.nodes > 1 else shlex.join(one) for one in (command, again) if one], output),
            "run=$!",
            "trap 'kill -USR1 \"$run\"' USR1    # the time is nearly up: save and stop",
            "trap 'kill -TERM \"$run\"' TERM    # somebody ends it: save and stop",
            "while :; do",
            '    wait "$run"    # comes back early when a signal is passed on',
            "    code=$?",
            '    kill -0 "$run" 2>/dev/null || break',
            "done",
            f'if [ "$code" -eq {STOPPED_BY_LIMIT} ]; then',
            '    if [ "$(saved)" = "$before" ]; then',
            "        # Also where the signal came before the run could answer it: that looks the same.",
            '        echo "lora-tui: no new checkpoint since this job began, so it is not sent again" >&2',
            "    else",
            '        scontrol requeue "$SLURM_JOB_ID"',
            "    fi",
            "fi",
            'exit "$code"',
            "",
        ]
    )


def _started(commands: Sequence[str], output: Path) -> list[str]:
    """Lines of a batch script that begin the first of `commands`, or the second where the run has begun, and go on."""
    if len(commands) == 1:
        return [f"{commands[0]} &"]
    return ["begin() {", *(f"    {line}" for line in _chosen(commands[0], commands[1], output)), "}", "begin &"]


def _chosen(command: str, again: str, output: Path) -> list[str]:
    begun = shlex.quote(str(output / RUN_TOML))
    return [f"if [ -e {begun} ]; then exec {again}    # it has begun: go on", f"else exec {command}", "fi"]


def _on_each_node(command: Sequence[str]) -> str:
    own = '--nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --rendezvous "$LORA_TUI_MEET"'
    return f"srun --kill-on-bad-exit=0 bash -c {shlex.quote(f'exec {shlex.join(command)} {own}')}"


def _addresses() -> list[str]:
    return [
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        # The address by which Slurm itself reaches it: a node's name need not be known to the network.
        "address=$(scontrol --oneliner show node \"$first\" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)",
        f'export LORA_TUI_MEET="$address:$(({PORTS.start} + SLURM_JOB_ID % {len(PORTS)}))"',
    ]


def skypilot_task(
    job: Job, output: Path, command: Sequence[str], needs: Sequence[str], again: Sequence[str] | None = None
) -> str:
    """The text of a SkyPilot task. `output`: the run's folder, which must outlive a machine; `needs`: local paths that the command
    names, which must reach it; `again`: as for `slurm_script`.

    One machine keeps the folder in a bucket, written through a cache: the mounts without one cannot append to a file. What a cache
    holds other machines do not see, so several of them need a volume.
    """
    place = str(output) if output.is_absolute() else f"~/sky_workdir/{output.as_posix()}"
    if job.nodes > 1:
        kept = [f"# All machines must see {_comment(place)} at once: mount a network volume of yours there",
                "# (sky volumes --help). A bucket is too late for that.",
                "volumes:", f"  {_quoted(place)}: YOUR-VOLUME"]  # fmt: skip
    else:
        kept = ["file_mounts:", f"  {_quoted(place)}:", "    name: YOUR-BUCKET", "    mode: MOUNT_CACHED"]
    several = (
        f' --nnodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK"'
        f' --rendezvous "$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORTS.start}"'
    )
    quoted = [shlex.join(one) + (several if job.nodes > 1 else "") for one in (command, again) if one]
    kind, _colon, count = job.gpus.rpartition(":")
    accelerators = [f"  accelerators: {kind or 'H100'}:{count}"] if job.devices else []
    guessed = not kind and bool(job.devices)
    return "\n".join(
        [
            f"# Written by lora-tui {engine.__version__}: sky jobs launch FILE. A machine that is taken away is replaced,",
            "# and the run goes on from its furthest checkpoint. Put the name of a bucket or volume of yours below.",
            *(["# The kind of GPU was not named (--gpus KIND:1); H100 stands in."] if guessed else []),
            f"name: {_one_word(output.name)}",
            *([f"num_nodes: {job.nodes}"] if job.nodes > 1 else []),
            "resources:",
            *accelerators,
            f"  cpus: {job.cpus}+",
            *([f"  memory: {_gib(job.memory)}+"] if job.memory else []),
            "  use_spot: true",
            "workdir: .",
            *kept,
            *[f"# must be in the working folder, or mounted here: {_comment(path)}" for path in needs],
            "# Where no package index has lora-tui, name its repository here, or a wheel in the working folder.",
            "setup: |",
            "  pip install lora-tui",
            *([f"  {job.setup}"] if job.setup else []),
            *_lines("run", quoted if len(quoted) == 1 else _chosen(quoted[0], quoted[1], output)),
            "",
        ]
    )


def _lines(key: str, lines: Sequence[str]) -> list[str]:
    """A YAML key with `lines` for its text; in quotes where letters are among them that would end one or that YAML does not take."""
    if all(line.isprintable() for line in lines):
        return [f"{key}: |", *(f"  {line}" for line in lines)]
    return [f"{key}: " + _quoted("\n".join(lines) + "\n")]


def _quoted(text: str) -> str:
    """`text` as YAML's double-quoted string."""
    escaped = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escaped.get(one, one if one.isprintable() else f"\\U{ord(one):08x}") for one in text) + '"'


def _gib(memory: str) -> int:
    """Whole GiB, which SkyPilot counts in, that are no less than `memory`."""
    number = memory.rstrip("KMGT")
    return math.ceil(int(number) * GIB[memory[len(number) :]])


def _one_word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"lora-{name}").strip("-")[:60]


def _argument(value: str) -> str:
    """`value` behind a `#SBATCH` flag: sbatch takes quotes there as a shell does, and % as its own."""
    return shlex.quote(value)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
