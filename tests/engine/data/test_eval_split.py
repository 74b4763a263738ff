"""Eval loss on rows that are there: a split of the dataset by its name, or something of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import datasets
import pytest

from engine.checkpoints.proof import read_manifest
from engine.data.identity import row_digest
from engine.data.read import Reading, read_raw
from engine.data.report import dataset_report
from engine.errors import ConfigError, DatasetError
from engine.events import Evaluated, Warned
from tests.conftest import chats, write_jsonl
from tests.engine.runs import adapter_bytes, train

SETTINGS = {"max_steps": 3, "batch_size": 4, "save_steps": 2, "learning_rate": 0.01}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 rows to train on, 5 to measure on (one of them also trained on), 2 to test."""
    place = tmp_path / "data"
    place.mkdir()
    rows = chats(18)
    write_jsonl(place / "train.jsonl", rows[:12])
    write_jsonl(place / "validation-00000.jsonl", [*rows[12:16], rows[3]])
    write_jsonl(place / "test.jsonl", rows[16:])
    return place


def test_splits_of_a_folder_are_named_and_read_by_name(folder: Path) -> None:
    raw = read_raw(str(folder))
    assert raw.splits == ("test", "validation") and len(list(raw)) == 12
    assert len(list(read_raw(str(folder), split="validation"))) == 5


def test_splits_of_a_saved_dataset_too(tmp_path: Path) -> None:
    made = {"train": datasets.Dataset.from_list(chats(6)), "dev": datasets.Dataset.from_list(chats(8)[6:])}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    assert read_raw(str(tmp_path / "saved")).splits == ("dev",)
    assert len(list(read_raw(str(tmp_path / "saved"), split="dev"))) == 2


@pytest.mark.parametrize("split", ["train", "nonsense"])
def test_a_split_that_is_not_beside_it_is_refused_with_those_that_are(folder: Path, split: str) -> None:
    with pytest.raises(DatasetError, match="There are: test, validation"):
        read_raw(str(folder), Reading(), split)


@pytest.mark.parametrize("named", ["validation", pytest.param("path", marks=pytest.mark.slow)])
def test_the_eval_loss_is_that_of_the_split_and_the_training_is_the_same(
    folder: Path, tmp_path: Path, tiny_model: Path, named: str
) -> None:
    measured = "validation" if named == "validation" else str(folder / "validation-00000.jsonl")
    asked = {"dataset": folder, "model": tiny_model, **SETTINGS}
    train(**asked, output=tmp_path / "without")
    _outcome, events = train(**asked, output=tmp_path / "with", eval_dataset=measured)
    losses = [event.eval_loss for event in events if isinstance(event, Evaluated)]
    assert losses and all(loss is not None and loss > 0 for loss in losses)
    assert adapter_bytes(tmp_path / "with") == adapter_bytes(tmp_path / "without")
    manifest = read_manifest(tmp_path / "with" / "checkpoint-2")
    assert manifest.eval_loss == losses[0]
    assert manifest.identities.eval_dataset is not None
    assert (manifest.identities.dataset.rows, manifest.identities.eval_dataset.rows) == (12, 5)
    told = [event.message for event in events if isinstance(event, Warned)]
    assert any("is trained on too (row 5)" in words for words in told)


def test_rows_left_out_are_those_of_the_training_split(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "run"
    train(dataset=folder, model=tiny_model, output=out, eval_dataset="validation", skip_rows="1,2", **SETTINGS)
    found = read_manifest(out / "checkpoint-2").identities
    assert found.eval_dataset is not None and (found.dataset.rows, found.eval_dataset.rows) == (10, 5)


def test_rows_left_out_are_measured_on_also_where_both_are_one_file(tmp_path: Path, tiny_model: Path) -> None:
    out, data = tmp_path / "run", write_jsonl(tmp_path / "chats.jsonl", chats(12))
    train(dataset=data, model=tiny_model, output=out, eval_dataset=data, skip_rows="1,2", **SETTINGS)
    found = read_manifest(out / "checkpoint-2").identities
    assert found.eval_dataset is not None and (found.dataset.rows, found.eval_dataset.rows) == (10, 12)


def test_a_run_that_can_measure_on_nothing_says_so(tiny_model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "one.jsonl", chats(1))
    _outcome, events = train(dataset=data, model=tiny_model, output=tmp_path / "run", eval_fraction=0.5, max_steps=1)
    assert any(isinstance(event, Warned) and "no eval loss" in event.message for event in events)


def test_both_ways_to_measure_exclude_each_other(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="excludes --eval-fraction"):
        train(dataset=folder, model=tiny_model, output=tmp_path / "run", eval_dataset="test", eval_fraction=0.1)


def test_an_eval_dataset_that_is_not_there_ends_the_run_before_it_begins(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.jsonl"):
        train(dataset=folder, model=tiny_model, output=tmp_path / "run", eval_dataset=str(tmp_path / "nowhere.jsonl"))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_row_in_two_splits_of_a_saved_dataset_is_told(tmp_path: Path) -> None:
    rows = chats(6)
    made = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[2:3])}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    report = dataset_report(str(tmp_path / "saved"), Reading(), None, "auto", 64)
    (problem,) = [one for one in report.problems if one.code == "eval_contaminated"]
    assert problem.row == 3 and "test" in problem.message


def test_the_eval_loss_is_the_mean_over_all_labels_whatever_the_batch_size(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    write_jsonl(tmp_path / "uneven.jsonl", [*chats(4), {"messages": [
        {"role": "user", "content": "say it"}, {"role": "assistant", "content": "a word of the answer " * 8}]}])  # fmt: skip
    told = {}
    for size, times in ((1, 4), (2, 2), (4, 1)):
        _outcome, events = train(
            dataset=chat_file, model=tiny_model, output=tmp_path / str(size), eval_dataset=str(tmp_path / "uneven.jsonl"),
            max_steps=2, save_steps=1, batch_size=size, grad_accum=times, learning_rate=0.01,
        )  # fmt: skip
        told[size] = [event.eval_loss for event in events if isinstance(event, Evaluated)]
    assert len(told[1]) == 2
    assert told[2] == pytest.approx(told[1], abs=2e-6) and told[4] == pytest.approx(told[1], abs=2e-6)


def test_eval_losses_of_other_rows_are_not_compared_with_those_of_before(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    measured, out = write_jsonl(tmp_path / "measured.jsonl", chats(20)[15:]), tmp_path / "run"
    train(
        dataset=folder, model=tiny_model, output=out, eval_dataset=measured, **{**SETTINGS, "max_steps": 4, "save_steps": 1}, stop_at=2
    )  # fmt: skip
    write_jsonl(measured, [{"messages": [*chats(1)[0]["messages"][:-1], {"role": "assistant", "content": "zq " * 30}]}])
    _outcome, events = train(output=out, keep=1, max_steps=12)
    assert "eval_rows" in [event.code for event in events if isinstance(event, Warned)]
    # By its number the checkpoint of step 2 would be the best, and stay.
    assert not (out / "checkpoint-2").exists() and (out / "checkpoint-12").is_dir()


def _unlearnable(held_back: bool) -> list[dict[str, Any]]:
    """Chats of which those that --eval-fraction 0.2 holds back have an empty answer, or those that it does not."""

    def is_held_back(row: dict[str, Any]) -> bool:
        salted = (42).to_bytes(8, "little") + row_digest(row)
        return int.from_bytes(hashlib.sha256(salted).digest()[:8], "big") / 2**64 < 0.2

    full = chats(20)
    empty = [{"messages": [row["messages"][0], {"role": "assistant", "content": ""}]} for row in full]
    return [row for row in empty if is_held_back(row) == held_back] + [row for row in full if is_held_back(row) != held_back]


def test_held_back_rows_with_nothing_to_learn_are_no_eval_loss_of_zero(tiny_model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "chats.jsonl", _unlearnable(held_back=True))
    asked = {"dataset": data, "model": tiny_model, "output": tmp_path / "run", "eval_fraction": 0.2, "seed": 42}
    _outcome, events = train(**asked, **SETTINGS)
    assert not [event for event in events if isinstance(event, Evaluated)]
    told = [event.message for event in events if isinstance(event, Warned)]
    assert any("no row that is held back has a token to learn from" in words for words in told)


def test_only_held_back_rows_with_something_to_learn_are_no_dataset(tiny_model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "chats.jsonl", _unlearnable(held_back=False))
    asked = {"dataset": data, "model": tiny_model, "output": tmp_path / "run", "eval_fraction": 0.2, "seed": 42}
    with pytest.raises(DatasetError, match="no row that is trained on"):
        train(**asked, **SETTINGS)
