"""`lora-tui submit --slurm|--to skypilot FLAGS`: the run as a cluster's script, written, and submitted where that can be done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.answers import gather
from engine.config import flag
from engine.errors import ConfigError, OutputError
from engine.folder import named, occupied, proposed_output
from engine.i18n import _
from engine.paths import is_there
from engine.submit import Job, skypilot_task, slurm_script
from tui.plain import visible


def run_submit(to: str, job: Job, script: Path | None, dry_run: bool, flags: dict[str, Any], given: Sequence[str]) -> int:
    """Write the script for the run of `flags`, written as `given`; submit it to Slurm where sbatch is. The exit code."""
    config = gather(flags).resolved.config
    if config.output is None and (config.dataset is None or config.model is None):
        raise ConfigError(_("it is not known which run this is"), fix=_("Name --output, or --dataset and --model."))
    out = Path(config.output) if config.output is not None else proposed_output(str(config.dataset), str(config.model))
    here = Path.cwd()
    # What begins a new run would begin one more each time the job is sent again.
    anew = "init_from" in flags or flags.get("resume", "auto") != "auto"
    if anew and occupied(named(out)):
        raise ConfigError(
            _("{folder}: is taken, so the new run would go elsewhere").format(folder=out), fix=_("Name a free --output.")
        )
    resume = [] if "resume" in flags or anew else ["--resume", "auto"]
    processes = ["--nproc", str(job.devices)] if job.devices > 1 and "nproc" not in flags else []
    place = ["--yes", "--output", str(out)]
    words = [*place, *_without(("output",), given), *processes, *resume]
    onwards = [*place, *_without(("output", "init_from", "resume"), given), *processes, "--resume", "auto"] if anew else []
    if to == "skypilot":
        needs = [str(path) for path in (config.dataset, config.model) if path and is_there(Path(path))]
        text = skypilot_task(job, out, ["lora-tui", *words], needs, ["lora-tui", *onwards] if onwards else None)
        ending = ".sky.yaml"
    else:
        # The very installation that was asked: on a cluster, home and its environments are shared with the nodes.
        program = [sys.executable, "-P", "-m", "tui"]
        again = [*program, *onwards] if onwards else None
        log = (here / out).with_name(f"{out.name}.slurm-%j.log")
        text = slurm_script(job, out, log, here, [*program, *words], again)
        ending = ".sbatch"
    if dry_run:
        sys.stdout.write(text)
        return 0
    file = script or out.with_name(out.name + ending)
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
    if to == "skypilot":
        _say(_("look through it, then: sky jobs launch {path}").format(path=file))
        return 0
    if shutil.which("sbatch") is None:
        _say(_("there is no sbatch here; on the cluster, in this folder: sbatch {path}").format(path=file))
        return 0
    done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        fix = _("Mend the flags, or {path}.").format(path=file)
        raise ConfigError(_("sbatch refuses the script"), done.stderr.strip()[:1000], fix)
    _say(done.stdout.strip())
    _say(_("see it: lora-tui watch {out}").format(out=out))
    return 0


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
