"""A short pass of `make fuzz`: mutations chosen by hypothesis, which shrinks what it finds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz import Run, Target, mutate, targets, try_one

NAMES = ["trainer_state.json", "manifest.json", "adapter_config.json", "safetensors", "torch zip", "names", "run.toml",
         "events.jsonl", "manifest.json, used", "trainer_state.json, used", "events.jsonl, shown", "dataset.jsonl",
         "dataset.json", "dataset.csv"]  # fmt: skip


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    found = {target.name: target for target in targets(tmp_path_factory.mktemp("seeds"))}
    assert list(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_no_mutation_of_a_real_file_crashes_or_hangs_its_reader(name: str, seed: int, readers: dict[str, Target]) -> None:
    run = Run()
    try_one(readers[name], mutate(random.Random(seed), readers[name].seeds), run)
    assert not run.findings


def test_a_reader_that_crashes_would_be_found(tmp_path: Path) -> None:
    def crashes(room: Path, data: bytes) -> None:
        raise KeyError("x")

    run = Run()
    try_one(Target("broken", (b"x",), crashes, (ValueError,)), b"x", run, quiet=True)
    assert run.findings == 1
