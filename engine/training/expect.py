"""What a run will take, before it starts: steps, time, memory and disk, each known or said to be unknown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.course.steps import Position, position_at, run_length
from engine.data.report import DatasetReport
from engine.events import RunStarted, Step
from engine.extras import need_extras
from engine.folder import look_at
from engine.hardware import Hardware, choose_hardware, free_memory, load_libraries
from engine.journal import read_journal
from engine.models.report import model_report
from engine.resume.plan import ResumePlan
from engine.training.estimate import Fitted, checkpoint_bytes, fit_batch


@dataclass(frozen=True)
class Expected:
    """An estimate of a run."""

    steps: int | None
    """Optimizer steps still to be done; None where the rows are not known yet."""
    seconds: float | None
    """At the pace of this run's last attempt; None where there was none."""
    hardware: Hardware
    fitted: Fitted | None
    """The batch it will begin with, and the memory that takes; None: the model cannot be looked at yet."""
    memory_free: int
    """For each process of the run."""
    disk: int | None
    """Bytes of the checkpoints that are kept, and the one being written."""
    disk_free: int


def expect(plan: ResumePlan, report: DatasetReport | None) -> Expected:
    """What `plan` will take. Imports torch to look at the device. Raises ConfigError for settings that cannot be had here."""
    config = plan.config
    need_extras(config)
    load_libraries()
    model = model_report(str(config.model))
    hardware = choose_hardware(config, model, plan.saved_precision)
    rows = report.rows if report is not None and report.rows else None
    longest = min(
        config.max_length, report.tokens.max if report is not None and report.tokens is not None else config.max_length
    )
    sharing = 1 if hardware.device == "cuda" else config.world // config.nnodes  # each GPU has a memory of its own
    free = free_memory(hardware.device)[0] // sharing
    fitted = fit_batch(model, config, hardware.precision, rows or 8, longest, free, plan.saved_batch_size, config.world)
    steps = _steps(plan, rows, fitted.batch_size)
    pace = pace_of(plan.output_dir) if plan.mode == "continue" else None
    return Expected(
        steps,
        steps * pace if steps is not None and pace is not None else None,
        hardware,
        fitted if model.stopped is None else None,
        free,
        checkpoint_bytes(model, config.lora_r) * (config.keep + 2) if model.linear else None,
        look_at(plan.output_dir).free,
    )


def _steps(plan: ResumePlan, rows: int | None, batch_size: int) -> int | None:
    if plan.length is not None and plan.position is not None:
        return plan.length.total_steps - plan.position.step
    if rows is None:
        return None
    trained = max(1, rows - round(rows * plan.config.eval_fraction))
    at, one = Position(0, 0, 0), plan.checkpoint
    if plan.mode == "continue" and one is not None and one.step is not None and one.epoch is not None:
        at = position_at(one.step, one.epoch, trained)
    rows_of_a_step = batch_size * plan.config.grad_accum * plan.config.world
    return run_length(plan.config, trained, rows_of_a_step, at).total_steps - at.step


def pace_of(folder: Path) -> float | None:
    """Seconds a step took in the last attempt that the journal of `folder` tells of; None where it tells too little, or the clock was
    set back meanwhile."""
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    for record in read_journal(folder):
        if record["type"] == RunStarted.type:
            first = last = None
        elif (
            record["type"] == Step.type and isinstance(record.get("t"), int | float) and isinstance(record.get("step"), int)
        ):
            last = (record["t"], record["step"])
            first = first or last
    if first is None or last is None or last[0] <= first[0] or last[1] <= first[1]:
        return None
    return (last[0] - first[0]) / (last[1] - first[1])
