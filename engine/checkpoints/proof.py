"""A manifest held against the folder it describes (contract C3): sizes, digests, and nothing beside that a loader would take up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from engine.checkpoints.checkpoint import Problem
from engine.checkpoints.files import MAX_JSON_BYTES, Entry, Unsound, open_plain, refuse_pointer
from engine.checkpoints.manifest import MANIFEST_NAME, Manifest, parse_manifest
from engine.i18n import _

LOADED = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".json", ".py", ".so", ".jinja", ".model")
"""Endings of files that some loader would take up from a checkpoint; one that the manifest does not know is a trap."""

NOT_NEEDED = frozenset({"README.md"})
"""Files of a checkpoint that only describe it. A damaged one is told; nothing is lost by going on without it."""


@dataclass(frozen=True)
class Proof:
    """What a manifest proves."""

    manifest: Manifest | None
    """None: it cannot be read."""
    failed: frozenset[str]
    """Names of listed files that are missing or have another size or digest."""
    same: frozenset[str]
    """Names of listed files whose digest was compared and is the same."""
    problems: tuple[Problem, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that a run needs of what the manifest says is so."""
        return self.manifest is not None and not self.failed - NOT_NEEDED and not any(
            problem.code == "unlisted_file" for problem in self.problems)  # fmt: skip


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`, as it stands there. Raises Unsound where it cannot be read."""
    with open_plain(folder / MANIFEST_NAME) as file:
        data = file.read(MAX_JSON_BYTES)
    refuse_pointer(MANIFEST_NAME, data)
    try:
        manifest = parse_manifest(data)
    except (ValueError, RecursionError) as error:
        words = _("{name} cannot be read: {why}.")
        fix = _("Take an earlier checkpoint, or start a new run from these weights with --init-from.")
        if _is_newer(error):
            words = _("{name} was written by a newer version of lora-tui.")
            fix = _("Continue it with that version; this one can start a new run from these weights with --init-from.")
        raise Unsound("manifest_invalid", words.format(name=MANIFEST_NAME, why=_why(error)[:160]), fix) from None
    return manifest


def _is_newer(error: Exception) -> bool:
    """Whether the schema is a later one, whatever else is not understood of it then."""
    wrong = error.errors(include_url=False, include_context=False) if isinstance(error, ValidationError) else []
    return any(one["loc"] == ("schema_version",) and one["type"] == "less_than_equal" for one in wrong)


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).partition("\n")[0]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)


def check_manifest(folder: Path, entries: Mapping[str, Entry], digests: bool) -> Proof:
    """Hold the manifest of `folder` against its entries; with `digests` every byte, without them sizes only."""
    try:
        manifest = read_manifest(folder)
    except Unsound as wrong:
        return Proof(None, frozenset(), frozenset(), (wrong.problem,))
    problems: list[Problem] = []
    failed: set[str] = set()
    for name, record in manifest.files.items():
        try:
            _hold(folder, entries, name, record.size, record.sha256 if digests else None)
        except Unsound as wrong:
            failed.add(name)
            problems.append(replace(wrong.problem, fix=_("No run needs it.")) if name in NOT_NEEDED else wrong.problem)
    for name, entry in entries.items():
        if name not in manifest.files and name != MANIFEST_NAME and _trap(entry):
            problems.append(Problem(
                "unlisted_file",
                _("{name} was not part of this checkpoint when it was saved.").format(name=name[:80]),
                _("Move it out of the folder; then the checkpoint is proven again.")))  # fmt: skip
    same = frozenset(manifest.files) - failed if digests else frozenset()
    return Proof(manifest, frozenset(failed), same, tuple(problems))


def _hold(folder: Path, entries: Mapping[str, Entry], name: str, size: int, sha256: str | None) -> None:
    """Raise Unsound where the file `name` is not the one that was saved."""
    entry = entries.get(name)
    if entry is None:
        raise Unsound("file_missing", _("{name}, which the manifest lists, is missing.").format(name=name[:80]),
                      _("Restore the file or take an earlier checkpoint."))  # fmt: skip
    with open_plain(folder / name) as file:
        refuse_pointer(name, file.read(64))
        if entry.size != size:
            raise Unsound(
                "size_mismatch",
                _("{name} has {found} bytes, was saved with {expected}.").format(
                    name=name[:80], found=entry.size, expected=size
                ),
                _("It was cut short or changed since; restore it or take an earlier checkpoint."),
            )
        if sha256 is not None and _sha256(file) != sha256:
            raise Unsound(
                "digest_mismatch",
                _("{name} is not the file that was saved: its SHA-256 differs.").format(name=name[:80]),
                _("It was damaged or changed since; restore it or take an earlier checkpoint."),
            )


def _sha256(file: BinaryIO) -> str:
    if isinstance(file, BytesIO):
        return hashlib.sha256(file.getvalue()).hexdigest()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _trap(entry: Entry) -> bool:
    return entry.kind != "file" or entry.name.lower().endswith(LOADED)
