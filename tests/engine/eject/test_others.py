"""The run as a YAML for other trainers: its settings, its columns, and what they do otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.eject import eject
from tests.conftest import write_jsonl
from tests.engine.data.families import CHAT
from tests.engine.eject.rows import COLUMNS, ROWS, lines
from tests.engine.export.families import build
from tests.engine.runs import train


def test_the_other_trainers_settings_are_the_runs(ran: Path) -> None:
    axolotl, factory = (yaml.safe_load(eject(ran, to)) for to in ("axolotl", "llamafactory"))
    assert (axolotl["lora_r"], axolotl["learning_rate"], axolotl["seed"], axolotl["num_epochs"]) == (3, 0.0125, 7, 4)
    assert (factory["lora_rank"], factory["learning_rate"], factory["seed"], factory["num_train_epochs"]) == (
        3,
        0.0125,
        7,
        4,
    )
    assert axolotl["micro_batch_size"] == factory["per_device_train_batch_size"] == 6
    assert axolotl["warmup_steps"] == factory["warmup_steps"] == 1


def test_renamed_columns_have_their_own_names_in_other_trainers_settings(tmp_path: Path, tiny_model: Path) -> None:
    """Those read the dataset as it is."""
    for name, asked in COLUMNS.items():
        data = write_jsonl(tmp_path / f"{name}.jsonl", ROWS[name])
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=6, columns=asked)
    axolotl, factory = (eject(tmp_path / "renamed turns", to) for to in ("axolotl", "llamafactory"))
    (dataset,) = yaml.safe_load(axolotl)["datasets"]
    assert dataset["field_messages"] == "talk"
    assert dataset["message_property_mappings"] == {"role": "who", "content": "what"}
    assert _entry(factory)["columns"] == {"messages": "talk"}
    assert {"role_tag": "who", "content_tag": "what"}.items() <= _entry(factory)["tags"].items()
    (dataset,) = yaml.safe_load(eject(tmp_path / "renamed columns", "axolotl"))["datasets"]
    assert (dataset["type"]["field_instruction"], dataset["type"]["field_output"]) == ("ask", "say")


def _entry(text: str) -> dict[str, Any]:
    """What LLaMA-Factory's dataset_info.json is to say."""
    (entry,) = json.loads(next(line for line in text.splitlines() if "dataset_info.json" in line).split(": ", 1)[1]).values()
    assert isinstance(entry, dict)
    return entry


def test_that_only_last_answers_were_learned_is_in_the_other_trainers_settings(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["last answers"])
    for name, train_on in (("last", "completion"), ("each", "auto")):
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=6, train_on=train_on)
        assert yaml.safe_load(eject(tmp_path / name, "llamafactory")).get("mask_history", False) == (name == "last")
        assert ("# lora-tui learned only the last answer" in eject(tmp_path / name, "axolotl")) == (name == "last")


def test_columns_beside_the_turns_are_named_to_llama_factory(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "sys": "Be brief.", "tools": ""} for row in ROWS["messages"]]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    train(
        dataset=data,
        model=tiny_model,
        output=tmp_path / "out",
        max_steps=1,
        batch_size=6,
        columns="messages=messages,system=sys",
    )
    wanted = {"messages": "messages", "system": "sys", "tools": "tools"}
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"] == wanted


def test_a_small_learning_rate_stays_a_number(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, learning_rate=2e-5)
    assert yaml.safe_load(eject(tmp_path / "out", "axolotl"))["learning_rate"] == 2e-5


def test_the_columns_of_dolly_are_named_to_the_other_trainers(tmp_path: Path, tiny_model: Path) -> None:
    row = {"instruction": "Who", "context": "is there?", "response": "We.", "system_prompt": "Short."}
    data = write_jsonl(tmp_path / "rows.jsonl", [row] * 2)
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=2)
    wanted = {"prompt": "instruction", "query": "context", "response": "response", "system": "system_prompt"}
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"] == wanted
    assert '{"response": "output", "context": "input"}' in eject(tmp_path / "out", "axolotl")


def test_turns_that_the_other_trainers_do_not_read_are_told(tmp_path: Path, tiny_model: Path) -> None:
    swift = [CHAT[0], {"role": "tool_response", "content": "{}"}, *CHAT[1:]]
    for name, turns in (("pairs", [{"human": "Who?", "assistant": "We."}]), ("swift", swift), ("turns", CHAT)):
        data = write_jsonl(tmp_path / f"{name}.jsonl", [{"conversation": turns}] * 2)
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=2)
        assert ("does not read turns as this dataset has them" in eject(tmp_path / name, "axolotl")) == (name != "turns")


def test_texts_are_not_packed_by_llama_factory(tmp_path: Path, tiny_model: Path) -> None:
    """It does where nobody says otherwise."""
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert yaml.safe_load(eject(tmp_path / "out", "llamafactory"))["packing"] is False


UNLIKE: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "a weight": ("rows.jsonl", lines([{"messages": [*CHAT[:1], {**CHAT[1], "weight": 0}, *CHAT[2:]]}]), {}, "are learned there"),
    "turns as pairs": ("rows.jsonl", lines([{"prompt": CHAT[:3], "completion": CHAT[3:]}]), {}, "no turns for prompts"),
    "a semicolon": ("rows.csv", b"prompt;completion\na;b\n", {}, 'parted by ";"'),
    "an encoding": ("rows.jsonl", '{"prompt": "你好", "completion": "再见"}\n'.encode("gb18030"), {"encoding": "gb18030"}, "gb18030"),
    "an early end": ("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n', {"stop_at_loss": 0.001}, "as low as 0.001"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_what_other_trainers_do_otherwise_is_told(case: str, tmp_path: Path, tiny_model: Path) -> None:
    name, content, asked, told = UNLIKE[case]
    (tmp_path / name).write_bytes(content)
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=1, **asked)
    for to in ("axolotl", "llamafactory"):
        comments = [line for line in eject(tmp_path / "out", to).splitlines() if line.startswith("# ")]
        assert any(told in line for line in comments)


def test_a_column_that_the_first_row_lacks_is_named_to_the_other_trainers(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [ROWS["messages"][0], {**ROWS["messages"][1], "system_prompt": "Be brief."}])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=2)
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"]["system"] == "system_prompt"
    (dataset,) = yaml.safe_load(eject(tmp_path / "out", "axolotl"))["datasets"]
    assert dataset["field_system"] == "system_prompt"


def test_a_run_is_called_by_its_folder_also_from_inside_it_and_by_one_name_at_llama_factory(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["messages"])
    train(dataset=data, model=tiny_model, output=tmp_path / "this, that", max_steps=1, batch_size=6)
    monkeypatch.chdir(tmp_path / "this, that")
    factory = eject(Path(), "llamafactory")
    assert yaml.safe_load(factory)["output_dir"] == "this, that-llamafactory"
    told = next(line for line in factory.splitlines() if "dataset_info.json" in line)
    assert list(json.loads(told.split(": ", 1)[1])) == [yaml.safe_load(factory)["dataset"]] == ["this- that"]
    assert "output_dir='this, that-trl'" in eject(Path(), "script")


def test_what_peft_sets_by_the_layers_itself_is_not_told_as_lacking(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["messages"])
    train(dataset=data, model=build(tmp_path / "base", "gpt2"), output=tmp_path / "out", max_steps=1, batch_size=6)
    assert "fan_in_fan_out=True" in eject(tmp_path / "out", "script")
    assert not any("has no setting" in eject(tmp_path / "out", to) for to in ("axolotl", "llamafactory"))
