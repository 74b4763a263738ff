"""Safetensors headers: each way one can be wrong."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints import safetensors_header as module
from engine.checkpoints.files import Unsound
from engine.checkpoints.safetensors_header import check_safetensors

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_with(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    """A file with this header (text, or a value to be JSON) and data; `length` where the header lies about its own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def sound(path: Path) -> bool:
    try:
        check_safetensors(path, finite=True)
    except Unsound:
        return False
    return True


def test_a_whole_file_is_sound(tmp_path: Path) -> None:
    assert sound(file_with(tmp_path / "a.safetensors", {"w": ONE, "__metadata__": {"format": "pt"}}))


def test_a_file_that_is_cut_while_it_is_judged_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1 << 20  # more than is read ahead
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    path = file_with(tmp_path / "a.safetensors", header, bytes(size))

    def cut(file: Path) -> None:
        os.truncate(file, size // 2)

    monkeypatch.setattr(module, "_ask_the_library", cut)
    with pytest.raises(Unsound, match="not a whole safetensors file"):
        check_safetensors(path, finite=True)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31, 200_000_000, 1])
def test_a_header_length_that_cannot_be_is_refused(tmp_path: Path, length: int) -> None:
    assert not sound(file_with(tmp_path / "a.safetensors", {"w": ONE}, length=length))


@pytest.mark.parametrize(
    "header",
    [
        {"w": ONE, "v": ONE},
        {"w": {**ONE, "data_offsets": [4, 12]}},
        {"w": {**ONE, "data_offsets": [0, 2**62]}},
        {"w": {**ONE, "data_offsets": [8, 0]}},
        {"w": {**ONE, "data_offsets": [-8, 0]}},
        {"w": {**ONE, "shape": [3]}},
        {"w": {**ONE, "shape": [2**40, 2**40, 0]}},
        {"w": {**ONE, "shape": [True, 2]}},
        {"w": {**ONE, "dtype": "O"}},
        {"w": {"dtype": "F32"}},
        {"w": 3},
        {},
        b'{"w": ' + json.dumps(ONE).encode() + b', "w": ' + json.dumps(ONE).encode() + b"}",
        b"[" * 50_000,
        b"\xff\xfe",
    ],
    ids=["overlap", "gap", "out of range", "backwards", "negative", "shape", "shape of nothing", "bool", "dtype", "no offsets",
         "no tensor", "data unclaimed", "twice", "deep", "no text"],
)  # fmt: skip
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, header: Any) -> None:
    assert not sound(file_with(tmp_path / "a.safetensors", header))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = file_with(tmp_path / "a.safetensors", {"w": ONE}).read_bytes()
    for cut in range(len(data)):
        (tmp_path / "b.safetensors").write_bytes(data[:cut])
        assert not sound(tmp_path / "b.safetensors")


@settings(max_examples=200, deadline=None)
@given(st.binary(), st.integers(0, 2**64 - 1))
def test_no_bytes_crash_it(tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(struct.pack("<Q", length) + data)
    sound(path)
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    sound(path)
