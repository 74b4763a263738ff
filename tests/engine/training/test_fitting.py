"""Memory that does not suffice: found out by real runs whose model says "out of memory" above a number of rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from engine.checkpoints.scan import scan
from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.errors import LoraTuiError
from engine.events import ResumeChecked
from engine.sources import read_toml
from engine.training import trial
from engine.training.expect import expect
from engine.training.fitting import let_go, smaller
from tests.engine.runs import adapter_bytes, losses, plan, train

FLAGS: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-2, "save_steps": 2}


def allow(monkeypatch: pytest.MonkeyPatch, rows: int, from_step: int = 0) -> None:
    """From now on the device holds `rows` rows at a time, from a step on."""
    from engine.training.sft import ExactTrainer

    compute = ExactTrainer.training_step

    def limited(self: Any, model: Any, inputs: Any, *more: Any) -> Any:
        if len(inputs["input_ids"]) > rows and self.state.global_step >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return compute(self, model, inputs, *more)

    monkeypatch.setattr(ExactTrainer, "training_step", limited)


def test_auto_finds_what_fits_stores_it_and_goes_on_with_it(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, rows=2)
    outcome, events = train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    assert outcome.state == "finished"
    assert [event.code for event in events if event.type == "warned"] == ["batch_size", "batch_size"]  # type: ignore[attr-defined]
    stored = read_toml(tmp_path / "run" / "run.toml", "run").values
    assert (stored["batch_size"], stored["grad_accum"]) == (2, 4)
    _outcome, events = train(output=tmp_path / "run", epochs=2)
    assert not [event for event in events if event.type == "warned"]
    last = max(scan(tmp_path / "run").checkpoints, key=lambda one: one.step or 0).manifest
    assert last is not None and (last.geometry.batch_size, last.geometry.grad_accum) == (2, 4)


def test_rows_that_the_estimate_made_fewer_are_made_fewer_still(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import deciding
    from engine.training.estimate import fit_batch

    def four_fit(*asked: Any) -> Any:
        found = fit_batch(*asked)
        return replace(found, batch_size=4, fewer_times=2) if asked[1].batch_size == "auto" else found

    monkeypatch.setattr(deciding, "fit_batch", four_fit)
    allow(monkeypatch, rows=2)
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    stored = read_toml(tmp_path / "run" / "run.toml", "run").values
    assert (stored["batch_size"], stored["grad_accum"]) == (2, 4)


def test_rows_that_are_made_fewer_for_a_continued_run_are_not_told_as_asked_for(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import deciding
    from engine.training.estimate import fit_batch

    def four_fit(*asked: Any) -> Any:
        return replace(fit_batch(*asked), batch_size=4, fewer_times=2)

    train(stop_at=1, dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    monkeypatch.setattr(deciding, "fit_batch", four_fit)
    _outcome, events = train(output=tmp_path / "run")
    (checked,) = [event for event in events if isinstance(event, ResumeChecked)]
    told = {one["item"]: (one["found"], one["detail"]) for one in checked.items}
    assert told["batch_geometry"] == ("4 x 2", "It is no longer what was saved.")


def test_the_steps_of_a_smaller_batch_are_those_that_were_asked_for(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "asked", batch_size=2, grad_accum=4, **FLAGS)
    allow(monkeypatch, rows=2)
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "found", **FLAGS)
    assert losses(tmp_path / "found") == losses(tmp_path / "asked")
    assert adapter_bytes(tmp_path / "found") == adapter_bytes(tmp_path / "asked")


def test_memory_that_runs_out_late_goes_on_from_the_last_checkpoint(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, rows=4, from_step=2)
    outcome, events = train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    assert outcome.state == "finished"
    begun = [event.step for event in events if event.type == "run_started"]  # type: ignore[attr-defined]
    assert begun == [0, 2]
    assert [step for step, _loss in losses(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_checkpoint_that_was_being_written_when_the_memory_ran_out_is_told(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, rows=2, from_step=2)
    _outcome, events = train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", batch_size="auto", **FLAGS)
    saved = [event.checkpoint for event in events if event.type == "checkpoint_saved"]  # type: ignore[attr-defined]
    assert saved[0] == "checkpoint-2"


def test_a_size_that_was_asked_for_is_not_changed_and_the_message_names_the_estimate(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, rows=2)
    with pytest.raises(LoraTuiError) as failed:
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", batch_size=4, **FLAGS)
    assert "memory of the device is used up" in failed.value.title
    assert "Estimated at the peak" in failed.value.detail and "4 x" in failed.value.detail
    assert "--batch-size" in failed.value.fix


def test_an_apple_gpu_is_given_its_memory_back_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: asked.append("empty_cache"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: asked.append("synchronize"))
    let_go()
    trial._wait_for("cpu")
    trial._wait_for("mps")
    assert asked == ["empty_cache", "synchronize"]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_a_model_that_does_not_fit_is_told_at_once_and_as_that(
    kind: type[Exception], tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    loaded = []

    def too_large(*_arguments: Any, **_options: Any) -> Any:
        loaded.append(1)
        raise kind("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", too_large)
    with pytest.raises(LoraTuiError) as failed:
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", **FLAGS)
    assert "memory of the device is used up" in failed.value.title and "20.00 GiB" in failed.value.detail
    assert "causal language model" not in str(failed.value)
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("now", "then"), [((8, 1), (4, 2)), ((6, 2), (3, 4)), ((7, 1), (1, 7)), ((9, 1), (3, 3)), ((1, 8), None)]
)
def test_fewer_rows_at_a_time_make_the_same_step(now: tuple[int, int], then: tuple[int, int] | None) -> None:
    assert smaller(*now) == then


def test_a_run_from_weights_alone_is_expected_with_the_batch_that_it_will_take(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1, batch_size=2)
    weights = tmp_path / "run/checkpoint-13"
    decided = plan(dataset=chat_file, model=tiny_model, init_from=weights, output=tmp_path / "new", batch_size="auto")
    fitted = expect(decided, None).fitted
    assert fitted is not None and fitted.batch_size == 8


def test_a_run_that_branches_off_is_expected_at_the_pace_of_the_one_it_comes_from(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1, batch_size=2, save_steps=6)
    decided = plan(dataset=chat_file, model=tiny_model, resume=tmp_path / "run/checkpoint-6", output=tmp_path / "run")
    assert decided.output_dir != tmp_path / "run"
    assert expect(decided, dataset_report(str(chat_file), Reading(), None, "auto", 64)).seconds is not None


def test_rows_with_nothing_to_learn_make_no_steps_that_are_expected(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """26 rows are 7 steps of 4, and 34 would be 9."""
    empty = [{"messages": [{"role": "user", "content": "hm"}, {"role": "assistant", "content": ""}]}] * 8
    rows = [*chat_file.read_text().splitlines(), *(json.dumps(row) for row in empty)]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(rows))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    report = dataset_report(str(mixed), Reading(), tokenizer, "auto", 64)
    decided = plan(dataset=mixed, model=tiny_model, output=tmp_path / "run", epochs=1, batch_size=4)
    assert report.rows == 34 and expect(decided, report).steps == 7
