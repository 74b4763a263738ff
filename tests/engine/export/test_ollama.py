"""Ollama's client against a server on this machine that speaks its API and is no Ollama: a contract test.

What is checked is what is sent and what is made of the answers; that the real one takes it was not run here.

API: https://github.com/ollama/ollama/blob/main/docs/api.md (version, tags, blobs, create, chat, delete).
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import ConfigError, OutputError
from engine.export.gguf import Gguf
from engine.export.modelfile import Serving
from engine.export.ollama import Server, absence, model_name
from engine.folder import RUN_TOML
from tui.export import Told, Wanted, _ollama


class Speaking(ThreadingHTTPServer):
    """What the server holds, and how it misbehaves."""

    models: dict[str, dict[str, Any]]
    blobs: dict[str, bytes]
    fault: str = ""


class Handler(BaseHTTPRequestHandler):
    server: Speaking
    protocol_version = "HTTP/1.1"

    def log_message(self, *_words: Any) -> None:
        pass

    def answer(self, code: int, body: bytes = b"{}") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self) -> None:
        if self.path == "/api/version":
            return self.answer(200, b'{"version": "0.12.0"}')
        if self.server.fault == "lists no object":
            return self.answer(200, b"[]")
        return self.answer(200, json.dumps({"models": [{"model": name} for name in self.server.models]}).encode())

    def do_HEAD(self) -> None:
        self.answer(200 if self.path.removeprefix("/api/blobs/") in self.server.blobs else 404)

    def do_DELETE(self) -> None:
        self.server.models.pop(json.loads(self.body())["model"] + ":latest", None)
        self.answer(200)

    def do_POST(self) -> None:
        content = self.body()
        if self.path.startswith("/api/blobs/"):
            digest = self.path.removeprefix("/api/blobs/")
            if self.server.fault == "hangs up while uploading":
                return self.connection.shutdown(socket.SHUT_RDWR)
            right = digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
            if right:
                self.server.blobs[digest] = content
            return self.answer(201 if right else 400)
        asked = json.loads(content)
        if self.path == "/api/chat":
            said = {"message": {"role": "assistant", "content": f"to {asked['messages'][-1]['content']}"}, "done": True}
            return self.answer(200, json.dumps(said).encode())
        assert self.path == "/api/create"
        if self.server.fault == "refuses":
            return self.answer(400, b'{"error": "unknown type"}')
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.end_headers()
        lines: list[Any] = [{"status": "parsing GGUF"}]
        if self.server.fault == "fails":
            lines.append({"error": "no space left on device"})
        elif self.server.fault == "tells no object":
            lines.append("what?")
        elif self.server.fault != "stops":
            self.server.models[f"{asked['model']}:latest"] = asked
            lines += [{"status": "writing manifest"}, {"status": "success"}]
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
        self.close_connection = True
        return None


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Speaking]:
    server = Speaking(("127.0.0.1", 0), Handler)
    server.models, server.blobs = {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be asked for what runs here
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path: Path) -> Gguf:
    file = tmp_path / "mine-q8_0.gguf"
    file.write_bytes(b"GGUF" * 700_000)
    serving = Serving("{{ .Prompt }}", ("<|im_end|>",), "Be brief.", 512, 4)
    return Gguf(tmp_path, file, None, "q8_0", file.stat().st_size, 1, None, None, serving, None, "question 1", None)  # type: ignore[arg-type]


def test_the_file_its_template_and_parameters_arrive(ollama: Speaking, exported: Gguf) -> None:
    shares: list[float] = []
    with Server() as server:
        assert server.version() == "0.12.0"
        server.register(exported, "mine", lambda what, share: shares.append(share))
        assert server.has("mine") and server.ask("mine", "question 1") == "to question 1"
    made = ollama.models["mine:latest"]
    digest = f"sha256:{hashlib.sha256(exported.file.read_bytes()).hexdigest()}"
    assert made["files"] == {exported.file.name: digest} and digest in ollama.blobs
    assert (made["template"], made["system"]) == ("{{ .Prompt }}", "Be brief.")
    assert made["parameters"] == {"stop": ["<|im_end|>"], "num_ctx": 512}
    assert shares == sorted(shares) and len([share for share in shares if share < 1]) >= 2


def test_an_adapter_in_a_file_of_its_own_arrives_beside_its_base(ollama: Speaking, exported: Gguf, tmp_path: Path) -> None:
    adapter = tmp_path / "mine-lora.gguf"
    adapter.write_bytes(b"GGUF" * 1000)
    with Server() as server:
        server.register(replace(exported, adapter=adapter), "mine")
    digest = f"sha256:{hashlib.sha256(adapter.read_bytes()).hexdigest()}"
    assert ollama.models["mine:latest"]["adapters"] == {adapter.name: digest} and digest in ollama.blobs


def test_what_is_there_is_not_uploaded_again(ollama: Speaking, exported: Gguf) -> None:
    with Server() as server:
        server.register(exported, "mine")
        ollama.fault = "hangs up while uploading"
        server.register(exported, "other")
    assert set(ollama.models) == {"mine:latest", "other:latest"}


@pytest.mark.parametrize("fault", ["hangs up while uploading", "refuses", "fails", "tells no object", "stops"])
def test_a_server_that_stops_in_the_middle_has_nothing_by_that_name(ollama: Speaking, exported: Gguf, fault: str) -> None:
    ollama.fault = fault
    with Server() as server:
        with pytest.raises(OutputError, match="did not take the model"):
            server.register(exported, "mine")
        assert not server.has("mine")


def test_a_server_that_answers_otherwise_is_told_and_is_no_fault_of_ours(ollama: Speaking) -> None:
    ollama.fault = "lists no object"
    with Server() as server, pytest.raises(OutputError, match="does not answer as it should"):
        server.has("mine")


@pytest.mark.parametrize(
    ("there", "asked"), [("mine:v2", "mine:V2"), ("Mine:latest", "mine"), ("mine:latest", "library/mine")]
)
def test_a_name_that_ollama_takes_for_one_it_has_is_taken(ollama: Speaking, there: str, asked: str) -> None:
    ollama.models[there] = {}
    with Server() as server:
        assert server.has(asked)


def test_a_server_that_does_not_take_it_leaves_the_files_and_the_command_for_them(
    ollama: Speaking, exported: Gguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.fault = "stops"
    monkeypatch.setattr("tui.export._write_gguf", lambda *given: (Told(exported.path), exported))
    source: Any = SimpleNamespace(adapter=SimpleNamespace(path=exported.path / "run" / "final"))
    with pytest.raises(OutputError, match="did not take the model") as failed:
        _ollama(source, Wanted("ollama", exported.path, name="other"), lambda text: None, lambda: False)
    assert failed.value.exit_code == 5 and "ollama create other -f" in failed.value.fix
    assert exported.file.is_file() and "other:latest" not in ollama.models


def test_no_server_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with Server() as server:
        assert server.version() is None


@pytest.mark.parametrize(("folder", "name"), [("My Run", "my-run"), ("qwen3.5_x", "qwen3.5_x")])
def test_the_name_is_the_folders_in_letters_that_ollama_takes(folder: str, name: str) -> None:
    assert model_name(Path(folder), None) == name


def test_folders_that_only_other_letters_tell_apart_have_names_of_their_own(tmp_path: Path) -> None:
    recipes = tmp_path / "菜谱-小模型"
    recipes.mkdir()
    (recipes / RUN_TOML).write_text('run_id = "0a1b2c3d4e5f"\n')
    assert model_name(recipes, None) == "lora-tui-0a1b2c3d"
    unknown = [model_name(tmp_path / name, None) for name in ("诗-small", "歌-small")]
    assert unknown[0] != unknown[1] and all(re.fullmatch("small-[0-9a-f]{8}", name) for name in unknown)


def test_a_folder_with_more_letters_than_ollama_takes_has_a_name_of_its_own_that_it_takes() -> None:
    names = [model_name(Path("x" * 90 + end), None) for end in ("a", "b")]
    assert names[0] != names[1] and all(re.fullmatch("x{71}-[0-9a-f]{8}", name) for name in names)


def test_whether_a_server_answers_is_told_beforehand(
    ollama: Speaking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert absence() is None
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (absence() or "").startswith("No Ollama answers at 127.0.0.1:9.") and "ollama serve" not in (absence() or "")
    (tmp_path / "ollama").touch(0o755)
    assert "ollama serve starts it" in (absence() or "")


@pytest.mark.parametrize("asked", ["A", "a/b/c", "../a", "a b", "a.b/c", "a:-b", "a" * 81, ""])
def test_a_name_that_ollama_would_refuse_is_refused(asked: str) -> None:
    if asked:
        with pytest.raises(ConfigError):
            model_name(Path("x"), asked)
    else:
        assert model_name(Path("x"), asked) == "x"


@pytest.mark.parametrize("host", ["localhost:abc", "http://[::1", "http://a:99999999"])
def test_an_address_that_is_none_is_told_by_the_variables_name(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(ConfigError, match="OLLAMA_HOST="):
        Server()
