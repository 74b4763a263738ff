"""A log that another checkpoint of the run carries too is not parsed again, and what is read is what parsing would give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints import state, trainer_log
from engine.checkpoints.checkpoint import Problem
from engine.checkpoints.files import Unsound, parse_json
from engine.checkpoints.state import parse_state, read_state

NAME = "trainer_state.json"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    trainer_log._known = ()
    yield
    trainer_log._known = ()


def rows(many: int, run: float = 0.0) -> list[dict[str, Any]]:
    return [{"epoch": n / 9, "loss": run + 1 / n, "step": n, **({"eval_loss": 0.5} if n == 40 else {})}
            for n in range(1, many + 1)]  # fmt: skip


def text(log: Any, step: int = 3, indent: int | None = 2, **more: Any) -> bytes:
    """A file as Trainer writes it."""
    return json.dumps(
        {"epoch": 1.0, "global_step": step, "log_history": log, "max_steps": 99, **more}, indent=indent
    ).encode()


def parsed(data: bytes) -> Any:
    try:
        return parse_state(parse_json(data, NAME))
    except Unsound as wrong:
        return wrong.problem


def read(folder: Path, data: bytes) -> Any:
    path = folder / NAME
    path.write_bytes(data)
    try:
        return read_state(path)
    except Unsound as wrong:
        return wrong.problem


@pytest.mark.parametrize("indent", [2, None])
def test_the_shorter_log_of_a_run_is_not_parsed(tmp_path: Path, indent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    read(tmp_path, text(rows(60), indent=indent))
    expected = {many: parsed(text(rows(many), step=many, indent=indent)) for many in (1, 39, 40, 59, 60)}
    monkeypatch.setattr(state, "log_of", lambda _rows: pytest.fail("parsed again"))
    for many, whole in expected.items():
        assert read(tmp_path, text(rows(many), step=many, indent=indent)) == whole


def test_two_runs_in_turn_are_both_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in (0.0, 1.0):
        read(tmp_path, text(rows(50, run)))
    monkeypatch.setattr(state, "log_of", lambda _rows: pytest.fail("parsed again"))
    for many, run in ((49, 0.0), (48, 1.0), (40, 0.0), (33, 1.0)):
        assert read(tmp_path, text(rows(many, run))) == parsed_without(monkeypatch, text(rows(many, run)))


def parsed_without(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(state, "log_of", trainer_log.log_of)
        return parsed(data)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_was_read_before_a_file_is_read_as_if_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    trainer_log._known = ()
    folder = tmp_path_factory.mktemp("log")
    row = st.fixed_dictionaries({"step": st.integers(1, 3)}, optional={"loss": st.sampled_from([0.5, 12, float("nan")]),
                                                                       "x": st.just({"log_history": [{"step": 1}]})})  # fmt: skip
    longest = data.draw(st.lists(row | st.sampled_from([1, 12, None, [], "}"]), min_size=32, max_size=36))
    indent = data.draw(st.sampled_from([2, None]))
    read(folder, text(longest, indent=indent))
    log = longest[: data.draw(st.integers(0, len(longest)))] + data.draw(st.lists(row, max_size=2))
    other = bytearray(text(log, indent=indent))
    for _turn in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(other) - 1))
        other[at : at + 1] = data.draw(st.sampled_from([b"", b"]", b"}", b" ", b"1", b",", b"\xc3\xa9"]))
    assert repr(read(folder, bytes(other))) == repr(parsed(bytes(other)))  # NaN is not equal to itself


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda log: {"a": {"log_history": log}, "log_history": []},
        lambda log: {"a": [{"log_history": log}], "log_history": log[:2]},
        lambda log: {"a": {"log_history": log}},
    ],
)
def test_a_log_deeper_inside_is_not_the_log(tmp_path: Path, wrapped: Any) -> None:
    read(tmp_path, text(rows(60)))
    hostile = json.dumps({"global_step": 3, "epoch": 1.0, **wrapped(rows(50))}, indent=2).encode()
    read(tmp_path, hostile)
    assert read(tmp_path, hostile) == parsed(hostile)


def test_what_is_nested_to_the_limit_is_refused_or_read_and_never_escapes(tmp_path: Path) -> None:
    for depth in range(900, 1000):  # one of them is the deepest that can be parsed from here
        nested = text(rows(40)).replace(b'"max_steps"', b'"x": %s, "max_steps"' % (b"[" * depth + b"]" * depth))
        trainer_log._known = ()
        found = read(tmp_path, nested)
        assert found.code == "not_json" if isinstance(found, Problem) else found.step == 3


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(text(rows(40)))
    monkeypatch.setattr(trainer_log, "MAX_KEPT_BYTES", 3 * size)
    monkeypatch.setattr(trainer_log, "MAX_ROWS", 50)
    for run in range(6):
        read(tmp_path, text(rows(40, float(run))))
    read(tmp_path, text(rows(60, 9.0)))
    assert 2 <= len(trainer_log._known) <= 3 and all(len(one.ends) == 40 for one in trainer_log._known)


def test_a_key_that_stands_twice_beside_a_known_log_is_refused(tmp_path: Path) -> None:
    read(tmp_path, text(rows(60)))
    twice = text(rows(50)).replace(b'"max_steps"', b'"epoch": 1.0, "max_steps"')
    assert read(tmp_path, twice).code == "not_json"


def test_another_log_of_the_same_length_is_its_own(tmp_path: Path) -> None:
    one, other = ([{"step": step, "loss": loss} for step in range(1, 41)] for loss in (0.25, 0.75))
    read(tmp_path, text(one))
    assert {row.loss for row in read(tmp_path, text(other)).history} == {0.75}


def test_a_log_with_words_beyond_ascii_is_read(tmp_path: Path) -> None:
    data = json.dumps(
        {"global_step": 40, "epoch": 1.0, "log_history": rows(40), "why": "größer"}, ensure_ascii=False
    ).encode()
    for _time in range(2):
        assert len(read(tmp_path, data).history) == 40


@pytest.mark.parametrize("step", [None, True, -1, 2.5, "2"])
def test_what_was_logged_at_no_step_is_no_row(step: Any) -> None:
    log = trainer_log.log_of([{"step": 1, "loss": 0.5}, {"step": step, "loss": 9.0, "own": 1}, 7, {"loss": 9.0}])
    assert [(row.step, row.loss) for row in log.rows] == [(1, 0.5)] and "own" in log.keys
