"""`lora-tui submit --slurm|--to skypilot FLAGS`: the run as a cluster's script, written, and submitted where that can be done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.answers import gather
from engine.config import RunConfig, flag
from engine.errors import ConfigError, OutputError
from engine.folder import named, occupied, proposed_output
from engine.i18n import _
from engine.models.templates import is_named
from engine.paths import as_argument, is_there, no_flag
from engine.sources import as_flags
from engine.submit import BATCH, TASK, Job, beside, skypilot_task, slurm_script
from tui.plain import visible

ELSEWHERE = ("environment", "config", "remembered")
"""Where settings come from that the job would not find, or not for sure: another machine has other variables and no such files. What
the run's folder says of itself is found there."""
OF_THE_JOB = ("output", "nnodes", "node_rank", "rendezvous")
"""Settings that the script gives by itself."""


def run_submit(
    to: str,
    job: Job,
    script: Path | None,
    dry_run: bool,
    flags: dict[str, Any],
    given: Sequence[str],
    config_file: Path | None = None,
) -> int:
    """Write the script for the run of `flags`, written as `given`, with what the environment, `config_file` or the wizard's last
    answers add to them; submit it to Slurm where sbatch is. The exit code."""
    resolved = gather(flags, config_file).resolved
    config = resolved.config
    anew = config.init_from is not None or config.resume != "auto"
    out = _folder_of(config, anew)
    here = Path.cwd()
    added = [name for name, kind in resolved.origin.items() if kind in ELSEWHERE and name not in OF_THE_JOB]
    resume = [] if "resume" in (*flags, *added) or anew else ["--resume", "auto"]
    processes = ["--nproc", str(job.devices)] if job.devices > 1 and "nproc" not in (*flags, *added) else []

    def command(without: Sequence[str], resume: Sequence[str]) -> list[str]:
        more = as_flags({name: getattr(config, name) for name in added if name not in without})
        return [
            "--yes",
            *as_flags({"output": str(out)}),
            *_without(("output", "config", *without), given),
            *more,
            *processes,
            *resume,
        ]

    words = command((), resume)
    # What begins a new run would begin one more each time the job is sent again.
    onwards = command(("init_from", "resume"), ["--resume", "auto"]) if anew else []
    if to == "skypilot":
        named = (config.dataset, config.model, None if is_named(config.chat_template) else config.chat_template)
        needs = [str(path) for path in named if path and is_there(Path(path))]
        text = skypilot_task(job, out, ["lora-tui", *words], needs, ["lora-tui", *onwards] if onwards else None)
        ending = TASK
    else:
        # The very installation that was asked: on a cluster, home and its environments are shared with the nodes.
        program = [sys.executable, "-P", "-m", "tui"]
        again = [*program, *onwards] if onwards else None
        log = Path(str(here / out).replace("%", "%%") + ".slurm-%j.log")  # sbatch has words of its own behind a %
        text = slurm_script(job, out, log, here, [*program, *words], again)
        ending = BATCH
    if dry_run:
        sys.stdout.write(text)
        return 0
    file = script or beside(out, ending)
    _write(file, text)
    if to == "skypilot":
        _say(_("look through it, then: sky jobs launch {path}").format(path=as_argument(file)))
        return 0
    _hand_over(file, out)
    return 0


def _folder_of(config: RunConfig, anew: bool) -> Path:
    """The run's folder. Raises ConfigError where it is not known, or a run that begins `anew` would find it taken."""
    if config.output is None and (config.dataset is None or config.model is None):
        raise ConfigError(_("it is not known which run this is"), fix=_("Name --output, or --dataset and --model."))
    out = Path(config.output) if config.output is not None else proposed_output(str(config.dataset), str(config.model))
    if anew and occupied(named(out)):
        raise ConfigError(
            _("{folder}: is taken, so the new run would go elsewhere").format(folder=out), fix=_("Name a free --output.")
        )
    return out


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            _("{path}: cannot be written").format(path=file),
            error.strerror or str(error),
            _("Name another place with --script."),
        ) from error
    _say(_("written: {path}").format(path=file))


def _hand_over(file: Path, out: Path) -> None:
    """Submit the script `file` of the run in `out` where sbatch is, else say how. Raises ConfigError where sbatch refuses it."""
    if shutil.which("sbatch") is None:
        _say(_("there is no sbatch here; on the cluster, in this folder: sbatch {path}").format(path=as_argument(file)))
        return
    done = subprocess.run(
        ["sbatch", no_flag(file)], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        fix = _("Mend the flags, or {path}.").format(path=file)
        raise ConfigError(_("sbatch refuses the script"), done.stderr.strip()[:1000], fix)
    _say(done.stdout.strip())
    _say(_("see it: lora-tui watch {out}").format(out=as_argument(out)))


def _without(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """The flags as they were written, but for those of `names`."""
    left, skip, flags = [], False, [flag(name) for name in names]
    for word in given:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif not word.startswith(tuple(f"{one}=" for one in flags)):
            left.append(word)
    return left


def _say(line: str) -> None:
    sys.stdout.write(visible(line) + "\n")
