"""The number format on a processor: bf16 where it is faster and loses nothing, and never another one in the middle of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.config import RunConfig
from engine.hardware import WIDE, choose_hardware, share_the_processor
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
