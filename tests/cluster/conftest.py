from __future__ import annotations

import pytest


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process computes with one thread: two of a machine do anyway, one alone would take all cores and round otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
