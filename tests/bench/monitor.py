"""How surely the loss monitor sees what it must and how rarely it cries at noise: the tables of docs/monitor.md.

Three sources. Real public histories (../shared/histories; left out where they are not): as they are, continued rightly at several
places, and starting over there. Curves drawn with known noise of many kinds, quiet and not. And runs really made here on a tiny
model that has learned something: continued with a rate far too high, with the adapter dropped, with other rows, and rightly.
"""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.checkpoints.state import read_state
from engine.course.jumps import jumps_in
from engine.course.monitor import LOGS_AT_JOIN, LossMonitor
from engine.events import LossJumped

HISTORIES = Path(__file__).parents[2].parent / "shared" / "histories"
NOT_QUIET = ("008", "099")
"""Diverges; is no JSON."""
FALLING = ("002", "005", "020", "023", "051", "061", "065")
SEEDS = 15


def feed(
    losses: Sequence[float], then: Sequence[float] = (), resumed: bool = False
) -> tuple[list[LossJumped], list[LossJumped]]:
    """The jumps in `losses`, and in what comes `then`: after a join, where `resumed`."""
    monitor = LossMonitor()
    before = [jump for at, loss in enumerate(losses, 1) if (jump := monitor.observe(at, loss, False))]
    if resumed:
        state, monitor = monitor.state(), LossMonitor()
        monitor.restore(state)
    after = [
        jump
        for at, loss in enumerate(then)
        if (jump := monitor.observe(len(losses) + at + 1, loss, resumed and at < LOGS_AT_JOIN))
    ]
    return before, after


def curve(count: int, high: float = 3.0, low: float = 0.8, tau: float = 60) -> list[float]:
    return [low + (high - low) * math.exp(-at / tau) for at in range(count)]


def noisy(losses: Sequence[float], noise: float, draw: random.Random) -> list[float]:
    return [loss * math.exp(draw.gauss(0, noise)) for loss in losses]


def quiet(seed: int) -> Iterator[tuple[str, list[float]]]:
    """Healthy losses of many kinds."""
    draw, n = random.Random(seed), 300
    for noise in (0.02, 0.1, 0.25, 0.45, 0.6):
        yield f"noise of {noise:g}", noisy(curve(n), noise, draw)
    tails = [0.25 * draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 1 / 1.5)) for _at in range(n)]
    yield "noise with heavy tails", [loss * math.exp(tail) for loss, tail in zip(curve(n), tails, strict=True)]
    yield "steps down at epoch edges", noisy([2.0 * 0.6 ** (at // 50) for at in range(n)], 0.05, draw)
    rising = [2.0 * 0.7 ** (at // 60) * (1 + 0.15 * (at % 60) / 60) for at in range(n)]
    yield "rising within each epoch", noisy(rising, 0.05, draw)
    yield "curriculum to harder rows", noisy(curve(100) + [1.3 - 0.15 * math.exp(-at / 20) for at in range(200)], 0.08, draw)
    restarts = [0.75 - 0.05 * (at // 100) - 0.1 * (1 - math.cos(math.pi * (at % 100) / 100)) for at in range(n)]
    yield "cosine restarts", noisy(restarts, 0.04, draw)
    yield "around zero (GRPO)", [draw.gauss(0.01, 0.02) for _at in range(n)]
    yield "crossing zero (DPO)", [0.69 * math.exp(-at / 60) + draw.gauss(0, 0.05) for at in range(n)]
    yield "towards zero", [(0.0005 + 3 * math.exp(-at / 15)) * math.exp(draw.gauss(0, 0.7)) for at in range(n)]
    yield "12 logs in all", noisy(curve(12, tau=3), 0.05, draw)
    warmup = [2.0 + 0.25 * min(1, at / 15) - (0.8 * (1 - math.exp((15 - at) / 60)) if at > 15 else 0) for at in range(n)]
    yield "rising through a long warmup", noisy(warmup, 0.03, draw)
    yield "two kinds of batches", [(0.5 if draw.random() < 0.7 else 1.8) * math.exp(draw.gauss(0, 0.1)) for _at in range(n)]
    yield (
        "a tenth of the batches 5 x higher",
        [(0.4 if draw.random() < 0.9 else 2.0) * math.exp(draw.gauss(0, 0.1)) for _at in range(n)],
    )
    yield (
        "single spikes to 20 x",
        [loss * (draw.uniform(5, 20) if draw.random() < 0.02 else 1) for loss in noisy(curve(n), 0.1, draw)],
    )
    yield "unshuffled rows (a wave of a third)", noisy([0.8 * (1 + 0.35 * math.sin(at / 4)) for at in range(n)], 0.04, draw)
    yield "flat and calm", noisy([0.7] * n, 0.005, draw)


def correlated(count: int, rho: float, noise: float, draw: random.Random) -> list[float]:
    """Factors whose logarithms follow each other (AR(1)), of standard deviation `noise`."""
    at, found = 0.0, []
    for _log in range(count):
        at = rho * at + draw.gauss(0, noise * math.sqrt(1 - rho * rho))
        found.append(math.exp(at))
    return found


def quiet_too(seed: int) -> Iterator[tuple[str, list[float]]]:
    """Kinds of healthy losses that were thought of when the bounds stood; they moved once more for some of them."""
    draw, n = random.Random(seed), 400
    for rho, noise in ((0.8, 0.15), (0.6, 0.3)):
        factors = correlated(n, rho, noise, draw)
        yield f"correlated noise of {noise:g}", [one * other for one, other in zip(curve(n), factors, strict=True)]
    yield "noise that grows", [loss * math.exp(draw.gauss(0, 0.05 + 0.25 * at / n)) for at, loss in enumerate(curve(n))]
    yield "noise that shrinks", [loss * math.exp(draw.gauss(0, 0.4 - 0.35 * at / n)) for at, loss in enumerate(curve(n))]
    yield "averaged logs, calm", noisy(curve(n, 2.2, 1.1, 150), 0.008, draw)
    yield "three sources", [draw.choice((0.6, 0.9, 1.4)) * math.exp(draw.gauss(0, 0.08)) for _at in range(n)]
    yield "unshuffled, blocks of 30, +-20 %", noisy([1.0 + 0.2 * ((at // 30) % 3 - 1) for at in range(n)], 0.05, draw)
    yield "three long epochs, noise of 0.3", noisy([1.5 * 0.65 ** (at // 700) for at in range(2100)], 0.3, draw)
    yield "5,000 logs, noise of 0.5", noisy(curve(5000, 3, 0.7, 300), 0.5, draw)
    drift = [1.0 - 0.3 * math.exp(-at / 50) + 0.1 * at / 1000 for at in range(1000)]
    yield "rising by a tenth in 1,000 logs", noisy(drift, 0.06, draw)
    yield "single spikes of 3 x", [loss * (3 if draw.random() < 0.03 else 1) for loss in noisy(curve(n), 0.12, draw)]
    yield "down to 0.02", noisy(curve(n, 2, 0.02, 40), 0.3, draw)
    yield "uniform noise", [loss * draw.uniform(0.5, 1.5) for loss in curve(n)]
    yield "20 logs in all", noisy(curve(20, 2.5, 1.2, 6), 0.15, draw)
    yield "noise of 0.8", noisy(curve(n), 0.8, draw)


def true_too(seed: int) -> Iterator[tuple[str, list[float], list[float], bool]]:
    """What must be seen, thought of then."""
    draw = random.Random(5000 + seed)
    before = [one * other for one, other in zip(curve(200, 2.5, 0.5, 40), correlated(200, 0.7, 0.15, draw), strict=True)]
    again = [one * other for one, other in zip(curve(60, 2.5, 0.5, 40), correlated(60, 0.7, 0.15, draw), strict=True)]
    yield "starts over, correlated noise", before, again, True
    yield "other data after the join, three times as high", before, noisy([1.5] * 40, 0.1, draw), True
    long = noisy(curve(5000, 3, 0.6, 300), 0.4, draw)
    yield "starts over after 5,000 logs, noise of 0.4", long, noisy(curve(60, 3, 0.6, 300), 0.4, draw), True
    yield (
        "starts over, down again in 8 logs",
        before,
        noisy([0.5 + 2 * math.exp(-at / 4) for at in range(40)], 0.1, draw),
        True,
    )
    rising = noisy([0.8 * (1 + at / 30) for at in range(150)], 0.2, draw)
    yield "rises in a line, twofold in 30 logs, noise of 0.2", noisy(curve(200, 2.5, 0.8, 40), 0.2, draw), rising, False
    yield "explodes", before, [0.5 * 10 ** min(4, at / 3) for at in range(20)], False
    yield "swings that grow", before, [0.5 * (1 + (at * 0.4 if at % 2 else at * 0.1)) for at in range(60)], False
    yield "to infinity", before, [0.6, 5, 50, math.inf], False
    yield "to chance", before, noisy([10.4] * 20, 0.02, draw), False
    slow = noisy([0.8 * math.exp(at / 200) for at in range(600)], 0.06, draw)
    yield "rises e-fold in 200 logs", noisy(curve(400, 2.5, 0.8, 60), 0.06, draw), slow, False
    yield "30 logs, then three times as high", noisy(curve(30, 2.5, 1, 8), 0.1, draw), noisy([3.0] * 20, 0.1, draw), False


def true(seed: int) -> Iterator[tuple[str, list[float], list[float], bool]]:
    """(kind, before, after, whether a join lies between): what must be seen."""
    draw = random.Random(1000 + seed)
    for logs in (5, 8, 15, 60, 200):
        before = noisy(curve(logs, 4.0, 0.3, max(2, logs / 4)), 0.03, draw)
        yield f"starts over after {logs} logs", before, noisy(curve(40, 4.0, 0.3, 15), 0.03, draw), True
    for ratio in (1.15, 1.3, 2.0):
        before = noisy(curve(200, ratio, 1.0, 40), 0.015, draw)
        yield f"starts over, {ratio:g} x, calm", before, noisy(curve(60, ratio, 1.0, 40), 0.015, draw), True
    before = noisy(curve(150, 2.0, 0.5, 30), 0.3, draw)
    yield "starts over, 4 x, noise of 0.3", before, noisy(curve(60, 2.0, 0.5, 30), 0.3, draw), True
    before = noisy(curve(100, 3, 0.2, 20), 0.1, draw)
    yield "starts over, back after three logs", before, noisy([3, 1.5, 0.7] + [0.25] * 40, 0.1, draw), True
    before = noisy([2 * 0.5 ** (at // 40) for at in range(120)], 0.05, draw)
    yield "starts over at an epoch's edge", before, noisy([2.0] * 40, 0.05, draw), True
    before = noisy(curve(150), 0.08, draw)
    for logs in (15, 60, 120):
        yield (
            f"rises e-fold in {logs} logs",
            before,
            noisy([0.85 * math.exp(at / logs) for at in range(250)], 0.08, draw),
            False,
        )
    yield "leaps to a plateau", before, noisy([6.0] * 60, 0.05, draw), False
    yield "leaps to twice its level", before, noisy([1.8] * 80, 0.05, draw), False
    yield "climbs to a plateau", before, noisy([2.6 - 1.75 * math.exp(-at / 10) for at in range(80)], 0.05, draw), False
    yield "not a number", before, [math.nan] * 3, False
    yield "diverges after three logs", noisy([2.3, 2.2, 2.1], 0.03, draw), [2.5, 3.2, 4.8, 7, 8, 8.5, 9, 9, 9, 9], False
    yield "ruined by its first steps", [2.1], noisy([7.0, 9.0, 8.0, 8.0, 8.0], 0.05, draw), False


def right(kind_of_join: bool, jumps: Sequence[LossJumped]) -> bool:
    """Whether what had to be seen was."""
    wanted = ("reset_at_resume",) if kind_of_join else ("divergence", "non_finite")
    return any(jump.kind in wanted for jump in jumps)


def drawn() -> None:
    """The curves drawn here."""
    alarms: dict[str, int] = {}
    at_join: dict[str, int] = {}
    seen: dict[str, int] = {}
    for seed in range(SEEDS):
        for name, losses in (*quiet(seed), *quiet_too(20_000 + seed)):
            alarms[name] = alarms.get(name, 0) + bool(feed(losses)[0])
            cuts = [int(share * len(losses)) for share in (0.1, 0.3, 0.6, 0.9)]
            false = sum(any(jump.at_resume for jump in feed(losses[:cut], losses[cut:], True)[1]) for cut in cuts)
            at_join[name] = at_join.get(name, 0) + false
        for name, before, after, joined in (*true(seed), *true_too(20_000 + seed)):
            seen[name] = seen.get(name, 0) + right(joined, feed(before, after, joined)[1])
    print(f"\n| quiet curve ({SEEDS} of each) | runs with an alarm | alarms at {4 * SEEDS} joins |\n|---|---|---|")
    for name, count in alarms.items():
        print(f"| {name} | {count} | {at_join[name]} |")
    print(f"\n| what must be seen ({SEEDS} of each) | seen |\n|---|---|")
    for name, count in seen.items():
        print(f"| {name} | {count} |")


def histories() -> None:
    """The public ones."""
    if not HISTORIES.is_dir():
        print("\nThe public histories are not here; left out.")
        return
    logs = {
        path.stem: [row.loss for row in read_state(path).history if row.loss is not None]
        for path in sorted(HISTORIES.glob("[0-9]*.json"))
        if path.stem not in NOT_QUIET
    }
    alarms = [name for name in logs if jumps_in(read_state(HISTORIES / f"{name}.json").history)]
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    joined = [(name, int(share * len(losses))) for name, losses in logs.items() for share in shares if len(losses) > 20]
    false = [one for one in joined if feed(logs[one[0]][: one[1]], logs[one[0]][one[1] :], True)[1]]
    over = [(name, cut) for name, cut in joined if name in FALLING and cut >= 0.5 * len(logs[name])]
    found = [one for one in over if right(True, feed(logs[one[0]][: one[1]], logs[one[0]][:5], True)[1])]
    diverged = [jump.step for jump in jumps_in(read_state(HISTORIES / "008.json").history) if jump.kind == "divergence"]
    print("\n| public histories | |\n|---|---|")
    print(f"| quiet runs with an alarm | {len(alarms)} of {len(logs)} {' '.join(alarms)} |")
    print(f"| quiet runs continued rightly, with an alarm | {len(false)} of {len(joined)} {' '.join(map(str, false))} |")
    print(f"| falling runs that start over after half or more, seen within five logs | {len(found)} of {len(over)} |")
    print(f"| 008, which diverges at 430 and 900 | seen at {', '.join(map(str, diverged))} |")


def made_here() -> None:
    """Runs on a tiny model, continued in ways that must be seen or must not."""
    from tests.conftest import build_tiny_model, chats, teach, write_jsonl
    from tests.engine.runs import losses, train

    print("\n| runs made here | | what was told |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = teach(build_tiny_model(folder / "model"))
        data = write_jsonl(folder / "data.jsonl", chats(26))
        other = write_jsonl(folder / "other.jsonl", [{"text": f"{at} zq xj {at * 7919} " * 3} for at in range(26)])
        base: dict[str, Any] = {"batch_size": 4, "scheduler": "constant", "warmup": 0, "learning_rate": 5e-3}
        for seed in (1, 2):
            run = folder / f"run-{seed}"
            train(dataset=data, model=model, output=run, max_steps=40, seed=seed, **base)
            ways: dict[str, Callable[[Path], dict[str, Any]]] = {
                "continued rightly": lambda out: {},
                "continued with 6 times the rate": lambda out: {"learning_rate": 0.03, "max_grad_norm": 0},
                "continued with 50 times the rate": lambda out: {"learning_rate": 0.25, "max_grad_norm": 0},
                "continued with other rows, accepted": lambda out: {"dataset": other, "accept": "dataset"},
            }
            for name, way in ways.items():
                out = Path(shutil.copytree(run, folder / f"{seed} {name}"))
                _outcome, events = train(output=out, max_steps=70, **way(out))
                jumps = [f"{jump.kind} at {jump.step}" for jump in events if isinstance(jump, LossJumped)]
                print(f"| {name} at step 40 | seed {seed} | {', '.join(jumps) or 'nothing'} |")
            anew = [loss for _step, loss in losses(run)]
            _before, jumped = feed(anew, anew[:LOGS_AT_JOIN], resumed=True)
            seen = ", ".join(f"{jump.kind} at {jump.step}" for jump in jumped)
            print(f"| continued with the adapter dropped at step 40 | seed {seed} | {seen or 'nothing'} |")


def main() -> None:
    histories()
    drawn()
    made_here()
