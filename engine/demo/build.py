"""The demo's model and dataset in the platform's cache: there, whole, or built anew.

Nothing is downloaded and nothing heavy travels in the package; the few megabytes are made here, once, in seconds. They appear
under their name by one rename, when everything is on the disk, so a build that died is never seen. index.json lists each file
with its digest and is checked on every call, so a damaged cache is built again instead of failing far from the cause. A lock
keeps two first starts from doing the same work twice, but nothing depends on it: where it cannot be had in time, both build and
the first rename wins.

The folder's name holds VERSION. A change of the recipe takes a new number, so runs made with the old one can still be continued.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import filelock

from engine.cache import cache_root
from engine.demo import corpus, persona
from engine.durable import sha256_of, sync_file, sync_folder
from engine.errors import OutputError
from engine.hardware import load_libraries
from engine.i18n import _
from engine.lock import has_no_locks

VERSION = 1
DATASET, MODEL, INDEX = "persona.jsonl", "model", "index.json"
_WAIT = 180.0
"""Seconds to wait for another process that is building; a build takes about fifteen."""
_ABANDONED = 3600.0
"""Seconds after which a build folder that nobody renamed is taken away."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Demo:
    """Where the demo lies."""

    dataset: Path
    model: Path
    built: bool
    """Whether this very call built it."""


def demo_folder() -> Path:
    """The cache folder of this version's demo, built or not."""
    return cache_root() / f"demo-v{VERSION}"


def ensure_demo(emit_progress: Progress | None = None) -> Demo:
    """The demo's files, built first where they are missing or damaged. `emit_progress` is told what is done and the share, 0 to 1.

    Raises OutputError where the cache cannot be written.
    """
    folder = demo_folder()
    progress = emit_progress or (lambda what, share: None)
    if _is_whole(folder):
        return _demo(folder, built=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder, progress):
            if _is_whole(folder):
                return _demo(folder, built=False)
            _sweep(folder)
            staging = _sibling(folder)
            staging.mkdir()
            try:
                _build(staging, progress)
                _publish(staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            _("{path}: the demo cannot be built here").format(path=folder),
            str(error),
            _("Make room there, or name another cache folder in LORA_TUI_CACHE."),
        ) from error
    progress(_("The demo is ready"), 1.0)
    return _demo(folder, built=True)


def _demo(folder: Path, *, built: bool) -> Demo:
    return Demo(folder / DATASET, folder / MODEL, built)


def _build(staging: Path, progress: Progress) -> None:
    """Make everything in `staging` and put it on the disk, index.json last."""
    progress(_("Writing the demo's dataset"), 0.0)
    (staging / DATASET).write_bytes(persona.jsonl())
    spoken = [text for topic in persona.topics() for text in (*topic.asks, topic.answer)]
    conversations = corpus.conversations(spoken)
    progress(_("Training the demo's tokenizer"), 0.02)
    load_libraries()
    from engine.demo.base import MAX_LENGTH, pretrain
    from engine.demo.tokenizer import train_tokenizer

    rows = [message["content"] for row in persona.rows() for message in row["messages"]]
    tokenizer = train_tokenizer([*rows, *_texts(conversations)], MAX_LENGTH)
    chats = [_messages(turns) for turns in conversations]
    what = _("Teaching the demo's model to speak")
    model = pretrain(tokenizer, chats, lambda share: progress(what, 0.1 + 0.85 * share))
    progress(_("Saving the demo's model"), 0.96)
    _save(model, tokenizer, staging / MODEL)
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    index = {"version": VERSION, "files": {path.relative_to(staging).as_posix(): sha256_of(path) for path in files}}
    (staging / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    for path in (*files, staging / INDEX):
        sync_file(path)
    sync_folder(staging / MODEL)
    sync_folder(staging)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def _texts(conversations: list[tuple[corpus.Turn, ...]]) -> Iterator[str]:
    yield from ("system", "user", "assistant")
    for turns in conversations:
        for ask, answer in turns:
            yield ask
            yield answer


def _messages(turns: tuple[corpus.Turn, ...]) -> list[persona.Message]:
    return [
        {"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _is_whole(folder: Path) -> bool:
    """Whether every file that index.json lists is there with its digest. Reads a few megabytes."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        listed = index["files"]
        return (
            index["version"] == VERSION
            and {DATASET, f"{MODEL}/config.json", f"{MODEL}/model.safetensors", f"{MODEL}/tokenizer.json"} <= listed.keys()
            and all(sha256_of(folder / name) == digest for name, digest in listed.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Whatever is wrong with what lies there, it is not ours to mend: it is built anew.
        return False


def _publish(staging: Path, folder: Path) -> None:
    """Give `staging` its name. Another builder's whole folder is left in place; a damaged one makes room."""
    if _is_whole(folder):
        return
    if folder.is_symlink() or folder.exists():
        aside = _sibling(folder)
        folder.rename(aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()
    try:
        staging.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise
    sync_folder(folder.parent)


def _sibling(folder: Path) -> Path:
    """A name of nobody else beside `folder`, on the same file system, so that a rename is all it takes."""
    return folder.parent / f".{folder.name}-{uuid4().hex}"


@contextmanager
def _one_at_a_time(folder: Path, progress: Progress) -> Iterator[None]:
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress(_("Waiting for another lora-tui that is building the demo"), 0.0)
        try:
            lock.acquire(timeout=_WAIT)
        except filelock.Timeout:
            # Stuck or stopped. The rename alone keeps the result whole; the lock only saves work.
            yield
            return
    except (OSError, NotImplementedError) as error:
        if not has_no_locks(error):
            raise
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Take away what builds that died left behind."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
