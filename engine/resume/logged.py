"""What another tool's run tells of its schedule: kind, peak, warmup and length, read off the learning rates it logged and saved.

Such a tool keeps no settings where they could be read without running something (training_args.bin is a pickle), but Trainer logs the
rate with every loss, to its last digit, and its scheduler keeps the peak and the rate that comes next. The three schedules this tool
knows have closed forms (steps.py), so one that gives all of these is the one that was used, and going on with it is going on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine.checkpoints.checkpoint import Checkpoint, LogRow
from engine.checkpoints.inspect import RNG_OF_RANK, SCHEDULER
from engine.checkpoints.rates import SavedRates, saved_rates
from engine.config import RunConfig
from engine.course.steps import Length, learning_rate_at, warmup_steps
from engine.i18n import _

ROWS = 64
"""Logged rates that are looked at, evenly spread."""
LEAST = 3
"""Fewer logged rates fit anything, where the scheduler does not tell the peak."""
EXACT = 1e-6
"""Largest deviation from a logged rate, as a share of the peak."""
SAVED = 1e-9
"""Largest deviation from the saved one, of which there is one alone."""
KINDS: tuple[Literal["linear", "cosine", "constant"], ...] = ("linear", "cosine", "constant")
"""Trainer's default first: within the warmup all of them are alike."""
MOST_WARMUPS = 2_000
MOST_WARMUP = 10_000_000
MOST_ADDED = 65_536
"""Batches of a step, at most (--grad-accum)."""
MOST_AT_A_TIME = 8
"""Rows, where it is not known how many of a step's were taken at a time."""
HALF_A_DIGIT = 0.006
"""How far an epoch of two digits is off, at most."""


@dataclass(frozen=True)
class LoggedSchedule:
    """The schedule that gives every logged rate."""

    scheduler: Literal["linear", "cosine", "constant"]
    learning_rate: float
    warmup_steps: int
    total_steps: int
    others: tuple[str, ...] = ()
    """Kinds that give all that was logged and saved as well, and other rates from there on."""
    may_fall: bool = False
    """Whether it stays at its peak, and one that falls at its end (transformers' warmup_stable_decay) would do so up to here."""

    def words(self) -> str:
        """As the receipt shows it."""
        return schedule_words(self.scheduler, self.learning_rate, self.warmup_steps, self.total_steps)


def schedule_words(scheduler: str, learning_rate: float, warmup: int, total: int) -> str:
    """A schedule in a line."""
    return f"{scheduler} {learning_rate:g}, {total} steps" + (f", warmup {warmup}" if warmup else "")


def against_log(checkpoint: Checkpoint, config: RunConfig, length: Length) -> dict[str, tuple[str, str]]:
    """Receipt item -> what the log of another tool's run tells of it, and the same of the run that goes on from there."""
    found = {}
    schedule = logged_schedule(checkpoint)
    if schedule is not None:
        warmup = warmup_steps(config, length.total_steps)
        found["schedule"] = (
            schedule.words(),
            schedule_words(config.scheduler, config.learning_rate, warmup, length.total_steps),
        )
    elif (rates := saved_rates(checkpoint.path / SCHEDULER)) is not None:
        now = learning_rate_at(config, length.total_steps, rates.step)
        words = _("peak {peak:.3g}, next {next:.3g}")
        found["schedule"] = (
            words.format(peak=rates.peak, next=rates.next),
            words.format(peak=config.learning_rate, next=now),
        )
    geometry = logged_geometry(checkpoint, length.steps_per_epoch)
    if geometry is not None:
        found["batch_geometry"] = geometry
    return found


def logged_schedule(checkpoint: Checkpoint) -> LoggedSchedule | None:
    """The schedule of the run that saved `checkpoint`; None where its log does not tell, or tells of one that is not known here."""
    total = checkpoint.max_steps
    if total is None:
        return None
    rated = [row for row in checkpoint.history if row.learning_rate is not None and 0 < row.step <= total]
    rates = saved_rates(checkpoint.path / SCHEDULER)
    if rates is not None:
        return _of_saved(rates, rated, total)
    if len(rated) < LEAST:
        return None
    rows = _spread(rated)
    for scheduler in KINDS:
        for warmup in _warmups(rated, total):
            # The rate of the step that was done, as newer versions log it, or of the one that is next, as older ones did.
            for behind in (1, 0):
                peak = _peak(rows, scheduler, warmup, total, behind)
                if peak is not None:
                    return LoggedSchedule(scheduler, peak, warmup, total)
    return None


def _spread(rated: Sequence[LogRow]) -> list[LogRow]:
    """ROWS of them at most, evenly spread, the first and the last among them."""
    if len(rated) <= ROWS:
        return list(rated)
    return [rated[index * (len(rated) - 1) // (ROWS - 1)] for index in range(ROWS)]


def _of_saved(rates: SavedRates, rated: Sequence[LogRow], total: int) -> LoggedSchedule | None:
    """The schedule with the saved peak that gives the rate saved as the next one, and every logged one: of several the one with the
    shortest warmup, since a checkpoint seldom stands where a warmup happens to end."""
    rows, fits = _spread(rated), []
    for scheduler in KINDS:
        for warmup in _warmups_to(rates, rated, total):
            config = RunConfig(learning_rate=rates.peak, scheduler=scheduler, warmup=warmup)
            if _gives(config, rates, rows, total):
                fits.append(LoggedSchedule(scheduler, rates.peak, warmup, total))
                break
    if not fits:
        return None
    best = min(fits, key=lambda one: one.warmup_steps)
    ahead = rates.step < total
    may_fall = best.scheduler == "constant" and rates.has_settings and ahead
    return replace(best, others=tuple(one.scheduler for one in fits if one is not best and ahead), may_fall=may_fall)


def nearest_schedule(checkpoint: Checkpoint) -> LoggedSchedule | None:
    """Of a run whose schedule is of a kind that is not known here: the known one whose rates come nearest to those that were logged
    and saved, so that the rate changes little at the join. None where the scheduler or the run's length is not known."""
    total, rates = checkpoint.max_steps, saved_rates(checkpoint.path / SCHEDULER)
    if total is None or rates is None:
        return None
    rated = [row for row in checkpoint.history if row.learning_rate is not None and 0 < row.step <= total]
    rows = _spread(rated)

    def off(scheduler: str, warmup: int) -> float:
        config = RunConfig(learning_rate=rates.peak, scheduler=scheduler, warmup=warmup)
        ahead = abs(learning_rate_at(config, total, rates.step) - rates.next)
        behind = [
            [abs(learning_rate_at(config, total, row.step - by) - (row.learning_rate or 0.0)) for row in rows]
            for by in (1, 0)
        ]
        return max(ahead, min(max(ways, default=0.0) for ways in behind))

    _off, kind, warmup = min(
        (off(KINDS[kind], warmup), kind, warmup)
        for kind in range(len(KINDS))
        for warmup in _warmups_to(rates, rated, total)
        if warmup <= total
    )
    return LoggedSchedule(KINDS[kind], rates.peak, warmup, total)


def _gives(config: RunConfig, rates: SavedRates, rows: Sequence[LogRow], total: int) -> bool:
    """Whether the schedule of `config` gives the saved rate and all logged ones."""
    if abs(learning_rate_at(config, total, rates.step) - rates.next) > SAVED * rates.peak:
        return False
    return any(
        all(
            abs(learning_rate_at(config, total, row.step - behind) - (row.learning_rate or 0.0)) <= EXACT * rates.peak
            for row in rows
        )
        for behind in (1, 0)
    )


def _warmups_to(rates: SavedRates, rated: Sequence[LogRow], total: int) -> list[int]:
    """Steps of warmup that can lead to the saved rate, the fewest first: the schedules' formulas (steps.py) solved for them."""
    step, share = rates.step, rates.next / rates.peak
    found = [0.0, float(step)]
    rising = [(row.step - behind, (row.learning_rate or 0.0) / rates.peak) for row in rated[:2] for behind in (1, 0)]
    found += [at / part for at, part in (*rising, (step, share)) if part > 0]
    if 0 < share < 1:
        found.append(total - (total - step) / share)
        part = math.acos(2 * share - 1) / math.pi
        if part < 1:  # a share of almost nothing is rounded to the very end, whatever the warmup
            found.append((step - part * total) / (1 - part))
    return sorted({round(one) for one in found if 0 <= one <= MOST_WARMUP})


def logged_accumulation(checkpoint: Checkpoint, config: RunConfig, rows: int) -> int:
    """How many batches another tool added up for a step: what makes its epoch of `rows` rows stand where it does after so many steps.
    Where no number does, what `config` says; of several that of `config`, else the smallest."""
    if config.batch_size != checkpoint.batch_size:
        return config.grad_accum
    fits = _accumulations(checkpoint, [(math.ceil(rows / config.batch_size), False)]) if checkpoint.batch_size else []
    return config.grad_accum if not fits or config.grad_accum in fits else fits[0]


def logged_batches(checkpoint: Checkpoint, rows: int) -> tuple[int, int] | None:
    """(rows at a time, batches added up for a step) of another tool's run that says neither, as Trainer did not before transformers
    4.36: so many rows a step make of `rows` rows the steps that its epoch had. Of several numbers the one that a person would name,
    with the most factors of two. None where no number does, or the run says how many it took at a time."""
    if checkpoint.batch_size is not None:
        return None
    each_fits = (
        [each for each in range(1, min(rows, MOST_ADDED) + 1) if math.ceil(rows / each) == steps]
        for steps in _steps_an_epoch(checkpoint)
    )
    fits = next((fits for fits in each_fits if fits), None)
    if fits is None:
        return None
    each = max(fits, key=lambda one: (one & -one, -one))
    size = max(one for one in range(1, MOST_AT_A_TIME + 1) if each % one == 0)
    return size, each // size


def misfit(checkpoint: Checkpoint, rows: int) -> str | None:
    """Why a run over `rows` rows cannot have stood where another tool's `checkpoint` does, whatever it added up for a step; None where
    it can, or nothing tells."""
    counts, size = _steps_an_epoch(checkpoint), checkpoint.batch_size
    if checkpoint.manifest is not None or not counts or not size:
        return None
    each = size * _processes(checkpoint)
    # The last batch of an epoch may be dropped; older versions dropped those that were left over from its steps.
    ways = [(batches, drops) for batches in (math.ceil(rows / each), max(1, rows // each)) for drops in (False, True)]
    if _accumulations(checkpoint, ways):
        return None
    words = _("its epoch had {steps} steps of {size} rows at a time, which {rows} rows do not make")
    return words.format(steps=counts[0], size=size, rows=rows)


def _accumulations(checkpoint: Checkpoint, ways: Sequence[tuple[int, bool]]) -> list[int]:
    """Numbers of batches added up for a step, the smallest first, that make a run stand where `checkpoint` says it does. `ways`: how
    many batches an epoch may have had, and whether those that make no whole step were dropped."""
    step, epoch = checkpoint.step, checkpoint.epoch
    if not step or not epoch or is_of_a_stream(checkpoint):
        return []
    off: dict[int, float] = {}
    for batches, drops in ways:
        for times in range(1, min(batches, MOST_ADDED) + 1):
            distance = abs(_epoch_after(step, times, batches, drops) - epoch)
            off[times] = min(off.get(times, math.inf), distance)
    for near in (1e-6, HALF_A_DIGIT):  # older versions rounded the epoch to two digits
        fits = sorted(times for times, distance in off.items() if distance <= near)
        if fits:
            return fits
    return []


def _processes(checkpoint: Checkpoint) -> int:
    """How many processes saved it: each leaves its random states."""
    return max(1, sum(bool(RNG_OF_RANK.fullmatch(name)) for name, _size in checkpoint.files))


def is_of_a_stream(checkpoint: Checkpoint) -> bool:
    """Whether its rows came from a stream without an end: what Trainer calls its epoch then is the share of its steps that is done."""
    step, epoch, total = checkpoint.step, checkpoint.epoch, checkpoint.max_steps
    return bool(checkpoint.total_epochs is None and step and epoch and total and abs(step / total - epoch) <= HALF_A_DIGIT)


def _epoch_after(step: int, times: int, batches: int, drops: bool) -> float:
    """The epoch that Trainer counts after `step` steps of `times` batches each; the last step of an epoch has what is left, or that is
    dropped."""
    whole, into = divmod(step, batches // times if drops else math.ceil(batches / times))
    return whole + min(1.0, into * times / batches)


def _steps_an_epoch(checkpoint: Checkpoint) -> tuple[int, ...]:
    """As the state counts them, the likeliest first; none where it does not, or its epoch is none. Within an epoch the last step of
    it, which may be a smaller one, is not counted yet."""
    step, epoch, total, epochs = checkpoint.step, checkpoint.epoch, checkpoint.max_steps, checkpoint.total_epochs
    if not step or not epoch or not math.isfinite(step / epoch) or is_of_a_stream(checkpoint):
        return ()
    counted = math.ceil(step / epoch - 1e-6)
    # An epoch of two digits, as versions wrote it that saved no batch size, tells it less well than the steps of all of them. It may
    # have two digits by chance: then it tells of one more in a run that dropped the batches left over from its steps.
    rounded = checkpoint.batch_size is None and abs(epoch - round(epoch, 2)) < 1e-9
    if rounded and total and epochs and total % epochs == 0 and abs(step * epochs / total - epoch) <= HALF_A_DIGIT:
        of_all = round(total / epochs)
        return (of_all, counted) if counted == of_all + 1 else (of_all,)
    return (counted,)


def logged_geometry(checkpoint: Checkpoint, steps_per_epoch: int) -> tuple[str, str] | None:
    """(logged, now): how many steps another tool's run made of an epoch, and this one makes; None where the log does not tell."""
    counts = _steps_an_epoch(checkpoint)
    if not counts:
        return None
    each = _("{count} steps an epoch")
    logged = steps_per_epoch if steps_per_epoch in counts else counts[0]
    return each.format(count=logged), each.format(count=steps_per_epoch)


def _warmups(rated: Sequence[LogRow], total: int) -> list[int]:
    """Steps of warmup that the rates leave possible: up to where they no longer rise."""
    highest = max(range(len(rated)), key=lambda index: rated[index].learning_rate or 0.0)
    if highest == 0:
        return list(range(min(rated[0].step + 1, total, MOST_WARMUPS)))
    begin = rated[highest - 1].step
    end = rated[highest + 1].step if highest + 1 < len(rated) else total
    return [0, *range(max(1, begin - 1), min(end + 1, total, begin + MOST_WARMUPS))]


def _peak(rows: Sequence[LogRow], scheduler: str, warmup: int, total: int, behind: int) -> float | None:
    """The peak with which the schedule gives each logged rate; None where none does."""
    unit = RunConfig(learning_rate=1.0, scheduler=scheduler, warmup=warmup)
    shares = [learning_rate_at(unit, total, row.step - behind) for row in rows]
    norm = sum(share * share for share in shares)
    if norm == 0:
        return None
    rates = [row.learning_rate or 0.0 for row in rows]
    peak = sum(rate * share for rate, share in zip(rates, shares, strict=True)) / norm
    if peak <= 0 or any(abs(rate - peak * share) > EXACT * peak for rate, share in zip(rates, shares, strict=True)):
        return None
    short = float(f"{peak:.6g}")  # what a person typed, rather than a sum's last digits
    return short if math.isclose(short, peak, rel_tol=EXACT) else peak
