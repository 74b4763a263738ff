"""A file of torch.save, judged as the zip archive it is.

torch stores each tensor's bytes as an uncompressed entry `<prefix>/data/<key>` beside `<prefix>/data.pkl`. So everything can be
held against everything: the entries lie one after another inside the file and none is compressed (which rules out archives that
unpack to more than they are), each storage the pickle describes has exactly the bytes that are there, and the checksums say
whether they are the ones that were written. The pickle itself is only listed (pickles.py).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from engine.checkpoints.files import Unsound, around, open_plain, places, refuse_pointer, size_of
from engine.checkpoints.pickles import FLOATS, Listing, Storage, list_pickle
from engine.checkpoints.safetensors_header import BLOCK, EXPONENTS, numbers_are_finite
from engine.i18n import _

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DIRECTORY_BYTES = 32 * 2**20
"""The archive's list of entries; 100,000 tensors take nine of them."""


_Floats = tuple[tuple[str, int, Callable[[memoryview], tuple[memoryview, ...]]], ...]
"""For each width of numbers with fractions that a file holds: its kind and mask (EXPONENTS), and what takes them out of the file."""


@dataclass(frozen=True)
class _Layout:
    """Where everything stands in a file that was found sound. In one of equal size whose bytes are the same but for the entries'
    contents and checksums everything stands there too: the optimizers of one run differ in nothing else."""

    rest_of: Callable[[bytes], tuple[bytes, ...]]
    """Takes all bytes out of it but contents and checksums."""
    rest: bytes
    contents_of: Callable[[memoryview], tuple[memoryview, ...]]
    """Takes the contents of each entry out of it, the pickle's first."""
    checksums_of: Callable[[bytes], tuple[bytes, ...]]
    """Takes their checksums out of its list of entries."""
    listing: Listing
    floats: _Floats


_layouts: dict[int, _Layout] = {}
"""By size of the file, the last one of each."""
MAX_LAYOUTS, MAX_REST = 16, 1 << 20


def check_torch_file(path: Path, contents: bool, checksums: bool = True) -> Listing:
    """What the file would build, if it is sound; with `contents` also whether its numbers are finite and, with `checksums`, the ones
    that were written; where a digest of the whole file was compared they say nothing new. Raises Unsound."""
    with open_plain(path) as file:
        known = _laid_out_alike(file, path.name, contents and checksums)
        if known is not None and (not contents or _all_finite(file, known.floats)):
            return known.listing
        _refuse_other_kinds(file, path.name)
        try:
            return _read_through(file, path.name, contents, checksums)
        except (
            zipfile.BadZipFile,
            struct.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OverflowError,
        ) as error:
            raise _torn(path.name, str(error)[:120]) from None


def _read_through(file: BinaryIO, name: str, contents: bool, checksums: bool) -> Listing:
    """As `check_torch_file`, of a file whose like was not read before. Raises Unsound, and what zipfile raises of a torn archive."""
    refuse_huge_directory(file, name)
    with zipfile.ZipFile(file) as archive:
        prefix, entries = _entries(archive, file, name)
        listing = list_pickle(archive.read(entries["data.pkl"]), name)
        held: list[tuple[zipfile.ZipInfo, Storage]] = []
        for storage in listing.storages.values():
            entry = entries.get(f"data/{storage.key}")
            if entry is None or entry.file_size != storage.bytes:
                raise Unsound(
                    "storage_mismatch",
                    _("{name} describes {expected} bytes for {entry} and holds {found}.").format(
                        name=name, expected=storage.bytes, entry=f"{prefix}/data/{storage.key}"[:80],
                        found=entry.file_size if entry else 0,
                    ),
                    _("It was torn or changed; take an earlier checkpoint."),
                )  # fmt: skip
            held.append((entry, storage))
        if contents:
            begins = {entry: _begin(file, entry, name) for entry in entries.values()}
            where = [(begins[entry], entry, FLOATS.get(storage.kind)) for entry, storage in held]
            floats = _floats((dtype, begin, begin + entry.file_size) for begin, entry, dtype in where)
            finite = _all_finite(file, floats)
            for begin, entry, dtype in where:
                if checksums or not finite:
                    _check_contents(file, begin, entry, None if finite else dtype, checksums, name)
            if isinstance(file, BytesIO):
                _keep_layout(file.getvalue(), archive.start_dir, begins, listing, floats)
    return listing


def _laid_out_alike(file: BinaryIO, name: str, checksums: bool) -> _Layout | None:
    """The layout of `file`, held in memory, where it is one that was found sound before and, with `checksums`, its own hold."""
    if not isinstance(file, BytesIO):
        return None
    data = file.getvalue()
    known = _layouts.get(len(data))
    if known is None or b"".join(known.rest_of(data)) != known.rest:
        return None
    contents, stated = known.contents_of(memoryview(data)), known.checksums_of(data)
    if not checksums:
        contents, stated = contents[:1], stated[:1]
    if struct.pack(f"<{len(contents)}I", *map(zlib.crc32, contents)) != b"".join(stated):
        return None
    return known if list_pickle(bytes(contents[0]), name) is known.listing else None


def _keep_layout(
    data: bytes, directory: int, begins: Mapping[zipfile.ZipInfo, int], listing: Listing, floats: _Floats
) -> None:
    """Keep how `data` is laid out, whose list of entries begins at `directory`; where it is as torch lays it out."""
    holes, pickle, contents = [], (0, 0), []
    for entry, begin in begins.items():  # in the order of the list of entries
        end = begin + entry.file_size
        holes += [(entry.header_offset + 14, entry.header_offset + 18), (begin, end), (directory + 16, directory + 20)]
        if entry.flag_bits & 8:  # the checksum once more, behind the contents (APPNOTE 4.3.9)
            holes.append((end + 4, end + 8))
        contents.append((begin, end, directory + 16))
        if entry.filename.partition("/")[2] == "data.pkl":
            pickle = (begin, end)
        directory += 46 + sum(struct.unpack("<HHH", data[directory + 28 : directory + 34]))
    holes.sort()
    if any(one[1] > other[0] for one, other in pairwise(holes)):
        return
    rest_of = places(around(holes, len(data)))
    if len(rest := b"".join(rest_of(data))) > MAX_REST:
        return
    if len(_layouts) >= MAX_LAYOUTS:
        _layouts.clear()
    contents.sort(key=lambda one: one[:2] != pickle)
    contents_of = places([(begin, end) for begin, end, _checksum in contents])
    checksums_of = places([(checksum, checksum + 4) for _begin, _end, checksum in contents])
    _layouts[len(data)] = _Layout(rest_of, rest, contents_of, checksums_of, listing, floats)


def _floats(parts: Iterable[tuple[str | None, int, int]]) -> _Floats:
    """Of `parts` (format, first byte, byte behind the last)."""
    spans: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for dtype, begin, end in parts:
        if dtype is not None:
            spans.setdefault(EXPONENTS[dtype], []).append((begin, end))
    return tuple((kind, mask, places(found)) for (kind, mask), found in spans.items())


def _all_finite(file: BinaryIO, floats: _Floats) -> bool:
    """Whether a file held in memory has no NaN or infinity: all its numbers put together, one look instead of one for each of
    hundreds of small tensors. (The checksums between them look like NaN now and then.) False of a file that is not held."""
    if not isinstance(file, BytesIO):
        return False
    data = memoryview(file.getvalue())  # no copy, unlike getbuffer()
    return all(numbers_are_finite(b"".join(take(data)), kind, mask) for kind, mask, take in floats)


def _refuse_other_kinds(file: BinaryIO, name: str) -> None:
    start = file.read(512)
    refuse_pointer(name, start)
    if not start.strip(b"\0"):
        raise _torn(name, _("it is empty or holds only zero bytes"))
    if start.startswith(b"PK\3\4"):
        return
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        raise Unsound(
            "pickle_legacy",
            _("{name} is a bare pickle or tar archive, the format torch wrote before 2020; it was not loaded.").format(
                name=name
            ),
            _("Load and save it once with the program that made it, if you trust its origin."),
        )
    raise _torn(name, _("it does not begin like a file of torch.save"))


def refuse_huge_directory(file: BinaryIO, name: str) -> None:
    """zipfile reads the whole list of entries into memory, so its size is looked at first."""
    size = size_of(file)
    file.seek(max(0, size - 65_557))
    tail = file.read(65_557)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise _torn(name, _("the archive's list of entries is missing at its end"))
    (length,) = struct.unpack("<I", tail[at + 12 : at + 16])
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator.startswith(b"PK\6\7"):
        (position,) = struct.unpack("<Q", locator[8:16])
        if position > size - 56:
            raise _torn(name, _("the archive's list of entries is missing at its end"))
        file.seek(position)
        (length,) = struct.unpack("<Q", file.read(56)[40:48])
    if length > min(size, MAX_DIRECTORY_BYTES):
        raise _torn(name, _("its list of entries claims {length} bytes").format(length=length))
    file.seek(0)


def _entries(archive: zipfile.ZipFile, file: BinaryIO, name: str) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The archive's prefix and its entries by the name behind it; all plain, none overlapping. Raises Unsound."""
    found = archive.infolist()
    prefixes = {entry.filename.partition("/")[0] for entry in found}
    if len(prefixes) != 1:
        raise _torn(name, _("its entries do not share one folder"))
    entries = {entry.filename.partition("/")[2]: entry for entry in found}
    if len(entries) != len(found) or "data.pkl" not in entries:
        raise _torn(name, _("it has no data.pkl, or an entry twice"))
    reached = 0
    for entry in sorted(found, key=lambda one: one.header_offset):
        packed = entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
        if packed or entry.flag_bits & 1 or entry.header_offset < reached:
            raise Unsound(
                "archive_bomb",
                _(
                    "{name} holds packed, encrypted or overlapping entries, which torch never writes; it was not unpacked."
                ).format(name=name),
                _("Do not load this file with anything; the weights may still serve for a new run."),
            )
        reached = entry.header_offset + 30 + entry.compress_size
    if reached > size_of(file):
        raise _torn(name, _("its entries are longer than the file"))
    if entries["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise _torn(name, _("its data.pkl has more than {limit} MB").format(limit=MAX_PICKLE_BYTES // 2**20))
    return prefixes.pop(), entries


def _begin(file: BinaryIO, entry: zipfile.ZipInfo, name: str) -> int:
    """Where the bytes of `entry` begin. Read here and not by zipfile's stream, which takes longer to open than most of an adapter's
    tensors take to read; nothing is packed (`_entries`), so the bytes lie there. Raises Unsound."""
    file.seek(entry.header_offset)
    header = file.read(30 + len(entry.orig_filename) * 4)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise _torn(name, _("an entry does not begin where the list says"))
    words, extra = struct.unpack("<HH", header[26:30])
    if header[30 : 30 + words].decode("cp437" if not entry.flag_bits & 0x800 else "utf-8") != entry.orig_filename:
        raise _torn(name, _("an entry does not begin where the list says"))
    return int(entry.header_offset) + 30 + int(words) + int(extra)


def _check_contents(
    file: BinaryIO, begin: int, entry: zipfile.ZipInfo, dtype: str | None, checksums: bool, name: str
) -> None:
    """With `checksums` compare the entry's, and with `dtype` look for NaN and infinity."""
    import numpy

    file.seek(begin)
    kind, mask = EXPONENTS[dtype] if dtype else ("u1", 0)
    left, checksum = entry.file_size, 0
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise _torn(name, _("its entries are longer than the file"))
        left -= len(block)
        checksum = zlib.crc32(block, checksum) if checksums else 0
        if dtype:
            bits = numpy.frombuffer(block, kind)
            if bool(((bits & bits.dtype.type(mask)) == mask).any()):
                raise Unsound(
                    "non_finite",
                    _("{name} holds NaN or infinity; the run had failed before it was saved.").format(name=name),
                    _("Take an earlier checkpoint, with a lower learning rate."),
                )
    if checksums and checksum != entry.CRC:
        raise _torn(name, _("the checksum of {entry} differs").format(entry=entry.filename[:80]))


def _torn(name: str, why: str) -> Unsound:
    return Unsound(
        "torch_file_invalid",
        _("{name} is not a whole file of torch.save: {why}.").format(name=name, why=why),
        _("It was torn while being written or copied; copy it again or take an earlier checkpoint."),
    )
