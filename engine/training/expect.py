"""What a run will take, before it starts: steps, time, memory and disk, each known or said to be unknown; and of a model that is
being chosen, whether it fits this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.config import RunConfig
from engine.course.steps import Position, position_at, run_length, warmup_note
from engine.data.report import BATCH, DatasetReport
from engine.errors import LoraTuiError
from engine.events import RunStarted, Step
from engine.extras import need_extras
from engine.folder import look_at
from engine.hardware import Hardware, choose_hardware, free_memory, load_libraries
from engine.journal import read_journal
from engine.models.report import ModelReport, model_report
from engine.resume.plan import ResumePlan
from engine.training.estimate import Fitted, Memory, checkpoint_bytes, estimate_memory, fit_batch


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
    stopped: LoraTuiError | None = None
    """What the run would end with before its first step, as far as its rows were looked at."""
    notes: tuple[str, ...] = ()
    """What the run would warn of at its start."""


@dataclass(frozen=True)
class Fit:
    """A model beside what this machine has."""

    fitted: Fitted
    """The batch that a fresh run would begin with, chosen as the run chooses it."""
    otherwise: Memory | None
    """The same batch with activation checkpointing, or without where `fitted` has it."""
    in_4bit: Memory | None
    """The same with the weights in 4 bit; None where they cannot be had, or are."""
    free: int
    total: int
    device: str
    length: int
    """Of the longest row, in tokens, as far as that is known."""


def expect_of(model: ModelReport, data: DatasetReport | None, config: RunConfig) -> Fit:
    """Whether `model` fits, for a fresh run of `config` on `data`. torch must be loaded. Raises ConfigError."""
    hardware = choose_hardware(config, model)
    free, total = free_memory(hardware.device)
    rows, length = _rows_and_longest(config, data)
    fitted = fit_batch(model, config, hardware, rows, length, free, None)

    def memory(checkpointing: bool, **changed: bool) -> Memory | None:
        other = config.model_copy(update=changed)
        return estimate_memory(model, other, hardware, fitted.batch_size, length, checkpointing)

    in_4bit = hardware.device == "cuda" and not config.load_in_4bit
    return Fit(
        fitted,
        memory(not fitted.checkpointing),
        memory(fitted.checkpointing, load_in_4bit=True) if in_4bit else None,
        free,
        total,
        hardware.device,
        length,
    )


def expect(plan: ResumePlan, report: DatasetReport | None) -> Expected:
    """What `plan` will take. Imports torch to look at the device. Raises ConfigError for settings that cannot be had here."""
    config = plan.config
    need_extras(config)
    load_libraries()
    model = model_report(str(config.model))
    hardware = choose_hardware(config, model, plan.saved_precision)
    known, longest = _rows_and_longest(config, report)
    rows = known if report is not None and report.rows else None
    sharing = 1 if hardware.device == "cuda" else config.world // config.nnodes  # each GPU has a memory of its own
    free = free_memory(hardware.device)[0] // sharing
    fitted = fit_batch(model, config, hardware, known, longest, free, plan.saved_batch_size, config.world)
    ahead = _ahead(plan, rows, fitted.batch_size)
    steps = ahead[0] if ahead is not None else None
    warmup = warmup_note(config, ahead[1]) if ahead is not None else None
    # A run that branches off goes on as the one did that its checkpoint lies with.
    pace = pace_of(plan.checkpoint.path.parent) if plan.mode == "continue" and plan.checkpoint is not None else None
    return Expected(
        steps,
        steps * pace if steps is not None and pace is not None else None,
        hardware,
        fitted if model.stopped is None else None,
        free,
        checkpoint_bytes(model, config.lora_r) * (config.keep + 2) if model.linear else None,
        look_at(plan.output_dir).free,
        report.stopped if report is not None else None,
        (warmup,) if warmup is not None else (),
    )


def _rows_and_longest(config: RunConfig, report: DatasetReport | None) -> tuple[int, int]:
    """Rows of the dataset, and tokens of its longest one as it is trained on; what is not known yet is as much as there can be."""
    if report is not None and report.tokens is not None and report.table is not None:
        # Rows that nothing is learned from are not in the table.
        return len(report.table), min(config.max_length, report.tokens.max)
    return (report.rows if report is not None and report.rows else BATCH), config.max_length


def _ahead(plan: ResumePlan, rows: int | None, batch_size: int) -> tuple[int, int] | None:
    """(steps still to be done, steps of the whole run); None where the rows are not known yet."""
    if plan.length is not None and plan.position is not None:
        return plan.length.total_steps - plan.position.step, plan.length.total_steps
    if rows is None:
        return None
    trained = max(1, rows - round(rows * plan.config.eval_fraction))
    at, one = Position(0, 0, 0), plan.checkpoint
    if plan.mode == "continue" and one is not None and one.step is not None and one.epoch is not None:
        at = position_at(one.step, one.epoch, trained)
    rows_of_a_step = batch_size * plan.config.grad_accum * plan.config.world
    total = run_length(plan.config, trained, rows_of_a_step, at).total_steps
    return total - at.step, total


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
