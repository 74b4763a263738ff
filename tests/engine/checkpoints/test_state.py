"""trainer_state.json: step and epoch are exactly what Trainer writes, or the state is not used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints.files import MAX_JSON_BYTES, Unsound, parse_json
from engine.checkpoints.state import last_loss, parse_state, read_state

STATE = {"global_step": 3, "epoch": 1.5, "log_history": [{"step": 1, "loss": 0.5}], "max_steps": 6, "num_train_epochs": 3}


def code_of(data: bytes) -> str | None:
    try:
        parse_state(parse_json(data, "trainer_state.json"))
    except Unsound as wrong:
        return wrong.problem.code
    return None


@pytest.mark.parametrize(
    "step", ["-1", "true", '"3"', "3.0", "1e400", "NaN", "null", "[3]", "9" * 5000, "9" * 40], ids=lambda step: step[:12]
)
def test_a_step_that_is_no_whole_number_is_refused(step: str) -> None:
    assert code_of(b'{"global_step": %s, "epoch": 1.0}' % step.encode()) in ("step_invalid", "not_json")


@pytest.mark.parametrize("epoch", ["-1.0", "true", '"3"', "1e400", "NaN", "-Infinity", "{}"])
def test_an_epoch_that_is_no_number_is_refused(epoch: str) -> None:
    assert code_of(b'{"global_step": 1, "epoch": %s}' % epoch.encode()) == "epoch_invalid"


@pytest.mark.parametrize("epoch", [None, 0.0, 1e308, 15.5, 2.5])
def test_where_no_run_can_stand_is_doubted_and_not_ranked(epoch: float | None) -> None:
    state = parse_state({"global_step": 15, "epoch": epoch, "max_steps": 20, "num_train_epochs": 2})
    assert state.epoch is None and state.doubt is not None and len(state.doubt.message) < 200 and state.doubt.fix
    assert parse_state({"global_step": 0, "epoch": 1.5}).doubt is not None


@pytest.mark.parametrize(
    "state",
    [
        {"global_step": 1000, "epoch": 1000.0, "max_steps": 1000, "num_train_epochs": 1000},
        {"global_step": 15000, "epoch": 18.03, "max_steps": 15000, "num_train_epochs": 2**63 - 1},
        {"global_step": 13, "epoch": 1.3, "max_steps": 13, "num_train_epochs": 2},
        {"global_step": 21, "epoch": 3.01, "max_steps": 21, "num_train_epochs": 3},
        {"global_step": 40, "epoch": 4.0, "max_steps": 20, "num_train_epochs": 2},
        {"global_step": 0, "epoch": 0, "max_steps": 20, "num_train_epochs": 2},
    ],
    ids=["a step an epoch", "endless", "limited", "rounded", "extended", "begun"],
)
def test_where_a_run_can_stand_is_not_doubted(state: dict[str, float]) -> None:
    assert parse_state(state).doubt is None


def test_no_real_history_is_doubted(histories: Path) -> None:
    states = [read_state(path) for path in [*histories.glob("0[0-8]*.json"), *histories.rglob("checkpoint-*/*_state.json")]]
    assert len(states) > 20 and {state.step for state in states if state.doubt is not None} == {0}, "021 had not begun"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b'{"a": 1, "a": 2}', b"{} {}", b"[]", b"3",
        b'{"global_step": 1, "epoch": 1, "log_history": [{"step": 1, "step": 2}]}',
    ],
    ids=["deep lists", "deep objects", "bom", "utf-16", "twice", "two", "list", "number", "twice inside"],
)  # fmt: skip
def test_what_is_not_plain_json_is_refused(data: bytes) -> None:
    assert code_of(data) == "not_json"


def test_a_state_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    with open(path, "wb") as file:
        file.truncate(max(100_000_000, MAX_JSON_BYTES + 1))
    with pytest.raises(Unsound) as wrong:
        read_state(path)
    assert wrong.value.problem.code == "too_large"


@pytest.mark.parametrize("epochs", [9223372036854775807, 0, -1, "3", None, float("nan")])
def test_a_number_of_epochs_that_cannot_be_is_unknown(epochs: object) -> None:
    assert parse_state({**STATE, "num_train_epochs": epochs}).total_epochs is None


def test_every_truncation_is_refused_or_whole() -> None:
    data = json.dumps(STATE).encode()
    assert all(code_of(data[:cut]) in ("not_json", "empty") for cut in range(len(data)))


@settings(max_examples=60, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["global_step", "epoch", "log_history", "step", "loss", "max_steps"]) | st.text(), inner),
))  # fmt: skip
def test_no_json_value_crashes_it(value: object) -> None:
    code_of(json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_no_bytes_crash_it(data: bytes) -> None:
    code_of(data)


def test_the_real_histories_are_read(histories: Path) -> None:
    for path in sorted(histories.glob("0*.json")):
        if path.name == "099.json":
            with pytest.raises(Unsound):
                read_state(path)
        else:
            state = read_state(path)
            assert (state.step, bool(state.history)) == (json.loads(path.read_text())["global_step"], True)


def test_a_loss_logged_after_the_step_is_not_its_loss(histories: Path) -> None:
    state = read_state(histories / "021.json")
    assert state.step == 0 and last_loss(state.history, state.step) is None
