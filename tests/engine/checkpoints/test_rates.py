"""scheduler.pt read without torch: the rates, or nothing, and never an error or anything run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoints.rates import SavedRates, saved_rates, saved_weight_decay


def saved(folder: Path, **state: Any) -> Path:
    torch.save(
        {"base_lrs": [0.01, 0.01], "last_epoch": 20, "_step_count": 21, "_last_lr": [0.002, 0.002], **state}, folder / "s.pt"
    )
    return folder / "s.pt"


def test_a_scheduler_of_torch_is_read(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)
    for _step in range(4):
        optimizer.step()
        scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "s.pt")
    assert saved_rates(tmp_path / "s.pt") == SavedRates(4, 3e-4, pytest.approx(3e-4 * 0.6))


@pytest.mark.parametrize(
    "state",
    [
        {"base_lrs": [0.01, 0.02]}, {"base_lrs": [50.0] * 2}, {"base_lrs": [0.0] * 2}, {"base_lrs": "no list"},
        {"_last_lr": []}, {"_last_lr": [float("nan")] * 2}, {"_last_lr": [-1e-3] * 2},
        {"last_epoch": -1}, {"last_epoch": "20"}, {"last_epoch": 2**70},
    ],
)  # fmt: skip
def test_what_does_not_tell_one_rate_tells_none(state: dict[str, Any], tmp_path: Path) -> None:
    assert saved_rates(saved(tmp_path, **state)) is None


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run!",))


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"base_lrs": [0.01], "_last_lr": [0.01], "last_epoch": Evil()}))
    assert saved_rates(tmp_path / "s.pt") is None and capsys.readouterr().out == ""


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_does_not_unpack_tells_nothing(how: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.pt", "w", how) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"base_lrs": [0.01], "_last_lr": [0.01], "last_epoch": 1}))
        size = archive.infolist()[0].compress_size
    content = bytearray((tmp_path / "s.pt").read_bytes())
    begin = 30 + len("archive/data.pkl")
    content[begin : begin + size] = b"\xff" * size
    (tmp_path / "s.pt").write_bytes(content)
    assert saved_rates(tmp_path / "s.pt") is None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_an_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved(tmp_path).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content[: len(content) - data.draw(st.sampled_from([0, 0, 1, 40]))])
    found = saved_rates(path)
    assert found is None or (0 < found.peak <= 1 and found.next >= 0)


@pytest.mark.parametrize(
    "opcodes", [b"r\xff\xff\xff\xff", b"\x96" + (1 << 40).to_bytes(8, "little")], ids=["memo", "bytearray"]
)
def test_no_file_takes_more_memory_than_it_has(opcodes: bytes, tmp_path: Path) -> None:
    import resource

    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x05N" + opcodes + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert saved_rates(tmp_path / "s.pt") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_the_weight_decay_of_what_is_trained_is_read_beside_its_tensors(tmp_path: Path) -> None:
    one, other = (torch.nn.Parameter(torch.ones(3)) for _which in range(2))
    optimizer = torch.optim.AdamW([{"params": [one], "weight_decay": 0.25}, {"params": [], "weight_decay": 0.0}])
    one.grad = torch.ones(3)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    assert saved_weight_decay(tmp_path / "o.pt") == 0.25
    optimizer.param_groups[1]["params"] = [torch.nn.Parameter(torch.ones(3))]  # a norm that is trained whole
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    assert saved_weight_decay(tmp_path / "o.pt") == 0.25
    optimizer.add_param_group({"params": [other], "weight_decay": 0.5})
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    assert saved_weight_decay(tmp_path / "o.pt") is None


def test_nothing_that_an_optimizer_names_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [{"params": [0], "weight_decay": 0.1}]
    with zipfile.ZipFile(tmp_path / "o.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state": Evil(), "param_groups": groups}))
    assert saved_weight_decay(tmp_path / "o.pt") is None and capsys.readouterr().out == ""
