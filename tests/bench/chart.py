"""What painting the training screen's chart costs, and what that is of a run: a full chart is drawn CHART seconds apart at most."""

from __future__ import annotations

import math
import statistics
import time

from tui.live import POINTS, begun, fold
from tui.screens.training import CHART
from tui.training_text import picture
from tui.widgets.chart import draw

TIMES = 200


def main() -> None:
    from tests.tui.scripted import started, step

    live = begun((number, 4 * math.exp(-number / 800) + 0.2) for number in range(1, 2 * POINTS))
    live = fold(live, started(checkpoint="checkpoint-1023", step=1023, epoch=1.0), 0.0)
    for number in range(1024, 1024 + 2 * POINTS - 1):
        live = fold(live, step(number, 4 * math.exp(-number / 800) + 0.2 + (number % 7) / 40), float(number))
    for width, height in ((60, 12), (100, 30), (200, 50)):
        seconds = []
        for _time in range(TIMES):
            begin = time.perf_counter()
            draw(picture(live), width, height)
            seconds.append(time.perf_counter() - begin)
        cost = statistics.median(seconds)
        print(f"{width}x{height}: {cost * 1000:.1f} ms a chart, at most {cost / CHART:.2%} of one core's time")
