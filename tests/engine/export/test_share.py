"""Sharing on the hub, against a server on loopback that speaks the part of its API an upload needs: a contract test, not the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants

from engine.errors import ConfigError, OutputError
from engine.export.card import loss_picture, model_card
from engine.export.share import refuse_unshareable, share
from engine.export.source import ExportSource, find_source
from tests.engine.export.families import adapter_on, build
from tests.engine.runs import train

TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH"


class Hub(ThreadingHTTPServer):
    files: dict[str, bytes]
    private: bool | None
    refuses: bool = False


class Handler(BaseHTTPRequestHandler):
    """POST repos/create, GET models/NAME, POST preupload and commit: https://huggingface.co/docs/hub/api."""

    server: Hub

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/") and self.server.private is not None:
            self._answer({"id": "me/mine", "private": self.server.private, "sha": "0" * 40, "siblings": [], "tags": []})
        else:
            self._answer({"error": "no such thing"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.server.refuses:
            self._answer({"error": "you may not write here"}, 403)
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            known = self.server.private is not None
            if not known:
                self.server.private = wanted.get("private") or wanted.get("visibility") == "private"
            self._answer({"url": f"http://{self.headers['Host']}/me/mine", "id": "me/mine"}, 409 if known else 200)
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]})
        elif "/commit/" in self.path:
            for line in filter(None, body.splitlines()):
                one = json.loads(line)
                if one["key"] == "file":
                    self.server.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            self._answer(
                {"success": True, "commitOid": "1" * 40, "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/1"}
            )
        else:
            self._answer({"error": "no such thing"}, 404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.files, server.private = {}, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    class Here(HfApi):
        def __init__(self) -> None:
            super().__init__(endpoint=address)

    monkeypatch.setattr(huggingface_hub, "HfApi", Here)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(tmp_path: Path) -> ExportSource:
    base = build(tmp_path / "base", "llama")
    return find_source(adapter_on(base, tmp_path / "out"), model=str(base))


def test_the_export_arrives_byte_for_byte_and_private(hub: Hub, source: ExportSource, tmp_path: Path) -> None:
    shared = share(source, tmp_path / "to", "me/mine", merged=False, private=True)
    assert hub.private is True and shared.private and shared.url.endswith("/me/mine")
    assert hub.files == {path.name: path.read_bytes() for path in shared.path.iterdir()}
    assert not any(TOKEN.encode() in content for content in hub.files.values())


def test_what_is_there_and_public_gets_nothing_that_was_meant_to_be_private(
    hub: Hub, source: ExportSource, tmp_path: Path
) -> None:
    hub.private = False
    with pytest.raises(OutputError, match="public"):
        share(source, tmp_path / "to", "me/mine", merged=False, private=True)
    assert hub.files == {}
    assert not share(source, tmp_path / "to", "me/mine", merged=False, private=False).private and hub.files


def test_a_refusal_keeps_the_export_and_says_how_to_go_on_by_hand(hub: Hub, source: ExportSource, tmp_path: Path) -> None:
    hub.refuses = True
    with pytest.raises(OutputError) as refused:
        share(source, tmp_path / "to", "me/mine", merged=False, private=True)
    assert (tmp_path / "to" / "adapter" / "adapter_model.safetensors").is_file()
    assert "hf upload me/mine" in refused.value.fix and TOKEN not in str(refused.value)


def test_a_token_in_a_file_is_not_uploaded(hub: Hub, source: ExportSource, tmp_path: Path) -> None:
    config = source.adapter.path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": TOKEN}))
    with pytest.raises(OutputError, match="access token"):
        share(find_source(tmp_path / "out", model=str(source.base)), tmp_path / "to", "me/mine", merged=False, private=True)
    assert hub.private is None and hub.files == {}


@pytest.mark.parametrize("repo", [None, "", "mine", "me/mine/more", "me/--", "me/m ine"])
def test_a_name_that_is_none_is_refused_before_any_work(repo: str | None, hub: Hub) -> None:
    with pytest.raises(ConfigError):
        refuse_unshareable(repo)


def test_without_a_login_nothing_is_begun(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="nobody is logged in"):
        refuse_unshareable("me/mine")


def test_the_card_tells_of_the_data_the_loss_and_the_receipt(
    hub: Hub, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    flags = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "epochs": 2, "batch_size": 4}
    train(stop_at=5, **flags)
    train(output=tmp_path / "run")
    share(find_source(tmp_path / "run"), tmp_path / "to", "me/mine", merged=False, private=True)
    card = hub.files["README.md"].decode()
    assert "| rows | 26 |" in card and "| tokens trained on, an epoch |" in card
    assert "## Training loss" in card and "14 logged losses" in card
    assert "| checkpoint-5 | 17 | - | 0 |" in card
    assert str(tmp_path) not in card


def test_the_card_of_a_checkpoint_tells_of_its_own_way_and_that_of_the_end_how_far_it_came(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    flags = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "batch_size": 4}
    train(**flags, max_steps=3)
    train(**flags, epochs=1, learning_rate=0.003)
    middle, end = (model_card(find_source(tmp_path / "run", name), merged=False) for name in ("checkpoint-3", "final"))
    assert "3 logged losses" in middle and "## Continued" not in middle
    assert "| max_steps | 3 |" in middle and "| epochs |" not in middle and "| learning_rate | 0.003 |" not in middle
    assert "7 logged losses" in end and "| checkpoint-3 |" in end and "| step | 7 |" in end and "| training loss |" in end
    assert "| epochs | 1.0 |" in end and "max_steps" not in end and "| learning_rate | 0.003 |" in end


def test_a_picture_of_losses_goes_down_with_them() -> None:
    rows = loss_picture([8.0, 4.0, 2.0, 1.0])
    assert rows[0].startswith("       8 █") and rows[-2].startswith("       1 ") and rows[-2].endswith("▁")
    assert loss_picture([1.0, 1.0])[-1].endswith("2 logged losses")
