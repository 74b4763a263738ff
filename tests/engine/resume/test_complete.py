"""A run that has nothing left to train: what it says, when it says something else, and how it is extended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.errors import CannotContinue, DatasetError, ModelError
from engine.events import Step
from engine.export.source import find_source
from engine.training.complete import conclude
from tests.conftest import chats, write_jsonl
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import adapter_bytes, losses, plan, receipt, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run of 14 steps, done. Copy it (`run`) before it is changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_named_with_its_own_rows_is_complete(finished: Path, chat_file: Path, tiny_model: Path) -> None:
    assert plan(output=finished, dataset=chat_file, model=tiny_model).mode == "complete"


def test_a_finished_run_asked_to_go_on_over_other_rows_is_refused(finished: Path, tmp_path: Path) -> None:
    """That it is done would be taken for an answer about the rows that were named."""
    other = write_jsonl(tmp_path / "other.jsonl", chats(9))
    with pytest.raises(CannotContinue, match="was another one") as refused:
        plan(output=finished, dataset=other)
    assert "dataset: 26 rows → 9 rows" in refused.value.detail
    assert plan(output=finished, dataset=other, accept="dataset").mode == "complete"


def test_a_finished_run_asked_for_without_some_of_its_rows_is_refused(finished: Path) -> None:
    with pytest.raises(CannotContinue, match="was another one"):
        plan(output=finished, skip_rows="3")


def test_a_finished_run_asked_for_with_what_is_not_there_says_so(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        plan(output=finished, dataset=tmp_path / "none.jsonl")
    with pytest.raises(ModelError):
        plan(output=finished, model=tmp_path / "none")


def test_a_finished_run_whose_rows_are_gone_is_still_complete(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    rows = Path(shutil.copy(chat_file, tmp_path / "rows.jsonl"))
    train(dataset=rows, model=tiny_model, output=tmp_path / "run", batch_size=8, max_steps=1)
    rows.unlink()
    assert plan(output=tmp_path / "run").mode == "complete"


def test_a_finished_run_is_complete_and_a_larger_number_of_epochs_extends_it(run: Path) -> None:
    assert plan(output=run).mode == "complete"
    extended = plan(output=run, epochs=3)
    assert extended.mode == "continue"
    _outcome, events = train(output=run, epochs=3)
    first = next(event for event in events if isinstance(event, Step))
    assert first.learning_rate == extended.next_learning_rate
    assert receipt(events)["schedule"] == "changed"
    assert losses(run)[-1][0] == 21


def test_a_run_extended_by_epochs_is_the_longer_run_where_the_rate_does_not_depend_on_the_length(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    flags = {**FLAGS, "scheduler": "constant", "warmup": 2, "dataset": chat_file, "model": tiny_model, "lora_dropout": 0.1}
    train(output=tmp_path / "long", **{**flags, "epochs": 3})
    train(output=tmp_path / "short", **flags)
    train(output=tmp_path / "short", epochs=3)
    assert adapter_bytes(tmp_path / "short") == adapter_bytes(tmp_path / "long")
    assert losses(tmp_path / "short") == losses(tmp_path / "long")


def test_a_run_begun_with_a_number_of_steps_is_extended_with_epochs(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    run = tmp_path / "run"
    flags = {name: value for name, value in FLAGS.items() if name != "epochs"}
    train(output=run, dataset=chat_file, model=tiny_model, **flags, max_steps=6)
    assert plan(output=run).mode == "complete"
    extended = plan(output=run, epochs=2)
    assert extended.mode == "continue" and extended.length is not None and extended.length.total_steps == 14


def test_a_run_killed_between_its_last_checkpoint_and_its_final_adapter_gets_it_from_the_checkpoint(run: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (run / "final").iterdir()}
    shutil.rmtree(run / "final")
    conclude(plan(output=run))
    assert {path.name: path.read_bytes() for path in (run / "final").iterdir()} == whole


def test_a_final_folder_that_cannot_be_loaded_is_made_anew_and_one_that_a_person_changed_stays(run: Path) -> None:
    final = run / "final"
    whole = {path.name: path.read_bytes() for path in final.iterdir()}
    for spoil in (
        lambda: (final / "adapter_config.json").unlink(),
        lambda: (final / "adapter_config.json").write_text("{}"),
        lambda: (final / "tokenizer.json").write_bytes(b""),
    ):
        spoil()
        conclude(plan(output=run))
        assert {path.name: path.read_bytes() for path in final.iterdir()} == whole
    (final / "README.md").write_text("mine")
    (final / "tokenizer_config.json").write_text('{"mine": true}')
    conclude(plan(output=run))
    assert [(final / name).read_text()[:9] for name in ("README.md", "tokenizer_config.json")] == ["mine", '{"mine": ']


def test_of_a_run_that_was_extended_and_stopped_what_it_learned_since_is_exported(run: Path) -> None:
    assert find_source(run).adapter.name == "final"
    train(stop_at=18, output=run, epochs=4)
    found = find_source(run).adapter
    assert (found.name, found.step) == ("checkpoint-18", 18)
    train(output=run)
    assert find_source(run).adapter.name == "final"
