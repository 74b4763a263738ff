"""The number format on a processor: bf16 where it is faster and loses nothing, and never another one in the middle of a run.
The memory that a run may take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import control_group
from engine.config import RunConfig
from engine.hardware import WIDE, choose_hardware, free_memory, share_the_processor
from engine.models.report import model_report
from tests.conftest import build_tiny_model
from tests.engine.runs import plan, receipt, train


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One-layer models: wide and narrow, stored in bf16 and in float32."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("models")
    tiny = build_tiny_model(folder / "tiny")
    found = {}
    for width, hidden in (("wide", WIDE), ("narrow", WIDE // 2)):
        config = LlamaConfig.from_pretrained(
            tiny, hidden_size=hidden, intermediate_size=64, num_hidden_layers=1, head_dim=16
        )
        model = AutoModelForCausalLM.from_config(config)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            found[f"{width} {name}"] = shutil.copytree(tiny, folder / f"{width} {name}")
            model.to(dtype).save_pretrained(folder / f"{width} {name}")
    return found


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whether this processor says it has bf16 units."""

    def say(there: bool) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    return say


@pytest.mark.parametrize(
    ("there", "model", "saved", "precision"),
    [
        (True, "wide bfloat16", None, "bfloat16"),
        (False, "wide bfloat16", None, "float32"),
        (True, "wide float32", None, "float32"),
        (True, "narrow bfloat16", None, "float32"),
        (True, "wide bfloat16", "float32", "float32"),
        (True, "narrow float32", "bfloat16", "bfloat16"),
        (False, "wide bfloat16", "bfloat16", "float32"),
        (True, "wide bfloat16", "4bit", "bfloat16"),
    ],
)
def test_the_choice_on_a_processor(
    there: bool, model: str, saved: str | None, precision: str, units: Any, models: dict[str, Path]
) -> None:
    units(there)
    found = choose_hardware(RunConfig(), model_report(str(models[model])), saved)
    assert found.precision == precision
    assert found.precision_reason


def test_what_was_asked_for_wins(units: Any, models: dict[str, Path]) -> None:
    units(True)
    asked = RunConfig(precision="float32")
    assert choose_hardware(asked, model_report(str(models["wide bfloat16"])), "bfloat16").precision == "float32"


def test_a_run_begun_in_float32_goes_on_in_it_on_a_processor_with_units(
    units: Any, models: dict[str, Path], chat_file: Path, tmp_path: Path
) -> None:
    """As one that was begun before there was a choice, or on another machine."""
    flags = {"dataset": chat_file, "output": tmp_path / "run", "model": models["wide bfloat16"], "epochs": 1}
    units(False)
    train(stop_at=3, **flags)
    units(True)
    assert plan(**flags).saved_precision == "float32"
    _outcome, events = train(**flags)
    assert receipt(events)["precision"] == "ok"
    started = next(event for event in events if event.type == "run_started")
    assert started.choices["precision"].startswith("float32 · ")  # type: ignore[attr-defined]


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}])
def test_how_threads_wait_is_set_only_where_nobody_has_said(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, own.get(name, ""))  # so that it is put back afterwards
        if name not in own:
            monkeypatch.delenv(name)
    share_the_processor()
    found = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    assert found == (own or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"})


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with 64 GB, 50 of them free, whose control groups hold these files; `line` is what the process is told of its own."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50 * 10**9, total=64 * 10**9))
    monkeypatch.setattr(control_group, "MOUNTED", tmp_path / "groups")
    monkeypatch.setattr(control_group, "OF_THIS_PROCESS", tmp_path / "cgroup")

    def there(line: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(line + "\n")
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return there


STAT = "anon 3000000000\nfile 2000000000\ninactive_file 1500000000\nactive_file 500000000"


def test_a_container_has_the_memory_it_is_limited_to(groups: Any) -> None:
    groups("0::/", {"memory.max": "8000000000", "memory.current": "3000000000", "memory.stat": "anon 3000000000"})
    assert free_memory("cpu") == (5 * 10**9, 8 * 10**9)


def test_what_the_system_keeps_of_files_is_free(groups: Any) -> None:
    groups("0::/", {"memory.max": "8000000000", "memory.current": "5000000000", "memory.stat": STAT})
    assert free_memory("cpu")[0] == 5 * 10**9


def test_a_batch_job_has_the_memory_that_a_group_above_its_own_is_limited_to(groups: Any) -> None:
    job = {
        "slurm/job_7/memory.max": "4000000000",
        "slurm/job_7/memory.current": "1000000000",
        "slurm/job_7/memory.stat": "anon 1",
    }
    step = {"slurm/job_7/step_0/memory.max": "max", "slurm/job_7/step_0/memory.current": "1000000000"}
    groups("0::/slurm/job_7/step_0", job | step)
    assert free_memory("cpu") == (3 * 10**9, 4 * 10**9)


def test_control_groups_of_version_1_count_too(groups: Any) -> None:
    """In a container its own group is the root, whatever path it is told."""
    files = {"memory.limit_in_bytes": "8000000000", "memory.usage_in_bytes": "6000000000",
             "memory.stat": "inactive_file 1\ntotal_inactive_file 1000000000\ntotal_active_file 0"}  # fmt: skip
    groups("4:memory:/docker/abc", {f"memory/{name}": text for name, text in files.items()})
    assert free_memory("cpu") == (3 * 10**9, 8 * 10**9)


def test_without_a_limit_it_is_the_machines_memory(groups: Any) -> None:
    files = {"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "6000000000", "memory.stat": ""}
    groups("4:memory:/", {f"memory/{name}": text for name, text in files.items()})
    assert free_memory("cpu") == (50 * 10**9, 64 * 10**9)
