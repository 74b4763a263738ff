"""The loss monitor: quiet on healthy runs, loud where a run starts over or falls apart."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints.checkpoint import LogRow
from engine.checkpoints.scan import scan
from engine.checkpoints.state import read_state
from engine.course.jumps import jumps_in, monitor_of
from engine.course.monitor import WINDOW, LossMonitor
from engine.events import LossJumped
from tests.engine.checkpoints.folders import write_checkpoint

HISTORIES = Path(__file__).parents[3].parent / "shared" / "histories"
QUIET = ["002", "005", "010", "016", "020", "021", "023", "031", "040", "042", "051", "056", "061", "065", "067", "077"]
FALLING = ["002", "005", "020", "023", "051", "061", "065"]
"""Runs whose loss had clearly fallen."""


def losses_of(name: str) -> list[float]:
    if not HISTORIES.is_dir():
        pytest.skip("the real histories are not here")
    return [row.loss for row in read_state(HISTORIES / f"{name}.json").history if row.loss is not None]


def feed(monitor: LossMonitor, losses: list[float], resumed: bool = False, start: int = 1) -> list[LossJumped]:
    seen = (monitor.observe(start + i, loss, resumed and i < 5) for i, loss in enumerate(losses))
    return [jump for jump in seen if jump is not None]


def healthy(count: int, low: float = 0.17, noise: float = 0.1, seed: int = 0) -> list[float]:
    """A loss that falls from 4.4 to `low`."""
    draw = random.Random(seed)
    return [(low + (4.4 - low) * math.exp(-step / 40)) * math.exp(draw.gauss(0, noise)) for step in range(count)]


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_real_run_raises_no_alarm(name: str) -> None:
    if not HISTORIES.is_dir():
        pytest.skip("the real histories are not here")
    assert jumps_in(read_state(HISTORIES / f"{name}.json").history) == []


def test_a_real_divergence_is_seen_both_times() -> None:
    if not HISTORIES.is_dir():
        pytest.skip("the real histories are not here")
    jumps = jumps_in(read_state(HISTORIES / "008.json").history)
    assert all(430 <= jump.step <= 500 or 930 <= jump.step <= 1060 for jump in jumps)
    assert {jump.step <= 500 for jump in jumps if jump.kind == "divergence"} == {True, False}
    assert not any(jump.at_resume for jump in jumps)


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_real_run_that_is_continued_rightly_raises_no_alarm(name: str, share: float) -> None:
    losses = losses_of(name)
    cut = int(share * len(losses))
    monitor = LossMonitor()
    feed(monitor, losses[:cut])
    assert feed(monitor, losses[cut:], resumed=True) == []


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_real_run_that_starts_over_is_seen_within_five_logs(name: str, share: float) -> None:
    losses = losses_of(name)
    monitor = LossMonitor()
    feed(monitor, losses[: int(share * len(losses))])
    jumps = feed(monitor, losses[:5], resumed=True)
    assert [jump.kind for jump in jumps] == ["reset_at_resume"] and jumps[0].at_resume


def test_a_loss_that_starts_over_at_the_join_is_seen_at_once() -> None:
    monitor = LossMonitor()
    assert feed(monitor, healthy(300)) == []
    (jump,) = feed(monitor, [4.44, 4.3, 4.2, 4.1], resumed=True, start=301)
    assert (jump.kind, jump.step, jump.after) == ("reset_at_resume", 301, 4.44)
    assert jump.before == pytest.approx(0.17, rel=0.3) and jump.ratio is not None and jump.ratio > 20


def test_a_moderate_reset_near_the_start_level_is_seen() -> None:
    monitor = LossMonitor()
    feed(monitor, [2.2 - 0.6 * (1 - math.exp(-step / 20)) for step in range(100)])
    assert [jump.kind for jump in feed(monitor, [2.1, 2.12, 2.09], resumed=True)] == ["reset_at_resume"]


def test_a_single_spike_is_no_alarm() -> None:
    losses = healthy(200)
    losses[120] = 3.5
    losses[160] = 9.0
    assert feed(LossMonitor(), losses) == []


def test_a_rate_far_too_high_is_seen_early() -> None:
    jumps = feed(LossMonitor(), [2.3, 2.25, 2.2, 2.4, 3.5, 6.0, 9.0, 10.0, 10.5, 10.4, 10.6])
    assert jumps and jumps[0].kind in ("divergence", "spike")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_told_once(value: float) -> None:
    jumps = feed(LossMonitor(), [1.0, value, value, value])
    assert [(jump.kind, jump.step, jump.after, jump.ratio) for jump in jumps] == [("non_finite", 2, None, None)]


def test_losses_around_zero_raise_no_alarm() -> None:
    draw = random.Random(1)
    assert feed(LossMonitor(), [draw.gauss(0, 0.01) for _step in range(500)] + [5.0] * 5) == []
    assert feed(LossMonitor(), [0.0] * 100) == []


def test_it_goes_on_from_its_state_as_if_it_had_not_been_interrupted() -> None:
    losses = [*healthy(120), 3.0, 4.0, 5.0, 6.0, *healthy(60, seed=3)[40:]]
    for cut in range(0, len(losses), 7):
        one, other = LossMonitor(), LossMonitor()
        feed(one, losses[:cut])
        other.restore(json.loads(json.dumps(one.state(), allow_nan=False)))
        assert feed(one, losses[cut:]) == feed(other, losses[cut:])


def test_its_state_is_bounded_and_fits_the_manifest() -> None:
    monitor = LossMonitor()
    feed(monitor, healthy(5000))
    for value in monitor.state().values():
        assert isinstance(value, float | int | str | bool | None) or (
            len(value) <= WINDOW and all(type(x) is float for x in value)
        )


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(), st.booleans())))
def test_no_losses_crash_it(observed: list[tuple[float, bool]]) -> None:
    monitor = LossMonitor()
    for step, (loss, at_resume) in enumerate(observed):
        jump = monitor.observe(step, loss, at_resume)
        assert jump is None or jump.before is None or math.isfinite(jump.before)
    json.dumps(monitor.state(), allow_nan=False)


def test_noise_of_many_kinds_raises_next_to_no_alarms() -> None:
    alarms = sum(
        len(feed(LossMonitor(), healthy(600, noise=noise, seed=seed))) for noise in (0.05, 0.3, 0.6) for seed in range(10)
    )
    assert alarms == 0


def rows(losses: list[float | None], epochs: list[float], rates: list[float]) -> list[LogRow]:
    return [LogRow(i + 1, epochs[i], loss, None, rates[i]) for i, loss in enumerate(losses)]


def test_a_join_is_inferred_from_an_epoch_that_goes_back() -> None:
    losses = [*healthy(100), 4.4, 4.3, 4.2]
    found = jumps_in(rows([*losses], [i / 50 for i in range(100)] + [0.1, 0.12, 0.14], [1e-4] * 103))
    assert [(jump.kind, jump.at_resume) for jump in found] == [("reset_at_resume", True)]


def test_a_join_is_inferred_from_a_rate_that_leaps_up() -> None:
    losses = [*healthy(100), 4.4, 4.3, 4.2]
    rates = [1e-4 * (1 - i / 100) for i in range(100)] + [1e-4, 9.9e-5, 9.8e-5]
    assert jumps_in(rows([*losses], [i / 50 for i in range(103)], rates))[0].at_resume


def test_a_warmup_is_no_join() -> None:
    rates = [1e-4 * min(1, (i + 1) / 20) for i in range(60)]
    assert jumps_in(rows([*healthy(60)], [i / 50 for i in range(60)], rates)) == []


def test_a_logged_step_without_a_number_is_told() -> None:
    found = jumps_in(rows([2.0, 1.9, 1.8, None], [0.1, 0.2, 0.3, 0.4], [1e-4] * 4))
    assert [jump.kind for jump in found] == ["non_finite"]


@pytest.mark.parametrize("change", [{"start": None}, {"logs": [math.inf]}, {"start": [-1.0]}, {"seen": -1}, {"back": "x"}])
def test_a_state_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"monitor|invalid"):
        LossMonitor().restore({**LossMonitor().state(), **change})


@pytest.mark.parametrize("seed", [20_001, 20_004, 20_010])
def test_a_rise_in_a_line_is_seen_though_level_and_window_rise_with_it(seed: int) -> None:
    from tests.bench.monitor import feed, true_too

    before, after = next((one[1], one[2]) for one in true_too(seed) if one[0].startswith("rises in a line"))
    _quiet, jumps = feed(before, after)
    assert jumps and jumps[0].kind == "divergence" and jumps[0].step - len(before) < 100
    assert jumps[0].good_until is not None and jumps[0].good_until <= len(before) + 32


def test_a_run_that_fell_steeply_and_diverges_is_not_taken_for_a_noisy_one() -> None:
    fallen = [9.5, 9.1, 8.2, 7.4, 6.9, 6.1, 5.5, 5.2, 4.9, 4.6, 4.4, 4.2, 3.9, 3.5, 3.6, 3.1, 2.9, 2.4, 2.6, 2.0, 1.8, 1.9, 1.3, 1.6,
              1.1, 1.4, 0.9, 1.2, 0.7, 1.3, 0.61, 1.44, 0.84, 1.98, 0.78, 0.67, 0.61, 1.57, 0.9, 1.06]  # fmt: skip
    monitor = LossMonitor()
    rising = [0.65, 1.25, 2.09, 3.15, 3.18, 3.07, 5.71, 4.63, 5.19, 4.0, 4.07]
    jumps = [jump for step, loss in enumerate([*fallen, *rising], 1) if (jump := monitor.observe(step, loss, False))]
    assert [jump.kind for jump in jumps][-1] == "divergence" and 43 <= jumps[0].step <= 48


def test_a_state_from_before_there_were_blocks_is_taken_up() -> None:
    monitor = LossMonitor()
    for step in range(1, 60):
        monitor.observe(step, 2.0, False)
    older = {key: value for key, value in monitor.state().items() if not key.startswith("block")}
    other = LossMonitor()
    other.restore(older)
    assert other.observe(60, 2.0, False) is None


@given(
    st.lists(st.floats(-0.3, 0.3), min_size=60, max_size=700),
    st.floats(0.0, 0.02),
    st.integers(0, 300),
    st.floats(0.02, 0.3),
)
def test_an_alarm_never_goes_back_further_than_was_said_before(
    noise: list[float], slope: float, fall: int, scale: float
) -> None:
    """What is kept for going back is chosen by `good_for_sure` before anybody knows of the rise."""
    monitor, known = LossMonitor(), None
    for step, one in enumerate(noise, 1):
        log = max(0, fall - step) * 0.01 + max(0, step - fall) * slope + scale * one
        jump = monitor.observe(step, math.exp(log), False)
        if jump is not None:
            assert jump.good_until is None or known is None or jump.good_until >= known
            return
        assert known is None or (monitor.good_for_sure or 0) >= known
        known = monitor.good_for_sure


def test_what_a_slow_rise_goes_back_to_is_kept_from_the_beginning_of_the_rise() -> None:
    from engine.checkpoints.retain import Kept, good, surplus

    monitor, kept = LossMonitor(), []
    for step in range(1, 2000):
        log = max(0, 200 - step) * 0.01 + max(0, step - 400) * 0.003
        jump = monitor.observe(step, math.exp(log + 0.02 * math.sin(step * 7.0)), False)
        if jump is not None:
            assert jump.kind == "divergence" and (jump.good_until or 0) < step - 100
            assert good(kept, jump.good_until) is not None
            return
        if step % 25 == 0:
            kept.append(Kept(f"checkpoint-{step}", step, None))
            gone = surplus(kept, 2, (monitor.good_until, monitor.good_for_sure))
            kept = [one for one in kept if one.name not in gone]
            assert len(kept) <= 4
    raise AssertionError("the rise was not noticed")


def test_what_was_good_before_a_loss_that_stays_high_is_known_until_it_comes_back() -> None:
    """After a while the high loss is the level it is judged by; the checkpoint from before is the better model all the same."""
    monitor, jumps = LossMonitor(), []
    told: dict[int, int | None] = {}
    for step in range(1, 700):
        loss = 0.2 if step <= 200 or step > 450 else 6.0
        jump = monitor.observe(step, loss * math.exp(0.02 * math.sin(step * 7.0)), False)
        jumps += [jump] if jump is not None else []
        told[step] = monitor.good_before
        if step == 400:
            again = LossMonitor()
            again.restore(monitor.state())
            assert again.state() == monitor.state() and monitor.off
    assert [jump.kind for jump in jumps] == ["spike", "divergence"]
    assert told[190] is None and told[210] == told[440] == jumps[1].good_until == 200
    assert told[699] is None and not monitor.off


def test_a_loss_that_stays_where_an_alarm_found_it_has_not_come_back_however_noisy_the_run_was() -> None:
    """Known by heart, rows have losses from 0.0002 to 0.3: then even a loss of 8 lies within a few times the noise."""
    noisy = random.Random(3)
    monitor, jumps = LossMonitor(), []
    for step in range(1, 201):
        quiet = monitor.observe(step, 5.0 if step < 6 else math.exp(noisy.gauss(-4.7, 2.0)), False) is None
        assert quiet
    good = monitor.good_until
    for step in range(201, 260):
        jump = monitor.observe(step, math.exp(noisy.gauss(2.1, 0.2)), step <= 208)
        jumps += [jump.kind] if jump is not None else []
    assert jumps == ["reset_at_resume"]
    assert monitor.good_before == good and monitor.off


def test_a_rise_like_those_that_the_run_came_back_from_is_no_alarm() -> None:
    """Losses that come in high and low stretches: correlated noise moves little from log to log and far in the end."""
    from tests.bench.monitor import correlated, curve

    alarms = 0
    for seed in range(10):
        factors = correlated(1000, 0.9, 0.3, random.Random(seed))
        alarms += len(feed(LossMonitor(), [one * other for one, other in zip(curve(1000), factors, strict=True)]))
    assert alarms <= 30


def test_high_batches_that_come_together_are_told_once_and_not_each_time() -> None:
    draw = random.Random(4)
    losses = [0.3 * math.exp(draw.gauss(0, 0.1)) * (3 if step > 150 and step % 60 < 3 else 1) for step in range(900)]
    assert len(feed(LossMonitor(), losses)) <= 2


def test_what_is_higher_than_all_that_the_run_came_back_from_is_told_as_soon_as_ever() -> None:
    draw = random.Random(4)
    losses = [0.3 * math.exp(draw.gauss(0, 0.1)) * (3 if step > 150 and step % 60 < 3 else 1) for step in range(600)]
    monitor = LossMonitor()
    feed(monitor, losses)
    assert next(jump.step for jump in feed(monitor, [4.4] * 8, start=601) if jump.kind == "divergence") <= 603


def test_a_state_from_before_there_were_climbs_is_taken_up() -> None:
    monitor = LossMonitor()
    feed(monitor, healthy(200))
    older = {key: value for key, value in monitor.state().items() if "climb" not in key}
    other = LossMonitor()
    other.restore(older)
    assert feed(other, [0.17] * 50, start=201) == []


def test_where_the_first_loss_is_not_a_number_there_is_none_that_it_came_from() -> None:
    (jump,) = feed(LossMonitor(), [math.nan, math.nan])
    assert (jump.kind, jump.before, jump.ratio) == ("non_finite", None, None)


def test_a_loss_of_exactly_zero_is_not_known_to_be_good() -> None:
    monitor = LossMonitor()
    feed(monitor, [2.0, 1.9, 0.0, 0.0])
    assert monitor.good_until == 2


def test_a_run_known_by_its_log_alone_is_at_no_join_however_late_one_was(tmp_path: Path) -> None:
    losses, joined = [*healthy(100), 0.17, 0.18], [0.1, 0.12]
    epochs = [*(step / 50 for step in range(100)), *joined]
    write_checkpoint(tmp_path / "checkpoint-102", 102, 0.12, losses)
    checkpoint = scan(tmp_path).checkpoints[0]
    monitor = monitor_of(replace(checkpoint, history=tuple(rows([*losses], epochs, [1e-4] * 102))))
    again = LossMonitor()
    again.restore(monitor.state())
    assert vars(monitor) == vars(again) and monitor.good_until is not None


def test_how_high_the_loss_climbed_on_other_rows_is_no_measure() -> None:
    """A run that goes on over rows that a person has changed learns all of them anew, its climbs too."""
    monitor = LossMonitor()
    for step, loss in enumerate(healthy(200), 1):
        monitor.observe(step, loss * (4 if step % 40 in (1, 2, 3) else 1), False)
    known = monitor.state()["climbs"]
    assert isinstance(known, list) and max(known) > 0
    monitor.new_rows()
    assert monitor.state()["climbs"] == []


def test_everything_that_a_state_holds_is_taken_up() -> None:
    state = {
        "start": [2.5, 2.0], "logs": [0.5, 0.25], "steps": [3.0, 4.0], "block": [0.75], "blocks": [0.5], "block_ends": [2.0],
        "climb": 0.125, "level_climb": 0.0625, "climbs": [0.25], "level_climbs": [0.375], "good_until": 9, "good_before": 7,
        "left_from": -0.5, "path": -0.25, "height": 1.5, "seen": 11, "not_positive": 12, "since_zero": 13, "high": 14, "worse": 15,
        "episode": 16, "back": 17, "spike": True, "not_finite": True,
    }  # fmt: skip
    assert state.keys() == LossMonitor().state().keys()
    monitor = LossMonitor()
    monitor.restore(state)
    assert monitor.state() == state


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [(0.95e-4, 1e-4, False), (0.4e-4, 0.7e-4, False), (0.4e-4, 0.9e-4, True), (1e-6, 4e-6, False), (1e-6, 6e-6, True)],
)
def test_a_rate_that_hardly_rises_is_no_join(before: float, after: float, joined: bool) -> None:
    losses = [*healthy(100), 4.4, 4.3, 4.2]
    found = jumps_in(rows([*losses], [i / 50 for i in range(103)], [1e-4] * 99 + [before] + [after] * 3))
    assert [jump.at_resume for jump in found] == [joined]


def test_where_neither_epoch_nor_rate_is_logged_there_is_no_join() -> None:
    losses = [*healthy(100), 4.4, 4.3, 4.2]
    found = jumps_in([LogRow(step, None, loss, None, None) for step, loss in enumerate(losses, 1)])
    assert [jump.at_resume for jump in found] == [False]


def test_a_rate_that_rises_without_having_fallen_is_no_join() -> None:
    """As at the end of a warmup."""
    losses = [*healthy(100), 4.4, 4.3, 4.2]
    found = jumps_in(rows([*losses], [i / 50 for i in range(103)], [1e-6] * 100 + [1e-4] * 3))
    assert [jump.at_resume for jump in found] == [False]
