"""The receipt: something in the checkpoint is not what was saved, with all file digests made to fit. It refuses, and says what."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.checkpoints.manifest import Identities
from engine.data.identity import identify
from engine.errors import CannotContinue, LoraTuiError, OutputError
from engine.resume.receipt import Item, Receipt, accepted, check_material, versions_item
from tests.engine.checkpoints.folders import undigested
from tests.engine.runs import losses, receipt, train

FLAGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "save_steps": 3,
    "keep": 9,
    "lora_dropout": 0.1,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(stop_at=7, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


def change_tensors(checkpoint: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**undigested(path), **values}))


def forge(checkpoint: Path) -> None:
    """Write the manifest's file digests anew, as whoever tampers would."""
    manifest = undigested(checkpoint / "manifest.json")
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def noisy(tensors: dict[str, Any]) -> dict[str, Any]:
    name = sorted(tensors)[1]
    return {**tensors, name: tensors[name] + 0.01}


def forgotten(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in tensors.items()}


def forge_adapter_too(checkpoint: Path) -> None:
    from engine.training.digests import tensors_digest
    from engine.training.memory import adapter_in_file

    path = checkpoint / "manifest.json"
    manifest = undigested(path)
    manifest["adapter"]["sha256"] = tensors_digest(adapter_in_file(checkpoint))
    path.write_text(json.dumps(manifest))


def from_another_step(name: str) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        shutil.copy(checkpoint.with_name("checkpoint-3") / name, checkpoint / name)

    return change


def the_adapter_is_gone(checkpoint: Path) -> None:
    change_tensors(checkpoint, forgotten)
    forge_adapter_too(checkpoint)


def of_another_shape(checkpoint: Path) -> None:
    import torch

    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    del state["state"][state["param_groups"][0]["params"].pop()]
    torch.save(state, checkpoint / "optimizer.pt")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor changed": (lambda checkpoint: change_tensors(checkpoint, noisy), "adapter_values"),
    "no effect any more": (the_adapter_is_gone, "probe_loss"),
    "rank-stabilised scaling": (
        lambda checkpoint: change_json(checkpoint / "adapter_config.json", use_rslora=True),
        "probe_loss",
    ),
    "optimizer of another step": (from_another_step("optimizer.pt"), "optimizer"),
    "optimizer of another shape": (of_another_shape, "optimizer"),
    "scheduler of another step": (from_another_step("scheduler.pt"), "scheduler"),
    "random states of another step": (from_another_step("rng_state.pth"), "rng"),
}


def tampered(stopped: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    change(run / "checkpoint-7")
    forge(run / "checkpoint-7")
    for other in ("checkpoint-3", "checkpoint-6"):
        shutil.rmtree(run / other)
    return run


@pytest.mark.parametrize(("change", "item"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_what_was_saved_is_refused_by_name_before_the_first_step(
    change: Callable[[Path], None], item: str, stopped: Path, tmp_path: Path
) -> None:
    run = tampered(stopped, tmp_path, change)
    events: list[Any] = []
    before = losses(run)
    with pytest.raises(CannotContinue) as refused:
        train(output=run, watch=events.append)
    assert refused.value.detail.startswith(f"{item}:")
    assert receipt(events)[item] == "failed"
    assert losses(run) == before


def test_want_of_memory_while_the_optimizer_is_loaded_is_not_the_checkpoints_fault(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    def full(*_words: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Trainer, "_load_optimizer_and_scheduler", full)
    with pytest.raises(LoraTuiError) as failed:
        train(output=Path(shutil.copytree(stopped, tmp_path / "run")))
    assert not isinstance(failed.value, CannotContinue)


def test_a_failed_optimizer_can_be_accepted(stopped: Path, tmp_path: Path) -> None:
    run = tampered(stopped, tmp_path, from_another_step("optimizer.pt"))
    outcome, events = train(output=run, accept="optimizer")
    assert (outcome.state, receipt(events)["optimizer"]) == ("finished", "changed")


def test_a_failed_probe_cannot_be_waved_through(stopped: Path, tmp_path: Path) -> None:
    from engine.resume.receipt import Item, accepted

    items = [Item(name, "a", "b", "failed") for name in ("probe_loss", "adapter_values", "base_model", "dataset")]
    verdicts = [item.verdict for item in accepted(items, ("probe_loss", "adapter_values", "base_model", "dataset"))]
    assert verdicts == ["failed", "failed", "failed", "changed"]


def test_a_changed_template_or_tokenizer_is_refused(stopped: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    with pytest.raises(CannotContinue) as refused:
        train(output=run, model=other)
    assert "chat_template" in refused.value.detail


def test_without_a_manifest_the_probe_still_sees_that_the_adapter_has_no_effect(stopped: Path, tmp_path: Path) -> None:
    run = tampered(stopped, tmp_path, lambda checkpoint: change_tensors(checkpoint, forgotten))
    checkpoint = run / "checkpoint-7"
    (checkpoint / "manifest.json").unlink()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["log_history"] = [{**row, "loss": 0.17} for row in state["log_history"]]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(CannotContinue) as refused:
        train(output=run)
    assert "probe_loss" in refused.value.detail


@pytest.mark.parametrize(
    ("saved", "loaded", "verdict"), [("bfloat16", "float32", "changed"), ("float32", "bfloat16", "failed")]
)
def test_an_adapter_may_be_widened_while_it_is_loaded_and_not_rounded(saved: str, loaded: str, verdict: str) -> None:
    import torch

    from engine.training.memory import values_item

    file = {"lora_A.weight": torch.linspace(0, 1, 7).to(getattr(torch, saved))}
    memory = {name: tensor.to(getattr(torch, loaded)) for name, tensor in file.items()}
    assert values_item(file, memory, None).verdict == verdict


def test_an_adapter_is_held_against_its_file_also_on_a_device_without_float64() -> None:
    import torch

    from engine.training.memory import values_item

    class OnAnAppleGpu(torch.Tensor):
        def double(self) -> torch.Tensor:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            return self.as_subclass(torch.Tensor)

    file = {"lora_A.weight": torch.linspace(0, 1, 7).bfloat16()}
    memory = {name: tensor.float().as_subclass(OnAnAppleGpu) for name, tensor in file.items()}
    assert values_item(file, memory, None).verdict == "changed"


def test_an_adapter_that_was_not_written_whole_is_no_checkpoint(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    write = safetensors.torch.save_file

    def unwraps_badly(tensors: dict[str, Any], path: Path, **options: Any) -> None:
        write({name: one for name, one in tensors.items() if "layers.0" not in name}, path, **options)

    monkeypatch.setattr(safetensors.torch, "save_file", unwraps_badly)
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    with pytest.raises(OutputError, match="not the one in memory"):
        train(output=run)
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6", "checkpoint-7"}
    assert not (run / "final").exists()


def test_a_loss_scale_is_held_against_the_saved_one(tmp_path: Path) -> None:
    import torch

    from engine.training.memory import scaler_item

    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    assert scaler_item(tmp_path, "float16", scaler).verdict == "changed"
    torch.save(scaler.state_dict(), tmp_path / "scaler.pt")
    assert scaler_item(tmp_path, "float16", scaler).verdict == "ok"
    other = torch.amp.GradScaler("cpu", init_scale=65_536.0)
    assert scaler_item(tmp_path, "float16", other).verdict == "failed"
    assert scaler_item(tmp_path, "float32", None).verdict == "ok"


def test_a_probe_that_is_no_number_agrees_with_nothing() -> None:
    from engine.training.probe import agrees

    assert not any(agrees(saved, now, "float32") for saved, now in ((math.inf, 1.0), (1.0, math.nan), (math.nan, math.nan)))


def test_a_failed_base_model_shows_two_different_sides() -> None:
    from engine.resume.receipt import same

    config, weights, others = (letter * 64 for letter in "abc")
    item = same("base_model", config + weights, config + others)
    assert (item.expected, item.found) == ("aaaaaaaaaaaa+bbbbbbbbbbbb", "aaaaaaaaaaaa+cccccccccccc")


def test_a_receipt_offers_to_accept_only_where_that_would_be_enough() -> None:
    rng, probe = Item("rng", "a", "b", "failed"), Item("probe_loss", "1", "2", "failed", way="another way")
    for items, offered in (((rng,), True), ((rng, probe), False), ((replace(rng, final=True),), False)):
        with pytest.raises(CannotContinue) as refused:
            Receipt(Path("checkpoint-1"), items).refuse()
        assert ("--accept rng" in refused.value.fix) == offered and ("another way" in refused.value.fix) == (probe in items)
    Receipt(Path("checkpoint-1"), (Item("rng", "a", "b", "changed"), Item("versions", "", "c", "unknown"))).refuse()


def test_only_a_failed_item_that_may_be_accepted_and_is_named_becomes_a_changed_one() -> None:
    items = (Item("rng", "a", "b", "failed"), Item("optimizer", "a", "b", "failed"), Item("dataset", "a", "a", "ok"),
             Item("scheduler", "a", "b", "failed", final=True), Item("probe_loss", "a", "b", "failed"))  # fmt: skip
    now = accepted(items, ("rng", "dataset", "scheduler", "probe_loss"))
    assert [item.verdict for item in now] == ["changed", "failed", "ok", "failed", "failed"]
    assert "--accept" in now[0].detail and now[1:] == items[1:]


@pytest.mark.parametrize(
    ("now", "verdict", "told"),
    [({"torch": "2"}, "ok", ""), ({"torch": "3"}, "changed", "torch 2 -> 3"), ({}, "changed", "torch 2 -> -"),
     ({"torch": "2", "trl": "1"}, "changed", "trl - -> 1")],
)  # fmt: skip
def test_other_versions_are_told_and_refuse_nothing(now: dict[str, str], verdict: str, told: str) -> None:
    item = versions_item(SimpleNamespace(versions={"torch": "2"}), now)  # type: ignore[arg-type]
    assert item.verdict == verdict and told in item.detail


@pytest.mark.parametrize(
    ("change", "failed"),
    [({}, None), ({"dataset": "rows"}, "dataset"), ({"data_settings": "1" * 64}, "dataset"), ({"tokenizer": "1" * 64}, "tokenizer"),
     ({"chat_template": "1" * 64}, "chat_template"), ({"base_weights": "1" * 64}, "base_model"),
     ({"base_config": "1" * 64}, "base_model"), ({"base_model": "elsewhere/the-same"}, None)],
)  # fmt: skip
def test_each_part_of_the_material_fails_by_its_own_name(change: dict[str, Any], failed: str | None) -> None:
    rows = np.zeros((2, 32), np.uint8)
    saved = Identities(base_model="a", base_config="0" * 64, base_weights="0" * 64, tokenizer="0" * 64, chat_template="0" * 64,
                       dataset=identify(rows), eval_dataset=None, data_settings="0" * 64)  # fmt: skip
    now = rows
    if "dataset" in change:
        now = rows + np.uint8(1)
        change = {"dataset": identify(now)}
    manifest: Any = SimpleNamespace(identities=saved)
    items = check_material(manifest, saved.model_copy(update=change), now, None)
    assert [item.item for item in items] == ["base_model", "tokenizer", "chat_template", "dataset"]
    assert [item.item for item in items if item.verdict != "ok"] == ([failed] if failed is not None else [])
