"""What the training screen shows of a run, as one frozen snapshot, and the pure function that folds an event into it.

Engine events are the only way in. A snapshot is small whatever the length of the run: curves thin themselves out, lists keep
their ends. So a watcher may hold one, compare it with the next, and paint what differs, at its own pace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from engine.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    LossJumped,
    ResumeChecked,
    RolledBack,
    RowsTokenised,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
)

if TYPE_CHECKING:
    from engine.checkpoints.checkpoint import LogRow

POINTS = 512
"""Points a curve keeps; twice as many are thinned to this."""
SMOOTHING = 0.9
"""Weight of the past in the smoothed line (exponential moving average with bias correction, as TensorBoard draws it)."""
LINES = 200
"""Happenings kept for the list."""

Phase = Literal["loading", "training", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Curve:
    """Points in order of step, thinned evenly when there are too many: each kept one stands for `stride` logged ones."""

    points: tuple[tuple[int, float], ...] = ()
    stride: int = 1
    seen: int = 0

    def add(self, step: int, value: float) -> Curve:
        """With one point more. Of each `stride` points the last is kept; the newest is always there."""
        points = self.points
        if points and self.seen % self.stride:
            points = points[:-1]
        points = (*points, (step, value))
        if len(points) < 2 * POINTS:
            return Curve(points, self.stride, self.seen + 1)
        return Curve(points[1::2], self.stride * 2, self.seen + 1)


def curve_of(points: Iterable[tuple[int, float]]) -> Curve:
    """A curve of many points at once."""
    known = list(points)
    stride = 1
    while len(known) // stride >= 2 * POINTS:
        stride *= 2
    kept = known[stride - 1 :: stride]
    if known and (not kept or kept[-1] != known[-1]):
        kept.append(known[-1])
    return Curve(tuple(kept), stride, len(known))


@dataclass(frozen=True)
class Happening:
    """A line of the event list."""

    kind: Literal["saved", "warned", "jumped", "rolled_back", "evaluated", "started"]
    event: Event


@dataclass(frozen=True)
class Live:
    """A run as it stands."""

    history: Curve = Curve()
    """The loss before the join, of a continued run."""
    loss_curve: Curve = Curve()
    """What this attempt logged."""
    smooth: Curve = Curve()
    eval_curve: Curve = Curve()
    join: int | None = None
    """Step at which this attempt took over; None for a fresh run."""
    phase: Phase = "loading"
    stopping: bool = False
    moving: bool = False
    """Whether it stops only to go on in a process of its own."""
    halted: RunStopped | None = None
    """How it stopped for that; its end only where it does not go on after all."""
    tokenised: RowsTokenised | None = None
    """How far the rows have come on their way to tokens."""
    started: RunStarted | None = None
    step: Step | None = None
    """The last one logged."""
    receipt: ResumeChecked | None = None
    saved: CheckpointSaved | None = None
    jump: LossJumped | None = None
    """The jump that has not been answered yet."""
    reset: LossJumped | None = None
    """The jump right after the join, answered or not: what became of going on."""
    happenings: tuple[Happening, ...] = ()
    ended: RunFinished | RunStopped | RunFailed | None = None
    average: tuple[float, int] = (0.0, 0)
    """(running sum, count) of the smoothed line."""
    first: tuple[float, int] | None = None
    """(seconds, step) of the first logged step, for the time left."""
    now: float = 0.0
    """Seconds of the last event, by the clock that the events were told with."""

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step at the mean pace so far; None before two steps were logged, and where it stops before that."""
        if (
            self.stopping
            or self.step is None
            or self.first is None
            or self.started is None
            or self.step.step <= self.first[1]
        ):
            return None
        pace = (self.now - self.first[0]) / (self.step.step - self.first[1])
        return pace * max(0, self.started.total_steps - self.step.step)


def begun(history: Iterable[tuple[int, float]] = (), evals: Iterable[tuple[int, float]] = ()) -> Live:
    """Before the first event: `history` is the loss that the continued checkpoint knows, (step, loss). Its smoothed line goes on
    through the join."""
    known, total, smooth = list(history), 0.0, []
    finite = [(step, loss) for step, loss in known if math.isfinite(loss)]
    for count, (step, loss) in enumerate(finite, 1):
        total, value = _smoothed(total, count, loss)
        smooth.append((step, value))
    return Live(history=curve_of(known), eval_curve=curve_of(evals), smooth=curve_of(smooth), average=(total, len(finite)))


def known_before(history: Iterable[LogRow]) -> Live:
    """`begun`, from what a checkpoint's log holds."""
    rows = tuple(history)
    return begun(
        [(row.step, row.loss) for row in rows if row.loss is not None],
        [(row.step, row.eval_loss) for row in rows if row.eval_loss is not None],
    )


def _smoothed(total: float, count: int, loss: float) -> tuple[float, float]:
    """(running sum, smoothed loss) after the `count`th loss, from the running sum before it."""
    total = SMOOTHING * total + (1 - SMOOTHING) * loss
    return total, total / (1 - SMOOTHING**count)


def fold(live: Live, event: Event, now: float) -> Live:
    """`live` after `event`, told at `now` (seconds of any one clock)."""
    live = replace(live, now=now)
    match event:
        case RunStarted():
            join = event.step if event.checkpoint is not None else None
            return _happened(replace(_begun_again(live, event.step), started=event, join=join), "started", event)
        case RowsTokenised():
            return replace(live, tokenised=event)
        case ResumeChecked():
            return replace(live, receipt=event)
        case Step():
            return _stepped(live, event, now)
        case Evaluated():
            if event.eval_loss is not None:
                live = replace(live, eval_curve=live.eval_curve.add(event.step, event.eval_loss))
            return _happened(live, "evaluated", event)
        case CheckpointSaved():
            return _happened(replace(live, saved=event), "saved", event)
        case LossJumped():
            reset = event if event.kind == "reset_at_resume" else live.reset
            return _happened(replace(live, jump=event, reset=reset), "jumped", event)
        case RolledBack():
            return _happened(replace(live, jump=None), "rolled_back", event)
        case Warned():
            return _happened(live, "warned", event)
        case RunFinished():
            return replace(live, phase="finished", ended=event)
        case RunStopped() if live.moving:
            return replace(live, halted=event)
        case RunStopped():
            return replace(live, phase="stopped", ended=event)
        case RunFailed():
            return replace(live, phase="failed", ended=event)
    return live


def _begun_again(live: Live, step: int) -> Live:
    """Another attempt of the same run starts at `step`: what was logged up to there is its history, the rest never became part. One
    that ended before it could start is no more how the run stands."""
    if live.started is None:
        return replace(live, phase="loading", ended=None)
    known = (*live.history.points, *live.loss_curve.points)
    points, evals = ([point for point in some if point[0] <= step] for some in (known, live.eval_curve.points))
    return replace(begun(points, evals), happenings=live.happenings, stopping=live.stopping, now=live.now)


def _stepped(live: Live, event: Step, now: float) -> Live:
    live = replace(live, phase="training", step=event, first=live.first or (now, event.step))
    if event.loss is None:
        return live
    live = replace(live, loss_curve=live.loss_curve.add(event.step, event.loss))
    if not math.isfinite(event.loss):  # it would stay in the average for ever
        return live
    total, count = live.average
    total, value = _smoothed(total, count + 1, event.loss)
    return replace(live, smooth=live.smooth.add(event.step, value), average=(total, count + 1))


def _happened(
    live: Live, kind: Literal["saved", "warned", "jumped", "rolled_back", "evaluated", "started"], event: Event
) -> Live:
    return replace(live, happenings=(*live.happenings[-LINES + 1 :], Happening(kind, event)))


def verdicts(receipt: ResumeChecked) -> Mapping[str, int]:
    """How many items of a receipt were found ok, changed, failed, unknown."""
    counts: dict[str, int] = {}
    for item in receipt.items:
        counts[str(item["verdict"])] = counts.get(str(item["verdict"]), 0) + 1
    return counts


def items(receipt: ResumeChecked) -> tuple[Mapping[str, Any], ...]:
    """The items, the probe on top, then what is not as it was."""
    order = {"failed": 0, "changed": 1, "unknown": 2, "ok": 3}
    return tuple(sorted(receipt.items, key=lambda item: (item["item"] != "probe_loss", order.get(str(item["verdict"]), 0))))
