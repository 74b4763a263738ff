"""Rows that are longer than a model was made for: told, and refused where the model has nothing for their last tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.data.places import Places, beyond, places_of, with_places
from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.errors import ConfigError
from engine.events import Warned
from engine.models.folder import load_tokenizer
from tests.engine.runs import train

LONG: Any = SimpleNamespace(lengths=np.array([9, 16, 17, 40]), source_row=np.array([1, 2, 4, 5]))


def model(folder: Path, tensors: dict[str, tuple[int, int]], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "some", **config}))
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("tensors", "config", "places"),
    [
        ({"wpe.weight": (16, 4)}, {"n_positions": 16}, Places(16, True)),
        ({"model.decoder.embed_positions.weight": (18, 4)}, {"max_position_embeddings": 16}, Places(16, True)),
        ({"model.embed_tokens.weight": (16, 4)}, {"max_position_embeddings": 16}, Places(16, False)),
        ({"vision.embed_positions.weight": (9, 4)}, {"text_config": {"max_position_embeddings": 16}}, Places(16, False)),
        ({"a.weight": (2, 2)}, {"max_position_embeddings": 16, "rope_scaling": {"factor": 4.0}}, Places(64, False)),
        ({"a.weight": (2, 2)}, {"max_position_embeddings": 16, "rope_parameters": {"factor": 0.5}}, Places(16, False)),
        ({"a.weight": (2, 2)}, {}, None),
        ({"a.weight": (2, 2)}, {"max_position_embeddings": -1}, None),
    ],
)
def test_the_places_are_read_off_config_and_headers(
    tmp_path: Path, tensors: dict[str, tuple[int, int]], config: dict[str, Any], places: Places | None
) -> None:
    assert places_of(model(tmp_path / "model", tensors, **config)) == places


def test_of_a_folder_that_cannot_be_read_nothing_is_said(tmp_path: Path) -> None:
    assert places_of(tmp_path) is None
    (model(tmp_path, {"a": (2, 2)}, n_positions=16) / "model.safetensors").write_bytes(b"torn")
    assert places_of(tmp_path) is None


def test_rows_beyond_what_a_model_was_made_for_are_told(tmp_path: Path) -> None:
    found = beyond(LONG, model(tmp_path, {"a": (2, 2)}, max_position_embeddings=16), 1024)
    assert found is not None and (found.row, found.severity) == (4, "costs")
    assert found.message.startswith("2 rows are longer than the 16 tokens") and "--max-length 16" in found.fix
    assert beyond(LONG, model(tmp_path, {"a": (2, 2)}, max_position_embeddings=40), 1024) is None


def test_rows_for_whose_last_tokens_a_model_has_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no more than 16 tokens") as refused:
        beyond(LONG, model(tmp_path, {"wpe.weight": (16, 4)}, n_positions=16), 1024)
    assert "row 4 with 17" in refused.value.detail and "--max-length 16" in refused.value.fix


@pytest.fixture(scope="module")
def short_gpt(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A GPT-2 that has learned vectors for 32 places, with the tokenizer of `tiny_model`."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "short-gpt"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    config = GPT2Config(vocab_size=len(tokenizer), eos_token_id=end, bos_token_id=end, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_run_is_refused_before_its_first_step_and_trains_on_what_fits(
    short_gpt: Path, chat_file: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"dataset": chat_file, "model": short_gpt, "max_steps": 1, "output": tmp_path / "run"}
    with pytest.raises(ConfigError, match="--max-length 1024"):
        train(**flags)
    _outcome, events = train(**flags, max_length=32)
    assert not [event for event in events if isinstance(event, Warned) and "longer than" in event.message]


def test_a_report_says_what_the_run_would(short_gpt: Path, chat_file: Path) -> None:
    report = with_places(
        dataset_report(str(chat_file), Reading(), load_tokenizer(short_gpt), "auto", 1024), short_gpt
    ).to_json()
    assert [(one["code"], one["severity"]) for one in report["problems"]] == [("setting_unusable", "stops")]
    cut = with_places(dataset_report(str(chat_file), Reading(), load_tokenizer(short_gpt), "auto", 32), short_gpt)
    assert cut.stopped is None and "beyond_context" not in cut.counts


def test_a_run_of_a_model_that_can_go_beyond_says_so(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    short = Path(shutil.copytree(tiny_model, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    _outcome, events = train(dataset=chat_file, model=short, max_steps=1, output=tmp_path / "run")
    (told,) = [event for event in events if isinstance(event, Warned) and "longer than" in event.message]
    assert "10 rows are longer than the 32 tokens" in told.message
