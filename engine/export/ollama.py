"""An exported file made known to a running Ollama, and asked one question there.

API: https://github.com/ollama/ollama/blob/main/docs/api.md. A model appears under its name only when Ollama has all of it: the file
is uploaded under its digest first, and `create` writes the name last. What a server leaves behind that stops in between is a
nameless blob, which it sweeps when it starts again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError, OutputError
from engine.export.gguf import Gguf
from engine.folder import run_id_of
from engine.i18n import _, sentences

LONGEST_PART = 80
"""Letters of a part of a name, as Ollama's types/model/name.go counts them."""
_MORE = LONGEST_PART - 1
NAME = re.compile(
    rf"([a-z0-9][a-z0-9_-]{{0,{_MORE}}}/)?[a-z0-9][a-z0-9._-]{{0,{_MORE}}}(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,{_MORE}}})?"
)
"""[namespace/]model[:tag]"""
CHUNK = 1 << 20
LONGEST_ANSWER = 64
"""Tokens of the one answer that is asked for."""
GLANCE, PATIENCE, SILENCE = 2.0, 10.0, 600.0
"""Seconds to see beforehand whether there is a server, to find one, and those that one may be silent while it works: it hashes
gigabytes and loads models in between."""

T = TypeVar("T")
Progress = Callable[[str, float], None]
"""(what, share done 0 to 1)"""


class Server:
    """A running Ollama, by its own client. Use as a context manager. Raises ConfigError where OLLAMA_HOST names no server."""

    def __init__(self) -> None:
        import httpx

        host = os.environ.get("OLLAMA_HOST", "")
        # 0.0.0.0 is where a server listens; a client cannot call there on every system.
        self.host = re.sub(r"\b0\.0\.0\.0\b", "127.0.0.1", host) or "127.0.0.1"
        near = re.search(r"(^|/|@)(127\.|localhost\b|\[?::1\b|:\d)", self.host) is not None
        # A proxy for the world outside must not be asked for what runs here.
        try:
            import ollama  # makes a client of its own at once

            self._client = ollama.Client(self.host, trust_env=not near, timeout=httpx.Timeout(SILENCE, connect=PATIENCE))
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigError(
                _("OLLAMA_HOST={host}: no address of a server").format(host=host), str(error), _("Such as: {examples}.").format(
                    examples="127.0.0.1:11434, https://name:443")) from None  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def version(self, patience: float = PATIENCE) -> str | None:
        """The server's version; None where nobody answers within `patience` seconds."""
        import httpx
        import ollama

        try:
            return str(self._client._request_raw("GET", "/api/version", timeout=patience).json()["version"])
        except (ConnectionError, httpx.HTTPError, httpx.InvalidURL, ollama.ResponseError, ValueError, KeyError, TypeError):
            return None

    def has(self, name: str) -> bool:
        """Whether a model of that name is there. Raises OutputError where the server stops answering."""
        with _answering():
            with _objects():
                there = self._client.list().models
            return any(_whole(one.model or "") == _whole(name) for one in there)

    def register(self, exported: Gguf, name: str, progress: Progress = lambda what, share: None) -> None:
        """Upload and create. Raises OutputError where the server refuses or stops; the name is not there then."""
        new = not self.has(name)
        served = exported.serving
        try:
            with _answering():
                digest = self._upload(exported.file, progress)
                adapter = exported.adapter
                adapters = {adapter.name: self._upload(adapter, progress)} if adapter is not None else None
                last = None
                steps = self._client.create(
                    model=name, files={exported.file.name: digest}, adapters=adapters, template=served.template, system=served.system,
                    parameters=served.parameters(), stream=True,
                )  # fmt: skip
                for step in _parts(steps):
                    last = step.status
                    progress(str(last), step.completed / step.total if step.total and step.completed else 1.0)
                if last != "success":
                    raise ConnectionError(_("It stopped answering at: {status}").format(status=last))
        except OutputError as error:
            if new:
                self._forget(name)
            raise OutputError(_("Ollama did not take the model"), error.detail, error.fix) from error

    def ask(self, name: str, asked: str) -> str:
        """The answer of `name`, with the likeliest tokens. Raises OutputError."""
        with _answering():
            options = {"temperature": 0, "seed": 42, "num_predict": LONGEST_ANSWER}
            with _objects():
                found: Any = self._client.chat(name, messages=[{"role": "user", "content": asked}], options=options)
            return str(found.message.content or "")

    def _upload(self, file: Path, progress: Progress) -> str:
        import ollama

        size = file.stat().st_size
        with open(file, "rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        try:
            self._client._request_raw("HEAD", f"/api/blobs/{digest}")
            return digest  # it has these bytes already
        except ollama.ResponseError as error:
            if error.status_code != 404:
                raise

        def chunks() -> Iterator[bytes]:
            sent = 0
            with open(file, "rb") as content:
                while chunk := content.read(CHUNK):
                    yield chunk
                    sent += len(chunk)
                    progress(_("uploading"), sent / size)

        self._client._request_raw("POST", f"/api/blobs/{digest}", content=chunks(), headers={"Content-Length": str(size)})
        return digest

    def _forget(self, name: str) -> None:
        try:
            with _answering():
                if self.has(name):
                    self._client.delete(name)
        except OutputError:
            pass  # it cannot be asked any more; a name is written last, so there is none


def absence() -> str | None:
    """That no server answers, and what that means for an export; None where one does. Waits, so it belongs in a thread. Raises as
    Server."""
    with Server() as server:
        if server.version(GLANCE) is not None:
            return None
        there = _("It is installed: ollama serve starts it.") if shutil.which("ollama") else ""
        told = _("No Ollama answers at {host}. The file is made all the same, with the command to type where one runs.")
        return sentences(told.format(host=server.host), there)


def model_name(source_folder: Path, asked: str | None) -> str:
    """The name under which Ollama is to know it: `asked`, else made from the run's folder in letters that it takes. Where those do
    not say all of the folder's name, or are more than it takes, the run's id is added, so that no other run's model has it too.
    Raises ConfigError."""
    folder = source_folder.absolute()
    name = asked or re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-._")
    if not asked and (not name or not folder.name.isascii() or len(name) > LONGEST_PART):
        own = run_id_of(folder) or hashlib.sha256(os.fsencode(folder)).hexdigest()
        own = "-" + re.sub("[^0-9a-z]", "", own.lower())[:8]
        name = (name or "lora-tui")[: LONGEST_PART - len(own)] + own
    if not NAME.fullmatch(name):
        raise ConfigError(
            _("{name} is no name for a model in Ollama").format(name=name),
            fix=_("Small letters, digits, dots and dashes, at most {most}, such as mine or me/mine:v2 (--name).").format(
                most=LONGEST_PART
            ),
        )
    return name


def _whole(name: str) -> str:
    """`name` as Ollama tells names apart: with the tag and without the namespace that it adds by itself, large letters as small."""
    whole = name.lower().removeprefix("library/")
    return whole if ":" in whole else f"{whole}:latest"


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Whatever a server does wrong becomes an OutputError."""
    import httpx
    import ollama

    try:
        yield
    except (ConnectionError, httpx.HTTPError, httpx.StreamError, ollama.ResponseError, ValueError, KeyError) as error:
        raise OutputError(
            _("Ollama does not answer as it should"), str(error)[:1000], _("See that it runs and that its disk has room.")
        ) from error


@contextlib.contextmanager
def _objects() -> Iterator[None]:
    """Around what the client does alone: it looks into an answer that is JSON, and no object, as if it were one. Raises ValueError."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _parts(answer: Iterator[T]) -> Iterator[T]:
    """An answer that comes in parts, each asked for as by `_objects`."""
    while True:
        with _objects():
            part = next(answer, None)
        if part is None:
            return
        yield part
