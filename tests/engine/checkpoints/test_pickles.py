"""Torch files: listed, never run; what a stock save never holds is refused."""

from __future__ import annotations

import collections
import contextlib
import importlib
import io
import pickle
import pickletools
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints import pickles
from engine.checkpoints.files import Unsound
from engine.checkpoints.pickles import Listing, PickledTensor, Storage, list_pickle
from engine.checkpoints.torch_file import check_torch_file

DICT = b"\x80\x02ccollections\nOrderedDict\n"
"""A pickle's beginning: the class is on the stack."""


def code_of(path: Path) -> str | None:
    try:
        check_torch_file(path, contents=True)
    except Unsound as wrong:
        return wrong.problem.code
    return None


class Runs:
    """Unpickling this would create the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class Stored(tuple[Any, ...]):
    """A storage, as a pickle of torch describes it."""


class Built:
    """What a pickle builds by a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def written(value: Any) -> bytes:
    """The pickle of `value` as torch writes it."""

    class Writer(pickle.Pickler):
        def persistent_id(self, part: Any) -> Any:
            return tuple(part) if isinstance(part, Stored) else None

    file = io.BytesIO()
    Writer(file, 2).dump(value)
    return file.getvalue()


def stored(numel: Any = 6, kind: str = "FloatStorage", word: str = "storage") -> Stored:
    import torch

    return Stored((word, getattr(torch, kind), "0", "cpu", numel))


def tensor(storage: Any, offset: Any = 0, shape: Any = (2, 3), stride: Any = (3, 1), *more: Any) -> Built:
    import torch

    return Built(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, *(more or (False, {})))


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """Copy an archive entry by entry, changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_the_files_of_the_real_trainer_are_sound(stock_run: Path, name: str) -> None:
    assert code_of(stock_run / "checkpoint-6" / name) is None


def test_training_arguments_are_not_plain_numbers(stock_run: Path) -> None:
    assert code_of(stock_run / "checkpoint-6" / "training_args.bin") == "pickle_unsafe"


def test_a_scaler_and_every_dtype_are_plain_numbers(tmp_path: Path) -> None:
    import torch

    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn,
              torch.uint16)  # fmt: skip
    values = {str(dtype): torch.ones(3, 2).to(dtype) for dtype in dtypes}
    torch.save(
        {"scale": 65536.0, "_growth_tracker": 3, "view": torch.ones(8)[2:4], "none": torch.ones(0), **values},
        tmp_path / "s.pt",
    )
    assert code_of(tmp_path / "s.pt") is None


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    import torch

    torch.save({"state": Runs(tmp_path / "ran")}, tmp_path / "optimizer.pt")
    assert code_of(tmp_path / "optimizer.pt") == "pickle_unsafe"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins eval",
        "builtins getattr",
        "torch load",
        "collections OrderedDict.update",
        "numpy load",
        "nt open",
        "torch.nn parameter Parameter",
    ],
)
def test_a_name_that_is_not_on_the_list_is_refused(tmp_path: Path, hostile_zip: Callable[[str], bytes], name: str) -> None:
    (tmp_path / "x.pt").write_bytes(hostile_zip(name))
    assert code_of(tmp_path / "x.pt") == "pickle_unsafe"


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_steps_that_torch_never_writes_are_refused(protocol: int) -> None:
    with pytest.raises(Unsound):
        list_pickle(pickle.dumps({"a": io.BytesIO}, protocol), "x")


@given(st.floats(), st.floats())
def test_pickles_that_differ_in_a_float_alone_have_one_listing(one: float, other: float) -> None:
    assert list_pickle(pickle.dumps(["some words", one], 2), "x") is list_pickle(pickle.dumps(["some words", other], 2), "y")


@pytest.mark.parametrize(
    "position", [0, *range(2, 30), 38, 39]
)  # not in the float; 1 is the protocol, which torch.load does not look at either
def test_a_pickle_that_differs_from_a_known_one_elsewhere_is_walked(position: int) -> None:
    known = b"\x80\x02ccollections\nOrderedDict\n)RG" + bytes(8) + b"\x86."
    list_pickle(known, "x")
    changed = bytearray(known)
    changed[position] ^= 0x20
    with pytest.raises(Unsound):
        list_pickle(bytes(changed), "x")


def test_what_stands_in_dicts_under_text_is_listed() -> None:
    import torch

    inner = collections.OrderedDict(amsgrad=True, weight=tensor(stored(2**33), 2**32), other=True)
    inner.of_its_own = "an attribute"  # type: ignore[attr-defined]
    parameter = Built(torch._utils._rebuild_parameter, tensor(stored(2**33)), True, {})
    value = {
        "one": {"weight": parameter},
        "two": inner,
        7: tensor(stored(2**33)),
        8: True,
        "three": [{"amsgrad": False, "params": [4, 5, 6]}, {"params": []}, {"params": [9]}, True, 0.5],
    }
    storage = Storage("FloatStorage", "0", 2**33)
    found = PickledTensor(storage, (2, 3))
    assert list_pickle(written(value), "x") == Listing(
        {"0": storage},
        {"weight": [found, found]},
        {"amsgrad": {True, False}, "other": {True}},
        {"one", "two", "three", "weight", "amsgrad", "other", "of_its_own", "params"},
        [3, 0, 1],
    )


ODD: dict[str, Callable[[], Any]] = {
    "a storage that is none": lambda: tensor("storage"),
    "a shape of letters": lambda: tensor(stored(), 0, "", ()),
    "a stride of letters": lambda: tensor(stored(), 0, (), ""),
    "a shape that is a list": lambda: tensor(stored(), 0, [2, 3]),
    "more sizes than strides": lambda: tensor(stored(), 0, (2, 3), (1,)),
    "a size below zero": lambda: tensor(stored(), 0, (2, -3)),
    "a place below zero": lambda: tensor(stored(), -1),
    "more than torch can count": lambda: tensor(stored(), 0, (2**63, 0)),
    "a size of letters": lambda: tensor(stored(), 0, (2, "3")),
    "too few of its parts": lambda: tensor(stored(), 0, (2, 3), (3, 1), False),
    "a parameter of nothing": lambda: Built(importlib.import_module("torch")._utils._rebuild_parameter),
    "too few elements": lambda: tensor(stored(-1)),
    "too many elements for their number": lambda: tensor(stored("6")),
    "a storage of no such kind": lambda: tensor(stored(kind="Size")),
    "something that is no storage": lambda: tensor(stored(word="module")),
    "a storage described in two ways": lambda: [tensor(stored()), tensor(stored(7))],
}


@pytest.mark.parametrize("made", ODD.values(), ids=ODD.keys())
def test_a_tensor_that_cannot_be_is_refused_as_damage(made: Callable[[], Any]) -> None:
    with pytest.raises(Unsound) as wrong:
        list_pickle(written(made()), "x")
    assert wrong.value.problem.code == "pickle_invalid"


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "fits"),
    [(0, (2, 3), (3, 1), True), (1, (2, 3), (3, 1), False), (0, (1, 7), (1, 1), False), (9, (3, 0), (1, 1), True)],
)
def test_a_tensor_may_not_reach_beyond_its_data(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], fits: bool
) -> None:
    data = written(tensor(stored(), offset, shape, stride))
    if fits:
        list_pickle(data, "x")
        return
    with pytest.raises(Unsound) as wrong:
        list_pickle(data, "x")
    assert wrong.value.problem.code == "storage_mismatch"


@pytest.mark.parametrize("steps", [b"}b.", b"Na.", b"(Ne.", b"NNs.", b"(NNu."])
def test_a_pickle_that_would_change_a_class_is_refused(steps: bytes) -> None:
    with pytest.raises(Unsound, match=r"it changes collections\.OrderedDict"):
        list_pickle(DICT + steps, "x")


def test_each_step_that_torch_does_not_know_is_refused_alone() -> None:
    from torch import _weights_only_unpickler as of_torch

    for opcode in pickletools.opcodes:
        if getattr(of_torch, opcode.name, None) is None and opcode.arg is None:
            with pytest.raises(Unsound, match=f"it uses the step {opcode.name}"):
                list_pickle(b"\x80\x02((NN" + opcode.code.encode("latin-1") + b".", "x")


@pytest.mark.parametrize("steps", [b"N(\x85.", b"}(X\x01\0\0\0au."], ids=["a mark for a value", "a key without its value"])
def test_a_pickle_whose_steps_do_not_add_up_is_damaged(steps: bytes) -> None:
    with pytest.raises(Unsound) as wrong:
        list_pickle(b"\x80\x02" + steps, "x")
    assert wrong.value.problem.code == "pickle_invalid"


@pytest.mark.parametrize("data", [b"c" + b"a" * 10_000 + b"\nb\n.", b"I" + b"a" * 10_000 + b"\n."])
def test_what_is_told_of_a_pickle_is_short(data: bytes) -> None:
    with pytest.raises(Unsound) as wrong:
        list_pickle(data, "x")
    assert "a" * 121 not in wrong.value.problem.message


def test_a_pickle_of_endless_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 3)
    list_pickle(b"\x80\x02N.", "x")
    with pytest.raises(Unsound, match="more than 3 steps"):
        list_pickle(b"\x80\x02NN.", "x")


def test_only_so_many_pickles_are_kept_and_none_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_walked", {})
    monkeypatch.setattr(pickles, "MAX_WALKED", 2)
    monkeypatch.setattr(pickles, "MAX_WALKED_BYTES", 60)
    kept = []
    for size in (10, 20, 30, 90):
        list_pickle(pickle.dumps("x" * size, 2), "x")
        kept.append(len(pickles._walked))
    assert kept == [1, 2, 1, 1]


def test_calling_what_was_computed_is_refused() -> None:
    for data in (b"\x80\x02}(tR.", DICT + b")R)R.", b"\x80\x02ctorch\nFloatStorage\n)R.", DICT + b"]R."):
        with pytest.raises(Unsound) as wrong:
            list_pickle(data, "x")
        assert wrong.value.problem.code == "pickle_unsafe"


def test_a_bare_pickle_and_a_tar_are_refused_by_name(tmp_path: Path) -> None:
    bare, tar = tmp_path / "bare.pt", tmp_path / "tar.pt"
    bare.write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with tarfile.open(tar, "w") as archive:
        archive.add(bare, "pickle")
    assert (code_of(bare), code_of(tar)) == ("pickle_legacy", "pickle_legacy")
    assert not (tmp_path / "ran").exists()


def test_a_packed_archive_is_not_unpacked(_whole: Path, tmp_path: Path) -> None:
    bomb = rewrite(
        _whole / "optimizer.pt", tmp_path / "b.pt", lambda name, data: b"\0" * 50_000_000 if name.endswith("/data/0") else data,
        zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    assert code_of(bomb) == "archive_bomb"


def test_a_storage_of_another_size_than_described_is_refused(_whole: Path, tmp_path: Path) -> None:
    shorter = rewrite(
        _whole / "optimizer.pt", tmp_path / "s.pt", lambda name, data: data[:-4] if "/data/1" in name else data
    )
    assert code_of(shorter) == "storage_mismatch"


def test_a_storage_that_is_missing_is_refused(_whole: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(_whole / "optimizer.pt") as old, zipfile.ZipFile(tmp_path / "m.pt", "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith("/data/1"):
                new.writestr(entry.filename, old.read(entry))
    assert code_of(tmp_path / "m.pt") == "storage_mismatch"


def test_changed_numbers_are_seen_by_their_checksum(_whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(_whole / "optimizer.pt", tmp_path / "o.pt"))
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/1"))
    data = bytearray(path.read_bytes())
    (name_length, extra_length) = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
    data[entry.header_offset + 30 + name_length + extra_length] ^= 1
    path.write_bytes(data)
    assert code_of(path) == "torch_file_invalid"


def test_a_list_of_entries_that_claims_too_much_is_refused(_whole: Path, tmp_path: Path) -> None:
    data = bytearray((_whole / "scheduler.pt").read_bytes())
    at = data.rfind(b"PK\6\6")
    data[at + 40 : at + 48] = struct.pack("<Q", 2**40)
    (tmp_path / "s.pt").write_bytes(data)
    assert code_of(tmp_path / "s.pt") == "torch_file_invalid"


@pytest.mark.parametrize("more", ["other/more", "optimizer/data.pkl"], ids=["of another folder", "twice"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_torch_would_not_write_is_refused(_whole: Path, tmp_path: Path, more: str) -> None:
    path = rewrite(_whole / "optimizer.pt", tmp_path / "o.pt", lambda name, data: data)
    assert code_of(path) is None
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(more, b"x")
    assert code_of(path) == "torch_file_invalid"


def test_an_archive_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "o.pt", "w") as archive:
        archive.writestr("optimizer/data/0", b"x")
    assert code_of(tmp_path / "o.pt") == "torch_file_invalid"


@pytest.mark.parametrize(
    ("at", "value"), [(8, struct.pack("<H", 1)), (42, struct.pack("<I", 0))], ids=["encrypted", "overlapping"]
)
def test_an_entry_that_is_encrypted_or_lies_in_another_is_refused(
    _whole: Path, tmp_path: Path, at: int, value: bytes
) -> None:
    data = bytearray((_whole / "optimizer.pt").read_bytes())
    last = data.rfind(b"PK\1\2")
    data[last + at : last + at + len(value)] = value
    (tmp_path / "o.pt").write_bytes(data)
    assert code_of(tmp_path / "o.pt") == "archive_bomb"


def test_entries_of_other_names_than_where_they_stand_are_refused(_whole: Path, tmp_path: Path) -> None:
    data = (_whole / "optimizer.pt").read_bytes()
    listed = data.find(b"PK\1\2")
    (tmp_path / "o.pt").write_bytes(data[:listed] + data[listed:].replace(b"optimizer/", b"Optimizer/"))
    assert code_of(tmp_path / "o.pt") == "torch_file_invalid"


@pytest.mark.parametrize("name", ["scheduler.pt", "optimizer.pt"])
def test_every_truncation_is_refused(_whole: Path, tmp_path: Path, name: str) -> None:
    data, path = (_whole / name).read_bytes(), tmp_path / "t.pt"
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        assert code_of(path) is not None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_pickle_with_any_byte_changed_never_crashes(_whole: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(_whole / "optimizer.pt") as archive:
        content = bytearray(archive.read("optimizer/data.pkl"))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unsound):
        list_pickle(bytes(content), "x")


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_no_bytes_crash_the_walk(content: bytes) -> None:
    with contextlib.suppress(Unsound):
        list_pickle(b"\x80\x02" + content, "x")
