"""What the loss monitor remembers of a run beyond its window: blocks of logs, each by its level and by how far the loss climbed in it.

A rise so slow that the window rises with it shows in the levels. Noise that comes in stretches, and high batches that come together by
chance, show in the climbs that the run came back from; they do not show from one log to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

BLOCK, BLOCKS, BLOCKS_HIGH = 16, 64, 3
"""Logs of a block; how many blocks are kept; so many in a row that are high are a divergence."""
BLOCK_NOISES, BLOCK_RATIO = 3.0, 2.0
"""A block is high when it is above the lowest by this many times the noise, and by this factor."""
HIGHER_THAN_BEFORE, UNDER_WAY = 1.25, 2
"""A climb is nothing new unless it is this many times (in logarithms) as high as any that the run came back from; the last so many
blocks do not count, for they may belong to the climb itself."""
LARGEST_LOG = 700.0
"""Beyond it a logarithm is of no number that a float can be."""


@dataclass
class Blocks:
    """The blocks of one run. All levels are logarithms of losses."""

    _filling: list[float] = field(default_factory=list, init=False)
    """The losses of the block that is not full yet."""
    _levels: list[float] = field(default_factory=list, init=False)
    """Medians of the last BLOCKS full ones."""
    _ends: list[float] = field(default_factory=list, init=False)
    """Their last steps."""
    _climb: float = field(default=0.0, init=False)
    """How far a few losses together were above the lowest level of the window: the most since the block began."""
    _level_climb: float = field(default=0.0, init=False)
    """The same of the level."""
    _climbs: list[float] = field(default_factory=list, init=False)
    """The first of the two of the last BLOCKS blocks."""
    _level_climbs: list[float] = field(default_factory=list, init=False)
    """The second."""

    def add(self, step: int, log: float) -> None:
        """Take in the loss of a log."""
        self._filling.append(log)
        if len(self._filling) < BLOCK:
            return
        self._levels.append(median(self._filling))
        self._ends.append(float(step))
        self._climbs.append(self._climb)
        self._level_climbs.append(self._level_climb)
        self._filling.clear()
        self.leave_climb()
        for kept in (self._levels, self._ends, self._climbs, self._level_climbs):
            del kept[:-BLOCKS]

    def climbed(self, together: float, level: float = 0.0) -> None:
        """A few losses together were so far above the lowest level, and the level itself."""
        self._climb, self._level_climb = max(self._climb, together), max(self._level_climb, level)

    def leave_climb(self) -> None:
        """What was climbed of late is no measure for what follows."""
        self._climb = self._level_climb = 0.0

    @property
    def known_climb(self) -> float:
        """What a few losses together must climb to be more than the run came back from before."""
        return _known(self._climbs)

    @property
    def known_level_climb(self) -> float:
        """The same of the level."""
        return _known(self._level_climbs)

    @property
    def last_level(self) -> float | None:
        """Of the last full block."""
        return self._levels[-1] if self._levels else None

    @property
    def low_until(self) -> int | None:
        """The last step of the last block at the lowest level; None while no block is full."""
        return int(self._ends[self._last_below(min(self._levels))]) if self._levels else None

    def rose(self, noise: float) -> int | None:
        """Where the last blocks are all far above the lowest one: the step until which they were low. What came after it is
        forgotten."""
        if len(self._levels) <= BLOCKS_HIGH:
            return None
        lowest = min(self._levels)
        if min(self._levels[-BLOCKS_HIGH:]) - lowest <= max(math.log(BLOCK_RATIO), BLOCK_NOISES * noise):
            return None
        low = self._last_below(lowest + noise)
        del self._levels[low + 1 :], self._ends[low + 1 :]
        self._filling.clear()
        return int(self._ends[low])

    def _last_below(self, level: float) -> int:
        """Which block is the last that is no higher."""
        return max(at for at, one in enumerate(self._levels) if one <= level)

    def forget_levels(self) -> None:
        """The run has another level from here on."""
        for known in (self._filling, self._levels, self._ends):
            known.clear()

    def state(self) -> dict[str, float | list[float]]:
        """Everything it knows, as plain JSON values."""
        return {
            "block": list(self._filling),
            "blocks": list(self._levels),
            "block_ends": list(self._ends),
            "climb": self._climb,
            "level_climb": self._level_climb,
            "climbs": list(self._climbs),
            "level_climbs": list(self._level_climbs),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Blocks:
        """Those that `state` tells of; a run saved before there were blocks, or climbs, begins to fill them now. Raises ValueError or
        TypeError where it is no such state."""
        found = cls()
        block, levels, ends, climbs, level_climbs = (
            [float(value) for value in state.get(key, ())]
            for key in ("block", "blocks", "block_ends", "climbs", "level_climbs")
        )
        found._climb, found._level_climb = (float(state.get(key, 0.0)) for key in ("climb", "level_climb"))
        if (
            not all(math.isfinite(value) for value in (*ends, *climbs, *level_climbs, found._climb, found._level_climb))
            or not all(abs(value) < LARGEST_LOG for value in (*block, *levels))
            or len(levels) != len(ends)
        ):
            raise ValueError("not a state of the loss monitor: it holds blocks that cannot be")
        found._filling, found._levels, found._ends = block[: BLOCK - 1], levels[-BLOCKS:], ends[-BLOCKS:]
        found._climbs, found._level_climbs = climbs[-BLOCKS:], level_climbs[-BLOCKS:]
        return found


def _known(climbs: Sequence[float]) -> float:
    return HIGHER_THAN_BEFORE * max(climbs[:-UNDER_WAY], default=0.0)
