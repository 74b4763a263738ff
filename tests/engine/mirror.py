"""A mirror of the hub on loopback that really serves: the part of its API that fetching models and datasets needs.

https://huggingface.co/docs/hub/api: revision and tree of a repository, paths-info, and files under /resolve/.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "a" * 40


class Mirror(ThreadingHTTPServer):
    """`repos`: "models/NAME" or "datasets/NAME" -> the folder with its files."""

    repos: dict[str, Path]
    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(f"{self.command} {path}")
        for repo, folder in self.server.repos.items():
            name = repo.removeprefix("models/")
            for head in (f"{name}/resolve/{SHA}/", f"{name}/resolve/main/"):
                if path.startswith(head):
                    self._file(folder / path.removeprefix(head))
                    return
            if path == f"api/{repo}" or path.startswith(
                (f"api/{repo}/revision", f"api/{repo}/tree", f"api/{repo}/paths-info")
            ):
                self._answer(self._told(repo, folder, path))
                return
        self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _told(self, repo: str, folder: Path, path: str) -> Any:
        files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
        listed = [
            {"type": "file", "path": entry.relative_to(folder).as_posix(), "size": entry.stat().st_size, "oid": _etag(entry)}
            for entry in files
        ]
        if "/tree/" in path:
            return listed
        if "/paths-info/" in path:
            wanted = json.loads(self.body)["paths"] if self.body.startswith(b"{") else []
            return [one for one in listed if one["path"] in wanted]
        siblings = [{"rfilename": one["path"]} for one in listed]
        return {"id": repo.partition("/")[2], "sha": SHA, "private": False, "siblings": siblings, "tags": [], "disabled": False,
                "gated": False, "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}  # fmt: skip

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self._send(content[begin:], 206 if begin else 200, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": SHA,
                   "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"})  # fmt: skip

    def _answer(self, content: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), code, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, body: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def mirror(**repos: Path) -> Iterator[Mirror]:
    """One that has `models__org__name=folder` or `datasets__org__name=folder`."""
    server = Mirror(("127.0.0.1", 0), Handler)
    server.repos, server.asked = {name.replace("__", "/"): folder for name, folder in repos.items()}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
