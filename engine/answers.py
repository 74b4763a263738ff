"""Where the answers of a run come from: one place that lays the sources in order (C1).

flag > environment > --config file > what the run already in OUT was started with > demo (or what the wizard remembered, where
nothing is named) > default. Which run that is depends on the answers themselves, so it is done in two steps: the stronger sources
say which folder is meant, then that folder's own answers are laid beneath them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.inspect import OPTIMIZER, SCHEDULER, inspect_folder
from engine.checkpoints.lora_fields import out_of_range
from engine.checkpoints.manifest import Manifest
from engine.checkpoints.rates import saved_rates, saved_weight_decay
from engine.checkpoints.scan import Scan, glance
from engine.config import RunConfig
from engine.course.steps import Position, run_length
from engine.folder import NOT_INHERITED, RUN_TOML, last_run, named, proposed_output, source_of_run
from engine.paths import is_folder
from engine.remembered import source_remembered
from engine.resume.logged import logged_schedule, nearest_schedule
from engine.resume.recommend import settle_over_rows
from engine.resume.whose import settings_beside
from engine.sources import Resolved, Source, environment, read_toml, resolve


@dataclass(frozen=True)
class Answers:
    """Valid answers, and the scan made on the way to them."""

    resolved: Resolved
    found: Scan | None


def gather(
    flags: Mapping[str, Any],
    config_file: Path | None = None,
    demo: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Answers:
    """All answers of a run, validated. Raises ConfigError (2) naming every wrong one."""
    strong = [Source("flag", "", flags), environment() if environ is None else environment(environ)]
    if config_file is not None:
        strong += named_settings(config_file, strong)
    weak = [Source("demo", "", demo)] if demo else []
    first = resolve([*strong, *weak]).config
    if first.init_from is not None:
        return Answers(resolve([*strong, *_of_checkpoint(Path(first.init_from), weights=True), *weak]), None)
    if first.resume not in ("auto", "never"):
        return Answers(resolve([*strong, *_of_checkpoint(Path(first.resume)), *weak]), None)
    folder = Path(first.output) if first.output else None
    if folder is None and first.dataset and first.model:
        folder = proposed_output(first.dataset, first.model)
    if folder is None and first.resume == "auto" and not first.dataset and not first.model:
        folder = last_run(to_go_on=True)
        if folder is not None:
            strong.append(Source("run", "", {"output": str(folder)}))
    if folder is None and first.resume == "auto" and not first.dataset and not first.model:
        remembered = source_remembered()
        if remembered is not None:
            weak.append(remembered)
            told = resolve([*strong, *weak]).config
            if told.output or (told.dataset and told.model):
                folder = Path(told.output) if told.output else proposed_output(str(told.dataset), str(told.model))
    if folder is None:
        return Answers(resolve([*strong, *weak]), None)
    own = source_of_run(named(folder))
    if own is not None or first.resume == "never" or not is_folder(folder):
        return Answers(resolve([*strong, *([own] if own else []), *weak]), None)
    found, choice = settle_over_rows(glance(folder), resolve([*strong, *weak]).config)
    chosen = choice.checkpoint
    return Answers(resolve([*strong, *([_told_by(chosen)] if chosen else []), *weak]), found)


def named_settings(path: Path, stronger: Sequence[Source]) -> list[Source]:
    """The settings file that a person named (--config), as sources. Raises ConfigError.

    A run's own run.toml means that run: it goes on, as if its folder were named, and is not begun again as it once was (`resume`,
    `init_from`, `accept`). Where one of `stronger` names another folder, or the file is a copy, it is settings and no more.
    """
    source = read_toml(path)
    if not source.of_run:
        return [source]
    settings = {key: value for key, value in source.values.items() if key not in NOT_INHERITED}
    file = path.resolve()
    if file.name != RUN_TOML:
        kept = {"output": source.values["output"]} if "output" in source.values else {}
        return [Source("config", source.where, settings | kept)]
    asked = resolve(stronger).config.output
    if asked is not None and Path(asked).resolve() != file.parent:
        return [Source("config", source.where, settings)]
    folder = file.parent if path.is_symlink() else path.parent
    return [Source("config", source.where, {"output": str(folder)}), Source("run", source.where, settings, True)]


def _of_checkpoint(path: Path, weights: bool = False) -> list[Source]:
    """What the run that `path` belongs to was started with; what the adapter itself tells where there is no run.toml."""
    if not is_folder(path):
        return []
    checkpoint = inspect_folder(path, verify=False)
    own, told = settings_beside(checkpoint), _told_by(checkpoint)
    shape = {key: value for key, value in told.values.items() if key.startswith(("lora_", "target_"))}
    if own is None:
        return [Source("run", told.where, shape if weights else told.values)]
    # A new run from weights takes the adapter's shape from the adapter; how long to train is asked anew.
    return [Source("run", own.where, {**own.values, **shape} if weights else own.values)]


def _told_by(checkpoint: Checkpoint) -> Source:
    """The answers that a checkpoint gives where no run.toml does: the shape of its adapter, its base, its length, its schedule and
    its weight decay. Of one that was made here most of it stands in its manifest; of another tool's it follows from what that logged
    and saved."""
    shape = checkpoint.adapter
    values: dict[str, Any] = {}
    if shape is not None and out_of_range(shape.raw) is None:  # else the checkpoint is refused, not its numbers as settings
        values |= {"lora_r": shape.r, "lora_alpha": shape.lora_alpha, "lora_dropout": shape.raw.get("lora_dropout")}
    if shape is not None:
        if shape.target_modules:
            values["target_modules"] = ",".join(shape.target_modules)
        if shape.base_model and is_folder(Path(shape.base_model)):
            values["model"] = shape.base_model
    if checkpoint.was_limited:
        values["max_steps"] = checkpoint.max_steps
    else:
        values["epochs"] = checkpoint.total_epochs
    values["batch_size"] = checkpoint.batch_size
    told = {key: value for key, value in values.items() if value}
    if checkpoint.manifest is not None:
        told |= _told_by_manifest(checkpoint.manifest)
    elif (schedule := logged_schedule(checkpoint) or nearest_schedule(checkpoint)) is not None:
        told |= {"learning_rate": schedule.learning_rate, "scheduler": schedule.scheduler, "warmup": schedule.warmup_steps}
    elif (rates := saved_rates(checkpoint.path / SCHEDULER)) is not None:  # of a run whose length is not known
        told["learning_rate"] = rates.peak
    if (decay := saved_weight_decay(checkpoint.path / OPTIMIZER)) is not None:
        told["weight_decay"] = decay
    return Source("run", str(checkpoint.path), told)


def _told_by_manifest(saved: Manifest) -> dict[str, Any]:
    """How rows were cut into steps, and the schedule over them. The length is told in epochs, as most runs begin, or in steps where
    those epochs are not what made it."""
    at = Position(saved.step, saved.cursor.epoch, saved.cursor.rows_consumed, saved.cursor.given_up)
    told: dict[str, Any] = {
        "grad_accum": saved.geometry.grad_accum,
        "seed": saved.cursor.seed,
        "learning_rate": saved.schedule.learning_rate,
        "scheduler": saved.schedule.scheduler,
        "warmup": saved.schedule.warmup_steps,
    }
    whole = RunConfig.model_construct(epochs=saved.total_epochs)  # what cannot be is told when it is taken up
    if run_length(whole, saved.cursor.rows, saved.geometry.rows, at).total_steps != saved.schedule.total_steps:
        told["max_steps"] = saved.schedule.total_steps
    return told
