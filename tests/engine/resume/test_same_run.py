"""C6: a run that was stopped anywhere and continued is the same run, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.runs import adapter_bytes, losses, receipt, train

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora_dropout": 0.2},
    "accumulation": {"grad_accum": 2, "batch_size": 3, "lora_dropout": 0.1, "epochs": 3},
    "evaluation": {"eval_fraction": 0.2, "epochs": 3, "save_steps": 3, "lora_dropout": 0.1},
    "rare logs": {"logging_steps": 4, "lora_dropout": 0.1},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 with dropout": {"precision": "bfloat16", "lora_dropout": 0.1},
}
"""Each so long that there are steps after the last stop."""


@pytest.mark.parametrize("stop_at", [1, 5, 7, 8, 13])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_stopped_and_continued_run_is_the_uninterrupted_one(
    settings: dict[str, Any], stop_at: int, tmp_path: Path, tiny_model: Path, chat_file: Path, straight: Any
) -> None:
    flags = {
        "dataset": chat_file,
        "model": tiny_model,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 4,
        **settings,
    }
    whole = straight(flags)
    out = tmp_path / "run"
    outcome, _events = train(stop_at=stop_at, **flags, output=out)
    assert (outcome.state, outcome.step) == ("stopped", stop_at)
    _outcome, events = train(output=out)
    assert set(receipt(events).values()) == {"ok"}
    assert adapter_bytes(out) == adapter_bytes(whole)
    assert losses(out) == losses(whole)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """flags -> folder of the run that was never interrupted; made once for each."""
    made: dict[str, Path] = {}

    def run(flags: dict[str, Any]) -> Path:
        key = repr(sorted(flags.items(), key=str))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("straight") / "run"
            train(**flags, output=made[key])
        return made[key]

    return run
