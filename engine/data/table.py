"""The token table in the cache: rows are tokenised once, and read back as memory-mapped Arrow by every later run.

A table is found by a key over everything that makes its content: the bytes of the data files, how they are read, the tokenizer, the
template, what is trained on, and VERSION. It appears under its name by one rename when it is whole; beside it stands the SHA-256 of
its bytes, which is checked whenever it is taken up, so a damaged or foreign file is made anew and never trusted. The cache is a
convenience: where it cannot be written, or no file says what the dataset is (datasets loads small ones into memory where it is told
to), the rows are tokenised in memory, and that is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.formats import Rows
from engine.data.identity import Digests, row_digest
from engine.data.problems import Notes
from engine.data.read import Reading, unreadable
from engine.data.remarks import remark
from engine.data.token_table import TokenTable, schema
from engine.data.tokens import tokenized
from engine.durable import sha256_of, sync_file
from engine.errors import DatasetError
from engine.i18n import _

VERSION = 10
"""Of the recipe from rows to tokens; another one makes other tables."""
UNUSED_DAYS = 30
"""Tables that nobody took up for so long are removed when another one is written."""
TELL_EVERY = 0.5
"""Seconds between two words of progress."""

Tell = Callable[[int, int | None, float], None]
"""Told rows done, rows in all (None: not known), and seconds so far."""


@dataclass(frozen=True)
class Made:
    """A table and where it came from."""

    table: TokenTable
    from_cache: bool
    note: str
    """Why it could not be kept; empty where it was."""


def token_table(
    rows: Rows,
    reading: Reading,
    tokenizer: Any,
    tokenizer_digest: str,
    train_on: str,
    max_length: int,
    tell: Tell = lambda done, total, seconds: None,
) -> Made:
    """The table of `rows`, from the cache or made. `tokenizer_digest`: of the tokenizer and its template.

    Raises DatasetError, ModelError and ConfigError as `tokens.tokenized`.
    """
    if not rows.raw.files:
        note = _("the token table is not kept: the dataset is in memory, and has no files by which it could be known again")
    else:
        of_data = data_key(rows, reading)
        key = table_key(rows, reading, tokenizer_digest, train_on, max_length)
        path = cache_folder() / f"{key}.arrow"
        found = _taken_up(path)
        if found is not None:
            return Made(found, True, "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            written = _written(path, rows, tokenizer, train_on, max_length, tell, lambda: data_key(rows, reading) == of_data)
            _keep_digests(path.parent / f"{of_data}.digests", *written.everything)
            return Made(written, False, "")
        except OSError as error:
            note = _("the token table could not be kept in {folder} ({why}); it was made in memory").format(
                folder=path.parent, why=error.strerror or str(error)
            )
    notes = Notes()
    progress = _progress(None, tell)
    batches = list(tokenized(rows.numbered(), tokenizer, train_on, max_length, notes, progress, rows.raw.skipped))
    return Made(TokenTable(batches, notes), False, note)


def cache_folder() -> Path:
    """Where tables lie."""
    from engine.cache import cache_root

    return cache_root() / "tokens"


def row_digests(rows: Rows, reading: Reading) -> tuple[npt.NDArray[np.int64], Digests]:
    """(numbers, digests) of all rows: from the cache for data that was read before, else by reading it. Raises DatasetError."""
    if not rows.raw.files:
        return _digests_of(rows)
    path = cache_folder() / f"{data_key(rows, reading)}.digests"
    with contextlib.suppress(OSError, ValueError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            found = np.frombuffer(content[32:], dtype=_RECORD)
            _was_of_use(path)
            return found["number"].astype(np.int64), np.ascontiguousarray(found["digest"])
    numbers, digests = _digests_of(rows)
    if path.stem != data_key(rows, reading):  # changed while it was read: its rows are not those of that key
        return numbers, digests
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_digests(path, numbers, digests)
    return numbers, digests


def _digests_of(rows: Rows) -> tuple[npt.NDArray[np.int64], Digests]:
    parts = [(number, row_digest(row)) for number, row in rows.numbered()]
    numbers = np.array([number for number, _digest in parts], dtype=np.int64)
    return numbers, np.frombuffer(b"".join(digest for _number, digest in parts), dtype=np.uint8).reshape(-1, 32)


_RECORD = np.dtype([("number", "<i8"), ("digest", "u1", (32,))])


def _keep_digests(path: Path, numbers: npt.NDArray[np.int64], digests: Digests) -> None:
    records = np.empty(len(numbers), dtype=_RECORD)
    records["number"], records["digest"] = numbers, digests
    content = records.tobytes()
    staging = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns()}")
    try:
        staging.write_bytes(hashlib.sha256(content).digest() + content)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def table_key(rows: Rows, reading: Reading, tokenizer_digest: str, train_on: str, max_length: int) -> str:
    """Hexadecimal key of the table's content. Raises DatasetError where a data file cannot be read."""
    settings = [VERSION, data_key(rows, reading), tokenizer_digest, train_on, max_length]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:40]


def data_key(rows: Rows, reading: Reading) -> str:
    """Hexadecimal key of the normalised rows: the bytes of their files and how they are read. Raises DatasetError."""
    digest = hashlib.sha256()
    # Of a file that is both trained and measured on, rows are left out of the training alone.
    settings = [VERSION, asdict(replace(reading, skip_rows=rows.raw.skipped)), rows.format, rows.reason, rows.name]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for path in rows.raw.files:
        try:
            status = path.stat()
            digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(_file_digest(path, status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError as error:
            raise unreadable(str(path), error) from None
    return digest.hexdigest()[:40]


@lru_cache(maxsize=256)
def _file_digest(path: Path, _size: int, _mtime_ns: int, _inode: int) -> bytes:
    """SHA-256 of a file, once in this process as long as it looks the same. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _written(
    path: Path, rows: Rows, tokenizer: Any, train_on: str, max_length: int, tell: Tell, unchanged: Callable[[], bool]
) -> TokenTable:
    """Make the table, put it under `path`, and take it up from there. `unchanged`: whether the data are still those that `path` is
    named after. Raises OSError where it cannot be written, DatasetError where the data were changed meanwhile."""
    import pyarrow as pa

    notes = Notes()
    staging = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns()}")
    beside_staging = staging.with_name(f"{staging.name}.json")  # of this writer alone, as the other
    try:
        total = _rows_in(rows)
        with pa.OSFile(str(staging), "wb") as sink, pa.ipc.new_file(sink, schema()) as writer:
            progress = _progress(total, tell)
            for batch in tokenized(rows.numbered(), tokenizer, train_on, max_length, notes, progress, rows.raw.skipped):
                writer.write_batch(batch)
        if not unchanged():
            raise DatasetError(
                _("{name}: was changed while it was read").format(name=rows.name),
                _("Some of its rows would be the old ones and some the new."),
                _("Start again once nothing writes to it any more."),
            )
        sync_file(staging)
        told = {
            "problems": [(one.code, one.row, dict(one.parts)) for one in notes.problems],
            "counts": notes.counts,
            "rows": notes.rows,
        }
        beside = {"sha256": sha256_of(staging), "notes": told}
        beside_staging.write_text(json.dumps(beside), encoding="utf-8")
        beside_staging.replace(_beside(path))
        staging.replace(path)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    finally:
        for left in (staging, beside_staging):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
    return TokenTable(_mapped(path), notes)


def _taken_up(path: Path) -> TokenTable | None:
    """The table under `path`, if it is there and whole."""
    import pyarrow as pa

    try:
        beside = json.loads(_beside(path).read_text(encoding="utf-8"))
        if beside["sha256"] != sha256_of(path):
            return None
        told = beside["notes"]
        notes = Notes(
            [remark(code, row, **parts) for code, row, parts in told["problems"]], dict(told["counts"]), int(told["rows"])
        )
        table = TokenTable(_mapped(path), notes)
        _was_of_use(path)
        return table
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        return None


def _was_of_use(path: Path) -> None:
    """Not to be swept; where the cache may only be read, that is not ours to say."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _mapped(path: Path) -> list[Any]:
    """The batches of the file, over its memory-mapped bytes."""
    import pyarrow as pa

    reader = pa.ipc.open_file(pa.memory_map(str(path), "rb"))
    if reader.schema != schema():
        raise ValueError("not a token table")
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _sweep(folder: Path) -> None:
    """Remove tables that nobody used lately, and what writers that died left half made."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > (86_400 if path.name.startswith(".") else UNUSED_DAYS * 86_400):
                path.unlink()


def _rows_in(rows: Rows) -> int | None:
    """How many rows there are, where that is told without reading them: lines of JSONL files, counted in blocks; the last of a file
    may have no end."""
    total = 0
    for path in rows.raw.files:
        if path.suffix.lower() not in (".jsonl", ".ndjson"):
            return None
        try:
            with open(path, "rb") as file:
                last = b"\n"
                while block := file.read(1 << 20):
                    total += block.count(b"\n")
                    last = block[-1:]
        except OSError as error:
            raise unreadable(str(path), error) from None
        total += last != b"\n"
    return total or None


def _progress(total: int | None, tell: Tell) -> Callable[[int], None]:
    began = said = time.monotonic()

    def done(rows: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= TELL_EVERY:
            said = now
            tell(rows, total, now - began)

    return done
