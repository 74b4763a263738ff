"""With HF_ENDPOINT a mirror serves model and dataset; what was fetched once can be looked at without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal import read_journal
from tests.conftest import chats, write_jsonl
from tests.engine.mirror import Mirror, mirror

RUN = ["--yes", "--dataset", "org/chats", "--model", "org/tiny", "--output", "run", "--max-steps", "2", "--batch-size", "4"]


@pytest.fixture
def served(tmp_path: Path, tiny_model: Path) -> Iterator[Mirror]:
    data = tmp_path / "served"
    data.mkdir()
    write_jsonl(data / "train.jsonl", chats(12))
    write_jsonl(data / "validation.jsonl", chats(15)[12:])
    with mirror(models__org__tiny=tiny_model, datasets__org__chats=data) as server:
        yield server


def lora_tui(folder: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf"),
                   "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}  # fmt: skip
    environment.pop("HF_DATASETS_CACHE", None)
    return subprocess.run(
        [sys.executable, "-m", "tui", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_run_from_a_mirror_and_once_more_when_it_is_gone(served: Mirror, tmp_path: Path) -> None:
    done = lora_tui(tmp_path, served.address, *RUN, "--eval-dataset", "validation")
    assert done.returncode == 0, done.stderr
    assert any("org/tiny/resolve" in asked for asked in served.asked), "the model was not fetched from it"
    assert any("datasets/org/chats/resolve" in asked for asked in served.asked)
    told = [record for record in read_journal(tmp_path / "run") if record["type"] == "evaluated"]
    assert told and told[-1]["eval_loss"] > 0
    served.shutdown()
    served.server_close()
    again = lora_tui(tmp_path, served.address, "data", "org/chats", "--model", "org/tiny", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["rows"] == 12 and found["trained_tokens"] > 0
