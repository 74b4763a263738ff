"""What of the settings contradicts what was trained, or changes it, as the plan tells before anything is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.checkpoints.checkpoint import AdapterShape, Checkpoint
from engine.checkpoints.manifest import DatasetIdentity, Geometry, Identities
from engine.config import RunConfig
from engine.errors import CannotContinue, ModelError
from engine.folder import write_run_toml
from engine.resume.contradictions import contradiction
from engine.resume.differences import changed_rows, geometry_difference
from tests.engine.checkpoints.test_lineage import made
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import plan, train


@pytest.fixture
def run(stopped: Path) -> Path:
    """The tests only plan on it."""
    return stopped


def test_every_contradiction_is_told_at_once(run: Path) -> None:
    with pytest.raises(CannotContinue, match="these settings contradict") as refused:
        plan(output=run, lora_r=8, lora_alpha=7, target_modules="q_proj")
    assert all(word in refused.value.detail for word in ("rank", "alpha", "q_proj"))


def test_a_run_on_named_layers_is_none_on_all_of_them(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    train(stop_at=1, dataset=chat_file, model=tiny_model, output=out, target_modules="v_proj,q_proj", **FLAGS)
    with pytest.raises(CannotContinue) as refused:
        plan(output=out, target_modules="all-linear")
    assert "its adapter is on q_proj, v_proj, asked is all-linear" in refused.value.detail


def test_a_run_on_layers_that_were_named_twice_goes_on(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    train(stop_at=1, dataset=chat_file, model=tiny_model, output=out, target_modules="q_proj,q_proj", **FLAGS)
    assert plan(output=out).mode == "continue"


def test_another_precision_is_told(run: Path) -> None:
    told = plan(output=run, precision="bfloat16").differences
    assert [(found.item, found.saved, found.asked) for found in told] == [("precision", "float32", "bfloat16")]


def test_another_warmup_is_a_change_of_the_schedule_and_goes_on(run: Path, tmp_path: Path) -> None:
    asked = plan(output=run, warmup=7)
    assert [one.item for one in asked.differences] == ["schedule"] and not asked.refused
    out = Path(shutil.copytree(run, tmp_path / "run"))
    outcome, events = train(output=out, warmup=7)
    assert outcome.state == "finished"
    (checked,) = [event for event in events if event.type == "resume_checked"]
    assert {item["item"] for item in checked.items if item["verdict"] == "changed"} == {"schedule"}  # type: ignore[attr-defined]


def test_layers_that_no_adapter_can_be_on_are_told_by_the_plan(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    for layers, told in (("nosuch", "nosuch"), ("q_proj,lm_head", "lm_head: no adapter can be put there")):
        with pytest.raises(ModelError, match=told):
            plan(dataset=chat_file, model=tiny_model, output=tmp_path / "new", target_modules=layers)


def stock(base: str | None = "Qwen/Qwen2.5-0.5B", **shape: Any) -> Checkpoint:
    """Another tool's checkpoint of an adapter on two layers of `base`."""
    adapter = AdapterShape("LORA", 4, 8.0, ("k_proj", "q_proj"), base, {})
    return made("checkpoint-9", [3, 2], adapter=replace(adapter, **shape))


def asked(**settings: Any) -> RunConfig:
    return RunConfig(
        **{"lora_r": 4, "lora_alpha": 8, "model": "Qwen2.5-0.5B", "target_modules": "q_proj,k_proj", **settings}
    )


def test_a_folder_of_another_tool_is_not_looked_through_for_each_checkpoint_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(
        "engine.resume.whose.glance", lambda folder: looked.append(folder) or SimpleNamespace(checkpoints=())
    )
    write_run_toml(tmp_path, RunConfig(), "a" * 32)
    checkpoint = replace(stock(), path=tmp_path / "checkpoint-9")
    assert contradiction(checkpoint, asked(target_modules="all-linear")) is None and not looked
    write_run_toml(tmp_path, RunConfig(target_modules="k_proj,q_proj"), "a" * 32)
    assert contradiction(checkpoint, asked(target_modules="all-linear")) is not None and looked


@pytest.mark.parametrize(
    ("setting", "told"),
    [({"lora_r": 5}, "rank"), ({"lora_alpha": 9}, "alpha"), ({"target_modules": "q_proj"}, "adapter is on"),
     ({"model": "Qwen2.5-1.5B"}, "asked is Qwen2.5-1.5B")],
)  # fmt: skip
def test_each_contradiction_is_told_alone_too(setting: dict[str, Any], told: str) -> None:
    assert contradiction(stock(), asked()) is None
    against = contradiction(stock(), asked(**setting))
    assert against is not None and told in against and ";" not in against


def test_what_a_checkpoint_does_not_say_contradicts_nothing() -> None:
    assert contradiction(stock(None, r=None, lora_alpha=None, target_modules=()), asked()) is None
    assert contradiction(replace(stock(), adapter=None), asked(lora_r=5)) is None
    assert contradiction(stock(), asked(target_modules="all-linear")) is None


@pytest.mark.parametrize(
    ("named", "model", "same"),
    [
        ("Qwen/Qwen2.5-0.5B", "/models/qwen2.5-0.5b", True),
        ("/old/machine/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", True),
        ("Qwen/Qwen2.5-0.5B", "/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123", True),
        ("/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123", "/hub/models--Qwen--Qwen2.5-1.5B/snapshots/0123", False),
        ("Qwen/Qwen2.5-0.5B", "/modelscope/Qwen/Qwen2___5-0___5B", True),
        ("Qwen/Qwen2.5-0.5B", "/models/qwen2.5-0.5b/other", False),
        (r"D:\models\Qwen2.5-0.5B", "/models/qwen2.5-0.5b", True),
        (r"C:\hub\models--Qwen--Qwen2.5-0.5B\snapshots\0123", "Qwen/Qwen2.5-0.5B", True),
        (r"D:\models\Qwen2.5-1.5B", "/models/qwen2.5-0.5b", False),
    ],
)
def test_a_base_model_is_the_same_by_its_name_wherever_it_lies(named: str, model: str, same: bool) -> None:
    assert (contradiction(stock(named), asked(model=model)) is None) == same


@pytest.mark.parametrize(
    ("now", "told"), [((2, 4, 1), "stays 8 rows"), ((8, 1, 1), "stays 8 rows"), ((4, 1, 1), "was 8 rows and becomes 4")]
)
def test_how_rows_are_cut_into_steps_is_told_where_it_changes(now: tuple[int, int, int], told: str) -> None:
    saved, other = (Geometry(batch_size=size, grad_accum=times, world_size=world) for size, times, world in ((4, 1, 2), now))
    assert geometry_difference(saved, saved) == []
    (found,) = geometry_difference(saved, other)
    assert (found.item, found.saved, found.asked, found.winner) == (
        "batch_geometry",
        "4 x 1 x 2",
        f"{now[0]} x {now[1]}",
        "asked",
    )
    assert told in found.reason


def test_only_what_makes_other_rows_begins_the_epoch_anew() -> None:
    of = DatasetIdentity(rows=1, ordered="0" * 64, unordered="0" * 64)
    saved = Identities(base_model="a", base_config="0" * 64, base_weights="0" * 64, tokenizer="0" * 64, chat_template="0" * 64,
                       dataset=of, eval_dataset=None, data_settings="0" * 64)  # fmt: skip
    other = "1" * 64
    changes: dict[str, Any] = {
        "tokenizer": other, "chat_template": other, "data_settings": other, "dataset": of.model_copy(update={"ordered": other}),
        "base_model": "b", "eval_dataset": of,
    }  # fmt: skip
    found = {name: changed_rows(saved, saved.model_copy(update={name: value})) for name, value in changes.items()}
    assert found == {"tokenizer": ("tokenizer",), "chat_template": ("chat_template",), "data_settings": ("dataset",),
                     "dataset": ("dataset",), "base_model": (), "eval_dataset": ()}  # fmt: skip


def test_a_base_model_whose_files_were_changed_is_told_as_that(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    """No setting was named that could be left out."""
    model, out = Path(shutil.copytree(tiny_model, tmp_path / "model")), tmp_path / "run"
    train(stop_at=1, dataset=chat_file, model=model, output=out, **FLAGS)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(CannotContinue, match="the base model is no longer what was trained there") as refused:
        plan(output=out)
    assert (
        f"files in {model} were changed" in refused.value.detail and f"Bring the files of {model} back" in refused.value.fix
    )


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_a_base_model_that_cannot_be_loaded_any_more_is_no_other_model(
    tmp_path: Path, tiny_model: Path, chat_file: Path, how: str
) -> None:
    model, out = Path(shutil.copytree(tiny_model, tmp_path / "model")), tmp_path / "run"
    train(stop_at=1, dataset=chat_file, model=model, output=out, **FLAGS)
    weights = model / "model.safetensors"
    if how == "torn":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.unlink()
    with pytest.raises(ModelError, match="cannot be loaded" if how == "torn" else "has no weights"):
        plan(output=out)
