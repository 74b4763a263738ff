"""A safetensors file, judged by its header and its numbers, in bounded memory.

The file is eight bytes of header length, that much JSON, then the tensors' bytes (https://github.com/huggingface/safetensors).
The library's reader checks offsets and sizes; it lets a key stand twice and says nothing of values, so the header is also read
here, and the bytes are looked at for NaN and infinity block by block, as bit patterns: an exponent of ones is neither a number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from engine.checkpoints.files import Unsound, open_plain, parse_json, refuse_pointer, size_of
from engine.i18n import _

MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""
BLOCK = 4 * 2**20

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits an element takes."""

EXPONENTS = {"F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10), "BF16": ("<u2", 0xFF << 7),
             "C64": ("<u4", 0xFF << 23)}  # fmt: skip
"""How an element is read as an integer, and the bits that are all ones where it is infinite or no number."""

Numbers = tuple[tuple[str, int], ...]
"""EXPONENTS' values for the formats that a file holds."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the file."""
    end: int


def check_safetensors(path: Path, finite: bool) -> dict[str, Tensor]:
    """The tensors of `path` by name, if it is sound; with `finite` also every value. Raises Unsound."""
    with open_plain(path) as file:
        tensors, numbers = _known_header(file)
        if tensors is None:
            tensors = read_header(file, path.name)
            _ask_the_library(path)
            numbers = numbers_of((one.dtype, one.begin) for one in tensors.values())
            _keep_header(file, tensors, numbers)
        if finite and not surely_finite(file, numbers):
            _need_finite(file, tensors, path.name)
    return tensors


def _need_finite(file: BinaryIO, tensors: dict[str, Tensor], name: str) -> None:
    for tensor in tensors.values():
        try:
            finite = tensor.dtype not in EXPONENTS or all_finite(file, tensor.begin, tensor.end, tensor.dtype)
        except EOFError:  # it was cut since its header was read
            words = _("its header describes {reached} bytes, the file has {size}")
            raise _torn(name, words.format(reached=max(one.end for one in tensors.values()), size=size_of(file))) from None
        if not finite:
            raise Unsound(
                "non_finite",
                _("{name}: the tensor {tensor} holds NaN or infinity; the run had failed before it was saved.").format(
                    name=name, tensor=tensor.name[:120]
                ),
                _("Take an earlier checkpoint, with a lower learning rate."),
            )


_headers: dict[bytes, tuple[int, dict[str, Tensor] | None, Numbers | None]] = {}
"""Headers that were found sound, the library's reader asked, with the size of their file: the weights of one run have the same. All
that is said of a file but its numbers follows from these two."""
MAX_HEADERS, MAX_KEPT_HEADER = 16, 1 << 20


def _known_header(file: BinaryIO) -> tuple[dict[str, Tensor] | None, Numbers | None]:
    if not isinstance(file, BytesIO):
        return None, None
    size, tensors, numbers = _headers.get(_header(file.getvalue()), (-1, None, None))
    return (tensors, numbers) if size == size_of(file) else (None, None)


def _keep_header(file: BinaryIO, tensors: dict[str, Tensor], numbers: Numbers | None) -> None:
    if isinstance(file, BytesIO) and len(header := _header(file.getvalue())) <= MAX_KEPT_HEADER:
        if len(_headers) >= MAX_HEADERS:
            _headers.clear()
        _headers[header] = (size_of(file), tensors, numbers)


def _header(data: bytes) -> bytes:
    """The first bytes of a file, up to the tensors, as its length says."""
    return data[: 8 + int.from_bytes(data[:8], "little")]


def read_header(file: BinaryIO, name: str) -> dict[str, Tensor]:
    """The tensors that the header of `file` names, checked against the file's size. Raises Unsound."""
    size = size_of(file)
    start = file.read(256)
    refuse_pointer(name, start)
    if len(start) < 8 or not start.strip(b"\0"):
        raise _torn(name, _("it is empty or holds only zero bytes"))
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise _torn(name, _("its header claims {length} bytes, the file has {size}").format(length=length, size=size))
    file.seek(8)
    header = parse_json(file.read(length), name)
    header.pop("__metadata__", None)
    tensors = {key: _tensor(key, value, 8 + length, name) for key, value in header.items()}
    reached = 8 + length
    for tensor in sorted(tensors.values(), key=lambda one: (one.begin, one.end)):
        if tensor.begin != reached:
            raise _torn(name, _("the tensor {tensor} overlaps another or leaves a gap").format(tensor=tensor.name[:120]))
        reached = tensor.end
    if reached != size:
        raise _torn(name, _("its header describes {reached} bytes, the file has {size}").format(reached=reached, size=size))
    return tensors


def _tensor(key: str, value: Any, offset: int, name: str) -> Tensor:
    entry = value if isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"} else {}
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if (
        not isinstance(dtype, str)
        or dtype not in BITS
        or not _naturals(shape)
        or not _naturals(offsets)
        or len(offsets) != 2
    ):
        raise _torn(name, _("the header's entry for {tensor} is not one of a tensor").format(tensor=key[:120]))
    begin, end = offsets
    if len(shape) > 64 or math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _torn(name, _("the tensor {tensor} has another size than its shape").format(tensor=key[:120]))
    return Tensor(key, dtype, tuple(shape), offset + begin, offset + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63 for item in value
    )


def _ask_the_library(path: Path) -> None:
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="np"):
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _torn(path.name, str(error)[:200]) from error


def all_finite(file: BinaryIO, begin: int, end: int, dtype: str) -> bool:
    """Whether every number of `dtype` in the bytes from `begin` to `end` of `file` is finite. Raises EOFError where it ends before."""
    import numpy

    kind, mask = EXPONENTS[dtype]
    file.seek(begin)
    left = end - begin
    while left > 0:
        block = file.read(min(BLOCK, left))
        if len(block) < min(BLOCK, left):
            raise EOFError(dtype)
        left -= len(block)
        bits = numpy.frombuffer(block, kind)
        if bool(((bits & bits.dtype.type(mask)) == mask).any()):
            return False
    return True


def numbers_of(parts: Iterable[tuple[str | None, int]]) -> Numbers | None:
    """How a file that holds `parts` (format, first byte) is gone through as a whole for numbers that are none; None where it cannot
    be, since one of them does not lie where numbers of its size would."""
    kinds: dict[str, int] = {}
    for dtype, begin in parts:
        if dtype is not None and dtype in EXPONENTS:
            kind, mask = EXPONENTS[dtype]
            if begin % int(kind[-1]) or kinds.setdefault(kind, mask) != mask:
                return None
    return tuple(kinds.items())


def surely_finite(file: BinaryIO, numbers: Numbers | None) -> bool:
    """Whether a small file held in memory has no NaN or infinity wherever one looks, numbers or not: one look instead of one for each
    of hundreds of small tensors. False means nothing: what lies between them may look like one.
    """
    if numbers is None or not isinstance(file, BytesIO):
        return False
    data = memoryview(file.getvalue())  # no copy, unlike getbuffer()
    return all(numbers_are_finite(data[: len(data) // int(kind[-1]) * int(kind[-1])], kind, mask) for kind, mask in numbers)


def numbers_are_finite(data: bytes | memoryview, kind: str, mask: int) -> bool:
    """Whether no number in `data` has the exponent `mask`, all of them as wide as numpy's unsigned `kind` (EXPONENTS).

    With an exponent of ones, a positive number is among the greatest signed integers, a negative one among the greatest unsigned.
    """
    import numpy

    bits = numpy.frombuffer(data, kind)
    sign = 1 << (8 * int(kind[-1]) - 1)
    return not len(bits) or (int(bits.max()) < sign | mask and int(bits.view(kind.replace("u", "i")).max()) < mask)


def _torn(name: str, why: str) -> Unsound:
    return Unsound(
        "safetensors_invalid",
        _("{name} is not a whole safetensors file: {why}.").format(name=name, why=why),
        _("It was torn while being written or copied; copy it again or take an earlier checkpoint."),
    )
