"""A file like one that was found sound is judged as if it were the first: what is remembered of the other changes no verdict."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.checkpoints import pickles, safetensors_header, torch_file
from engine.checkpoints.checkpoint import Problem
from engine.checkpoints.files import Unsound, reading_once
from engine.checkpoints.safetensors_header import check_safetensors
from engine.checkpoints.torch_file import check_torch_file


def forget() -> None:
    for kept in (torch_file._layouts, safetensors_header._headers, pickles._walked):
        kept.clear()


def verdict(path: Path, checksums: bool = False) -> Any:
    """What is found in `path`, or what is wrong with it."""
    try:
        with reading_once():
            if path.suffix == ".safetensors":
                return check_safetensors(path, finite=True)
            return check_torch_file(path, contents=True, checksums=checksums)
    except Unsound as wrong:
        return wrong.problem


@functools.cache
def sound(folder: Path, kind: str) -> bytes:
    """A small optimizer or adapter, as torch and safetensors write them."""
    torch.manual_seed(0)
    if kind == ".pt":
        parameter = torch.nn.Parameter(torch.randn(3, 5))
        optimizer = torch.optim.AdamW([parameter, torch.nn.Parameter(torch.randn(2))], lr=0.1)
        parameter.grad = torch.randn(3, 5)
        optimizer.step()
        torch.save(optimizer.state_dict(), folder / "sound.pt")
    else:
        save_file({"a.lora_A": torch.randn(2, 3), "a.lora_B": torch.randn(3, 2)}, folder / "sound.safetensors")
    return (folder / f"sound{kind}").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen")


@pytest.mark.parametrize(("kind", "checksums"), [(".pt", False), (".pt", True), (".safetensors", False)])
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_what_was_seen_before_changes_no_verdict(kind: str, checksums: bool, folder: Path, data: st.DataObject) -> None:
    first = sound(folder, kind)
    changed = bytearray(first)
    for at in data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=3)):
        changed[at] = data.draw(st.sampled_from([0, 1, 0x2E, 0x7F, 0x80, 0xFF, (changed[at] + 1) % 256]))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 4, 64]))
    for name, content in (("first", first), ("other", bytes(changed[: len(changed) - cut]))):
        (folder / f"{name}{kind}").write_bytes(content)
    forget()
    alone = verdict(folder / f"other{kind}", checksums)
    forget()
    assert not isinstance(verdict(folder / f"first{kind}", checksums), Problem)
    assert verdict(folder / f"other{kind}", checksums) == alone


@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_other_numbers_in_the_same_places_are_not_taken_apart_again(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sound(folder, kind)
    number = torch.tensor([0.5]).numpy().tobytes()
    (folder / f"first{kind}").write_bytes(first)
    forget()
    verdict(folder / f"first{kind}")
    begin = _a_number(first, kind)
    (folder / f"other{kind}").write_bytes(first[:begin] + number + first[begin + 4 :])
    for module, name in ((torch_file, "_entries"), (safetensors_header, "read_header")):
        monkeypatch.setattr(module, name, lambda *_arguments: pytest.fail("taken apart again"))
    assert not isinstance(verdict(folder / f"other{kind}"), Problem)


@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_found_in_a_file_like_one_that_was_sound(kind: str, bad: float, folder: Path) -> None:
    first = sound(folder, kind)
    (folder / f"first{kind}").write_bytes(first)
    forget()
    verdict(folder / f"first{kind}")
    begin = _a_number(first, kind)
    (folder / f"other{kind}").write_bytes(first[:begin] + torch.tensor([bad]).numpy().tobytes() + first[begin + 4 :])
    assert verdict(folder / f"other{kind}").code == "non_finite"


def test_the_next_optimizer_of_a_run_is_held_against_its_checksums_without_being_taken_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "first.pt").write_bytes(sound(folder, ".pt"))
    state = torch.load(folder / "first.pt")
    for moments in state["state"].values():
        moments["exp_avg"].mul_(0.5)
    torch.save(state, folder / "sound.pt")  # the name is in the file
    forget()
    verdict(folder / "first.pt", checksums=True)
    next_one = (folder / "sound.pt").read_bytes()
    at = _a_number(next_one, ".pt")
    torn = next_one[:at] + bytes([next_one[at] ^ 1]) + next_one[at + 1 :]
    for name, content in (("next.pt", next_one), ("torn.pt", torn)):
        (folder / name).write_bytes(content)
    assert verdict(folder / "torn.pt", checksums=True).code == "torch_file_invalid"
    monkeypatch.setattr(torch_file, "_entries", lambda *_arguments: pytest.fail("taken apart again"))
    assert not isinstance(verdict(folder / "next.pt", checksums=True), Problem)


def _a_number(content: bytes, kind: str) -> int:
    """Where a float32 of a tensor stands."""
    if kind == ".safetensors":
        return len(content) - 4
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = next(one.header_offset for one in archive.infolist() if one.filename.endswith("/data/1"))
    return header + 30 + sum(struct.unpack("<HH", content[header + 26 : header + 30]))


def test_a_checksum_that_looks_like_nan_costs_no_second_walk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands between the numbers of every third optimizer; such a file's layout was never made use of."""
    forget()
    path = folder / "checksum.pt"
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        torch.save({"state": {n: {"exp_avg": torch.randn(8, generator=generator)} for n in range(20)}}, path)
        data = path.read_bytes()
        words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
        if any(word & 0x7F800000 == 0x7F800000 for word in words):
            break
    else:
        raise AssertionError("no such file was made")
    first = verdict(path)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # whoever takes it apart once more fails
    assert verdict(path) == first and first.tensors
