"""How noisy a loss is, measured on the run itself: pure functions of logged losses, taken as natural logarithms, oldest first.

The monitor judges by three answers: how far a loss lies from its level by chance, how far the level itself wanders, and how high
the loss was now and then anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

NOISE_FLOOR = 0.02
"""No loss is taken to be steadier than this (natural logarithm, so about 2 %)."""
WANDER = 2.2
"""How many times larger the noise around the trend may be than that from log to log."""
SLOW_AFTER = 40
"""Logs before a slow rise is told from a loss that always went up and down like this."""
NOT_UNUSUAL = 1 / 16
"""A loss that this share of the recent ones surpassed is nothing new, whatever the level and the noise say (two kinds of batches)."""


def noise_of(logs: Sequence[float]) -> float:
    """The standard deviation of a logged loss around its level, as far as outliers and the trend let one tell."""
    moves = [other - one for one, other in pairwise(logs)]
    if not moves:
        return NOISE_FLOOR
    trend = median(moves)
    steps = sorted(abs(move - trend) for move in moves)
    # Of a normal noise s the steps' median is 0.954 s and their upper quartile 1.627 s.
    return max(NOISE_FLOOR, median(steps) / 0.954, steps[int(0.75 * (len(steps) - 1))] / 1.627)


def wander_of(logs: Sequence[float], noise: float) -> float:
    """The same around the trend of all `logs`: losses that come in high and low stretches (correlated noise) move little from one log
    to the next and far in the end. At most WANDER times `noise`, since a bend of the curve looks like that too."""
    count = len(logs)
    if count < SLOW_AFTER:
        return noise
    third = count // 3
    slope = (median(logs[-third:]) - median(logs[:third])) / (count - third)
    apart = sorted(log - slope * at for at, log in enumerate(logs))
    spread = (apart[int(0.9 * (count - 1))] - median(apart)) / 1.282
    return min(WANDER * noise, max(noise, spread))


def usual(logs: Sequence[float], noise: float) -> float:
    """What nearly all `logs` stay below by `noise`; minus infinity where there are none."""
    known = sorted(logs)
    return known[len(known) - 1 - int(NOT_UNUSUAL * len(known))] + noise if known else -math.inf
