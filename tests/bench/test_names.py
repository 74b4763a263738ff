"""The measurements name parts of the program that are there; what they measure is not looked at here."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.bench.__main__ import NAMES
from tests.bench.overhead import PARTS, place


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_can_be_begun(name: str) -> None:
    assert callable(import_module(f"tests.bench.{name}").main)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_timed_is_there(part: str) -> None:
    assert callable(place(part)[2])
