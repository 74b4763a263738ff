"""Watches the loss and says when it left its path; keeps quiet while it only wanders.

A run that starts over unnoticed is the fault this project began with, so the monitor looks hardest right after a join. But real
losses are noisy (over 27,874 consecutive pairs of quiet runs the ratio's 99th percentile is 2.07, its maximum 20.8), and an
alarm that cries at noise is turned off. So a loss is judged by the run's own noise: losses are taken as logarithms, since noise
grows with the level; the level is a median, the noise a quantile of the steps from one log to the next without their trend; and away
from a join only several high losses in a row count, or a rise that lasts. Whatever the noise says, a loss that the run has shown
often before (two kinds of batches, unshuffled rows) is nothing new, nor is a climb hardly higher than others that it came back from
(losses that come in high and low stretches). Losses that reach zero or cross it (GRPO, DPO variants,
masked rows) have no ratios: for those only NaN and infinity are told.

Plain floats in, a LossJumped out. Its state is bounded, costs the same at every step, and is saved with the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from engine.course.blocks import LARGEST_LOG, Blocks
from engine.course.noise import SLOW_AFTER, noise_of, usual, wander_of
from engine.events import LossJumped

WINDOW = 64
"""Logs that are remembered: the noise is measured on them, and how high the loss was now and then anyway."""
LEVEL = 11
"""Logs whose median is the level."""
WARMUP = 4
"""Logs before anything is judged."""
LOGS_AT_JOIN = 5
"""Logs after a join that are judged as such."""
HIGH_NOISES, HIGH_RATIO = 4.5, 1.7
"""A loss is high when it is above the level by this many times the noise, and by this factor."""
IN_A_ROW = 3
"""So many high losses in a row are a divergence."""
LASTING = ((5, 3.0), (11, 2.2))
"""(logs, noises): logs whose median, so high above the lowest level of the window, is a divergence too: a rise too slow to outrun
the level. Fewer noises than of a single loss suffice, since both sides are medians, and the fewer the more logs."""
SHARE_OF_FALL = 0.05
"""A rise by less than this share of what the loss had fallen since the start is too small to matter."""
RESET_NOISES, RESET_RATIO, TOGETHER_RATIO, RESET_SHARE = 4.0, 1.08, 1.12, 0.4
"""At a join: above the level by so much, and this share of the way back to where the run began."""
CERTAIN_NOISES = 8.0
"""At a join one loss this far off is enough; below it two are needed, or three that are so far off on the average."""
WORSE_THAN_UNTRAINED = 1.7
"""Times the loss the run began with."""
NEAR_THE_START = 1.5
"""Times the loss the run began with: a run that starts over is not further off."""
RUINED_RATIO = 3.0
"""Times the first losses of a run, three in a row: it was ruined before it had a level."""
EPISODE = 50
"""Logs after an alarm until a loss that stayed high is taken as the new level."""
QUIET_AFTER_ZERO = 64
"""Logs without ratios after a loss that was zero or less, at least; a fiftieth of all such losses silence the monitor."""

_COUNTS = ("seen", "not_positive", "since_zero", "high", "worse", "episode", "back")


class LossMonitor:
    """Watches one run."""

    def __init__(self) -> None:
        self._start: list[float] = []
        """The first losses, to know where the run began."""
        self._logs: list[float] = []
        """Logarithms of the last WINDOW losses."""
        self._steps: list[float] = []
        """Their steps."""
        self._blocks = Blocks()
        self.good_until: int | None = None
        """The last logged step at which the loss was on its path: what was saved up to it can be gone back to."""
        self.good_before: int | None = None
        """As `good_until` was when the loss left a path that it has not come back to since; None: it is on it. A loss that stayed high
        is taken for the new level after a while, and what was saved before is the better model all the same."""
        self._left_from = 0.0
        """The level that it left then."""
        self._seen = 0
        self._not_positive = 0
        self._since_zero = QUIET_AFTER_ZERO
        self._high = 0
        """High losses in a row."""
        self._worse = 0
        """Losses in a row that are worse than untrained."""
        self._episode = 0
        """Logs since an alarm whose loss has not come back; 0: no alarm is on."""
        self._spike = False
        """Whether the alarm that is on was a spike, which may yet become a divergence."""
        self._path, self._height = 0.0, LARGEST_LOG
        """Of the last alarm: the level that the loss left, and how far above it the loss was (logarithms)."""
        self._back = 0
        """Logs in a row that were back at the level, while an alarm is on."""
        self._not_finite = False
        self._joined = False
        self._reset_votes = 0
        self._join_logs: list[float] = []
        """The losses since the join, while it is one."""
        self._level_at_join: float | None = None

    def observe(self, step: int, loss: float, at_resume: bool) -> LossJumped | None:
        """Take in a logged loss; what it means, if it means anything.

        `at_resume`: this is one of the first logs after a join. The learning rate is not asked: one that leaps up where a run was
        continued is how many real resets look, and no excuse for them.
        """
        self._seen += 1
        if not math.isfinite(loss):
            told, self._not_finite = self._not_finite, True
            return None if told else LossJumped(step, "non_finite", self._before(), None, None, at_resume, self.good)
        self._not_finite = False
        if at_resume and not self._joined:
            self._reset_votes, self._level_at_join = 0, self._level()
            self._join_logs.clear()
        self._joined = at_resume
        if loss <= 0:
            self._not_positive += 1
            self._since_zero = 0
            if loss < 0:  # exactly zero is no sign of a good model: no token was learned, or the rows are known by heart
                self.good_until = step
            return None
        self._since_zero += 1
        level, noise = self._level(), noise_of(self._logs)
        kind = self._judge(loss, at_resume, noise) if self._ratios_mean_something() else None
        before = self._before(at_resume)
        self._take(step, loss)
        if kind is not None:
            assert before is not None  # nothing is judged without a loss before it
            if kind != "spike" and self.good_before is None and self.good_until is not None:
                self.good_before = self.good_until
                self._left_from = self._path
            return LossJumped(step, kind, before, loss, loss / before, at_resume, self.good)
        if self.good_before is not None and not self._episode:
            now = self._level()
            if now is not None and now <= self._left_from + noise:
                self.good_before = None
        # Until the first logs after a join are through, nothing saved since is known to be good.
        if not self._episode and not at_resume and (level is None or math.log(loss) - level <= noise):
            self.good_until = step
        return None

    def _ratios_mean_something(self) -> bool:
        return self._since_zero > QUIET_AFTER_ZERO and self._not_positive * 50 <= self._seen

    def _judge(self, loss: float, at_resume: bool, noise: float) -> str | None:
        """The kind of jump that this loss completes."""
        if at_resume and self._level_at_join is not None:
            if self._is_reset(loss, self._level_at_join, noise):
                self._alarm(loss, self._level_at_join)
                return "reset_at_resume"
            return None
        level = self._level()
        if level is None:
            return self._judge_beginning(loss)
        start = median(self._start)
        rise = math.log(loss) - level
        matters = loss - math.exp(level) >= SHARE_OF_FALL * (start - math.exp(level))
        wander = wander_of(self._recent(self._logs), noise)
        far = max(math.log(HIGH_RATIO), HIGH_NOISES * wander)
        high = rise > far and matters
        worse = loss > WORSE_THAN_UNTRAINED * start and math.log(loss / start) > HIGH_NOISES / 2 * noise
        self._high = self._high + 1 if high else 0
        self._worse = self._worse + 1 if worse else 0
        in_a_row = self._high >= IN_A_ROW or self._worse >= IN_A_ROW
        lowest = self._lowest()
        together = self._together(loss, IN_A_ROW) - lowest
        further = together > self._blocks.known_climb
        stays = (in_a_row and further and self._is_new(loss, IN_A_ROW, noise)) or (
            matters and ((rise > 0 and self._rose_slowly(loss, lowest, wander)) or self._rose_with_the_window(noise))
        )
        if self._episode and not (self._spike and stays):
            self._follow(loss, high or worse)
            return None
        self._blocks.climbed(together, self._together(loss, LEVEL) - lowest)
        leaps = self._high >= 2 and worse and further and rise > 2 * HIGH_NOISES * noise and self._is_new(loss, 2, noise)
        if not stays and not leaps:
            return None
        # After a slow rise what is remembered ends where the loss was low, in the window or in the blocks before it.
        low, before = self._level(), self._blocks.last_level
        low = level if low is None else low
        self._alarm(loss, min(low, low if before is None else before) if stays else level, spike=not stays)
        return "divergence" if stays else "spike"

    def _alarm(self, loss: float, path: float, spike: bool = False) -> None:
        """An alarm begins: `loss` has left the level `path`, a logarithm."""
        self._episode, self._back, self._spike = 1, 0, spike
        self._blocks.leave_climb()
        self._path, self._height = path, math.log(loss) - path

    def _judge_beginning(self, loss: float) -> str | None:
        """Before there is a level: a rate so high that the very first steps ruined the model leaves no other trace than this."""
        if self._episode:
            self._follow(loss, high=True)
        elif len(self._start) >= IN_A_ROW and min(*self._start[-2:], loss) > RUINED_RATIO * max(self._start[:-2]):
            self._alarm(loss, math.log(median(self._start[:-2])))
            self.good_until = None
            return "divergence"
        return None

    def _is_new(self, loss: float, count: int, noise: float) -> bool:
        """Whether the median of the last `count` losses, `loss` the last of them, surpasses nearly all that came before."""
        last = [*self._logs[len(self._logs) - count + 1 :], math.log(loss)]
        return median(last) > usual(self._recent(self._logs[: len(self._logs) - count + 1]), noise)

    @property
    def good(self) -> int | None:
        """The step up to which what was saved can be gone back to."""
        return self.good_before if self.good_before is not None else self.good_until

    @property
    def off(self) -> bool:
        """Whether the loss left its path and has not come back."""
        return self._not_finite or self.good_before is not None or (self._episode > 0 and not self._spike)

    @property
    def good_for_sure(self) -> int | None:
        """The earliest step that a later alarm may move `good_until` back to: a slow rise is noticed long after it began, and goes
        back to where the loss was last at the lowest level that is remembered. It never decreases until an alarm, so a checkpoint
        that is kept from before it is there when one comes."""
        earliest = [self.good_until] if self.good_until is not None else []
        if self._logs:
            windows = range(max(1, len(self._logs) - LEVEL + 1))
            lowest = min(median(self._logs[at : at + LEVEL]) for at in windows) if len(windows) > 1 else min(self._logs)
            last = max(at for at, log in enumerate(self._logs) if log <= lowest)
            earliest.append(int(self._steps[last]))
        if (low_until := self._blocks.low_until) is not None:
            earliest.append(low_until)
        return min(earliest, default=None)

    def new_rows(self) -> None:
        """The rows from here on are other ones, as the person knows: learn their level before judging."""
        self.good_before = None
        self._forget()
        self._blocks = Blocks()

    def _forget(self) -> None:
        self._logs.clear()
        self._steps.clear()
        self._blocks.forget_levels()

    def _recent(self, logs: Sequence[float]) -> Sequence[float]:
        """Of `logs` those from the later half of the run: its beginning is no measure for how high the loss may be."""
        return logs[-max(WARMUP, self._seen // 2) :]

    def _rose_slowly(self, loss: float, lowest: float, noise: float) -> bool:
        """Whether the last losses together lie far above the lowest level in the window, and are new to it. The loss left its
        path then long before it is noticed: what is known goes back to where it was last at that level."""
        for lasting, noises in LASTING:
            before = self._logs[: len(self._logs) - lasting + 1]
            if len(before) < SLOW_AFTER:
                return False
            last = self._together(loss, lasting)
            rise = max(math.log(HIGH_RATIO), noises * noise)
            known = self._blocks.known_climb if lasting < LEVEL else self._blocks.known_level_climb
            if last - lowest > max(rise, known) and last > usual(self._recent(before), noise):
                good = max(at for at, log in enumerate(before) if log <= lowest + noise)
                self._was_good_until(int(self._steps[good]))
                del self._logs[good + 1 :], self._steps[good + 1 :]
                return True
        return False

    def _lowest(self) -> float:
        """The lowest level in the window, before the last LEVEL logs."""
        logs = self._logs[: max(LEVEL, len(self._logs) - LEVEL + 1)]
        return min(median(logs[at : at + LEVEL]) for at in range(max(1, len(logs) - LEVEL + 1)))

    def _together(self, loss: float, count: int) -> float:
        """The median of the last `count` losses, `loss` the last of them."""
        return median([*self._logs[max(0, len(self._logs) - count + 1) :], math.log(loss)])

    def _was_good_until(self, step: int) -> None:
        """It is noticed only now that the loss left its path after `step`. While it has not come back to a path that it left before,
        that one counts."""
        if self.good_before is None:
            self.good_until = min(step, self.good_until if self.good_until is not None else step)

    def _rose_with_the_window(self, noise: float) -> bool:
        """Whether the last blocks are all twice as high as the lowest one. As above, what is known goes back to where it was low."""
        good = self._blocks.rose(noise)
        if good is not None:
            self._was_good_until(good)
        return good is not None

    def _is_reset(self, loss: float, level: float, noise: float) -> bool:
        """Whether the run started over: the loss is far off, or noticeably off and most of the way back to the start."""
        if self._episode:
            return False
        self._join_logs = [*self._join_logs[-WINDOW:], loss]
        rise, start = math.log(loss) - level, median(self._start)
        recent = self._recent(self._logs)
        way_back = math.exp(level) + RESET_SHARE * (start - math.exp(level))
        back = loss >= way_back
        off = rise > max(math.log(RESET_RATIO), RESET_NOISES * noise) and back
        far = rise > max(math.log(HIGH_RATIO), HIGH_NOISES * noise)
        if (off or far) and math.log(loss) > usual(recent, noise):
            self._reset_votes += 1
        certain = rise > max(math.log(HIGH_RATIO), CERTAIN_NOISES * noise) and math.log(loss) > max(recent)
        # A run that starts over starts where it began; what lies far above that may be a spike, and must come twice.
        certain &= loss <= NEAR_THE_START * start
        return self._reset_votes >= 2 or (certain and back) or self._join_stays_high(level, way_back, noise)

    def _join_stays_high(self, level: float, way_back: float, noise: float) -> bool:
        """Whether the losses since the join are too high together, where each alone might be noise."""
        number = len(self._join_logs)
        rise = sum(math.log(loss) for loss in self._join_logs) / number - level
        far = rise > max(math.log(TOGETHER_RATIO), RESET_NOISES * noise / math.sqrt(number))
        middle = median(self._join_logs)
        return (
            number >= IN_A_ROW and far and middle >= way_back and math.log(middle) > usual(self._recent(self._logs), noise)
        )

    def _follow(self, loss: float, high: bool) -> None:
        """An alarm is on: has the loss come back, or has it settled where it is? Where the noise is great a loss need not be high to
        be as far off as before: it is back once it is nearer to its path than to where the alarm found it."""
        self._episode += 1
        self._back = self._back + 1 if not high and math.log(loss) - self._path < self._height / 2 else 0
        if self._back >= IN_A_ROW:
            if self._episode <= 2 * IN_A_ROW:  # over as soon as it was told: the run has such bursts
                self._blocks.climbed(self._height)
            self._episode = self._high = self._worse = 0
        elif self._episode > EPISODE:
            self._episode = self._high = self._worse = 0
            self._forget()

    def _take(self, step: int, loss: float) -> None:
        """Make the loss part of what later ones are judged by, unless an alarm is on or it is itself suspect at a join."""
        if len(self._start) < LOGS_AT_JOIN:
            self._start.append(loss)
        if self._episode or (self._joined and self._reset_votes):
            return
        self._logs.append(math.log(loss))
        self._steps.append(float(step))
        del self._logs[:-WINDOW], self._steps[:-WINDOW]
        self._blocks.add(step, math.log(loss))

    def _level(self) -> float | None:
        """The logarithm of the loss's level; None while too little was seen."""
        return median(self._logs[-LEVEL:]) if len(self._logs) >= WARMUP else None

    def _before(self, at_join: bool = False) -> float | None:
        level = self._level_at_join if at_join and self._level_at_join is not None else self._level()
        if level is not None:
            return math.exp(level)
        return self._start[-1] if self._start else None

    def state(self) -> dict[str, float | int | str | bool | list[float] | None]:
        """Everything it knows, as plain JSON values."""
        return {
            "start": list(self._start),
            "logs": list(self._logs),
            "steps": list(self._steps),
            **self._blocks.state(),
            "good_until": self.good_until,
            "good_before": self.good_before,
            "left_from": self._left_from,
            "path": self._path,
            "height": self._height,
            "seen": self._seen,
            "not_positive": self._not_positive,
            "since_zero": self._since_zero,
            "high": self._high,
            "worse": self._worse,
            "episode": self._episode,
            "back": self._back,
            "spike": self._spike,
            "not_finite": self._not_finite,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave. A run restored begins a new join. Raises ValueError where it is not such a state."""
        try:
            start, logs, steps = ([float(value) for value in state[key]] for key in ("start", "logs", "steps"))
            blocks = Blocks.of(state)
            good_until, good_before = (
                int(step) if step is not None else None for step in (state["good_until"], state.get("good_before"))
            )
            left_from, path = (float(state.get(key, 0.0)) for key in ("left_from", "path"))
            height = float(state.get("height", LARGEST_LOG))
            counts = [int(state[key]) for key in _COUNTS]
            spike, not_finite = bool(state["spike"]), bool(state["not_finite"])
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a state of the loss monitor: {error!r}") from error
        if (
            any(value <= 0 for value in start)
            or not all(math.isfinite(value) for value in (*start, *steps))
            or not all(abs(value) < LARGEST_LOG for value in (*logs, left_from, path))
            or not abs(height) <= LARGEST_LOG
            or (logs and not start)
            or len(logs) != len(steps)
            or min(counts) < 0
        ):
            raise ValueError("not a state of the loss monitor: it holds losses that cannot be")
        self._start, self._logs, self._steps = start[:LOGS_AT_JOIN], logs[-WINDOW:], steps[-WINDOW:]
        self._blocks = blocks
        self.good_until, self.good_before, self._left_from = good_until, good_before, left_from
        self._seen, self._not_positive, self._since_zero, self._high, self._worse, self._episode, self._back = counts
        self._spike, self._not_finite, self._path, self._height = spike, not_finite, path, height
        self.leave_join()

    def leave_join(self) -> None:
        """The next loss that is one at a join begins a new one."""
        self._joined, self._reset_votes, self._level_at_join, self._join_logs = False, 0, None, []
