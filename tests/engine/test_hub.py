"""A hub that is not there must not be waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from engine.data.read import Reading, read_raw
from engine.errors import DatasetError, ModelError
from engine.hub import PATIENCE, hub
from engine.training.model import model_folder


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of the tests, which are offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)


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
