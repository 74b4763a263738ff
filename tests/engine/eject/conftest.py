"""Runs to be ejected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trl

from tests.conftest import write_jsonl
from tests.engine.eject.rows import COLUMNS, ROWS
from tests.engine.runs import train

TEMPLATES = Path(trl.__file__).parent / "chat_templates"


SLOW = ("sharegpt", "alpaca", "text", "renamed columns", "renamed turns")
"""Formats whose script differs from another's by a line or two."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ROWS])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run's folder: six rows in one batch, so that a step holds all of them and their order is no matter."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write_jsonl(folder / "rows.jsonl", ROWS[request.param])
    asked = {"columns": COLUMNS[request.param]} if request.param in COLUMNS else {}
    asked |= {"train_on": "completion"} if request.param == "last answers" else {}
    model = tiny_model
    if request.param == "tool calls":
        model = shutil.copytree(tiny_model, folder / "model")
        (model / "chat_template.jinja").write_text((TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    train(dataset=data, model=model, output=folder / "the run", epochs=4, batch_size=6, learning_rate=0.0125, warmup=1,
          lora_r=3, seed=7, **asked)  # fmt: skip
    return folder / "the run"
