"""A hub that is not there must not be waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub import constants

from engine.data.read import Reading, read_raw
from engine.errors import DatasetError, ModelError
from engine.hub import HOLDS, hub
from engine.models.folder import model_folder

PATIENCE = 1.5
"""Seconds that are waited here; more would be waited for nothing."""


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of the tests, which are offline."""
    monkeypatch.setattr("engine.hub.PATIENCE", PATIENCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("engine.hub._answers", {})


@pytest.fixture
def swallowing(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of something that accepts connections and never says a word, as the hub's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", address)
        yield address


def test_a_model_is_not_waited_for_where_the_hub_swallows_requests(swallowing: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ModelError, match="the hub cannot be reached") as failed:
        model_folder("some/model")
    assert time.monotonic() - begin < PATIENCE + 5
    assert swallowing in failed.value.detail


def test_a_dataset_is_not_waited_for_where_the_hub_swallows_requests(swallowing: str) -> None:
    begin = time.monotonic()
    with pytest.raises(DatasetError, match="cannot be loaded from the hub") as failed:
        read_raw("some/dataset", Reading())
    assert time.monotonic() - begin < PATIENCE + 10
    assert swallowing in failed.value.detail


def test_the_libraries_are_offline_within_and_as_before_afterwards(swallowing: str) -> None:
    with hub() as silent:
        assert silent is not None and constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_two_threads_at_once_leave_the_libraries_as_they_were(swallowing: str) -> None:
    """The first one in is not the last one out: whoever comes meanwhile must neither take what the first one set for what was there
    before, nor for the user's own word."""
    told: dict[str, str | None] = {}
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with hub() as silent:
            told["first"] = silent
            first_is_in.set()
            assert second_is_in.wait(30)

    def second() -> None:
        assert first_is_in.wait(30)
        with hub() as silent:
            second_is_in.set()
            threads[0].join(30)
            told["second"], told["offline"] = silent, str(constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE)

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert told["second"] == told["first"] and swallowing in str(told["first"])
    assert told["offline"] == "True" and (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_many_who_ask_at_once_wait_once(swallowing: str) -> None:
    def ask() -> None:
        with hub():
            time.sleep(0.05)

    begin = time.monotonic()
    threads = [threading.Thread(target=ask) for _number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - begin < 2 * PATIENCE
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_an_answer_is_not_believed_for_ever(swallowing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("engine.hub._why_silent", lambda address: asked.append(address))
    for later in (0.0, HOLDS / 2, HOLDS + 1):
        monkeypatch.setattr("engine.hub.time", SimpleNamespace(monotonic=lambda later=later: 1000.0 + later))
        with hub():
            pass
    assert asked == [swallowing, swallowing]


def test_a_mirror_that_answers_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(401)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with hub() as silent:
            assert silent is None and not constants.is_offline_mode()
        server.shutdown()
