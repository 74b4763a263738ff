"""What may change when a run goes on, and what may not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.events import RunStarted, Step
from tests.conftest import build_tiny_model, chats, write_jsonl
from tests.engine.runs import adapter_bytes, losses, plan, receipt, train

FLAGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 4}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run stopped in the middle of its first epoch, at step 5 of 14. Copy it before continuing it."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(stop_at=5, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row ids that are trained on from now on, in order."""
    from engine.training.session import _Rows

    seen: list[int] = []
    fetch = _Rows.__getitem__

    def noting(self: Any, index: int) -> Any:
        seen.append(index)
        return fetch(self, index)

    monkeypatch.setattr(_Rows, "__getitem__", noting)
    return seen


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(2, 1), (7, 1), (4, 2), (3, 3), (26, 1)])
def test_each_row_is_seen_once_an_epoch_when_the_batch_geometry_changes(
    batch_size: int, grad_accum: int, tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = rows_seen(monkeypatch)
    out = tmp_path / "run"
    train(stop_at=3, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    _outcome, events = train(output=out, batch_size=batch_size, grad_accum=grad_accum)
    assert sorted(seen[:26]) == list(range(26))
    assert sorted(seen[26:]) == list(range(26))
    assert receipt(events)["batch_geometry"] == "changed"
    assert events[-1].type == "run_finished"


def test_the_furthest_checkpoint_is_taken_and_not_the_newest(run: Path) -> None:
    os.utime(run / "checkpoint-4")
    assert plan(output=run).checkpoint.name == "checkpoint-5"  # type: ignore[union-attr]


def test_a_torn_newest_checkpoint_is_passed_over_with_its_reason(run: Path) -> None:
    (run / "checkpoint-5" / "optimizer.pt").unlink()
    decided = plan(output=run)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-4"
    assert [passed.checkpoint.name for passed in decided.passed_over] == ["checkpoint-5"]


def test_only_damaged_checkpoints_are_refused_and_never_a_new_start(run: Path) -> None:
    for name in ("checkpoint-4", "checkpoint-5"):
        (run / name / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(CannotContinue):
        plan(output=run)


def test_a_finished_run_is_complete_and_a_larger_number_of_epochs_extends_it(run: Path) -> None:
    train(output=run)
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


def test_an_earlier_checkpoint_branches_into_a_sibling_with_its_parent_recorded(run: Path) -> None:
    _outcome, events = train(resume=run / "checkpoint-4")
    started = next(event for event in events if isinstance(event, RunStarted))
    assert Path(started.output_dir).name == "run-2"
    furthest = scan(run.with_name("run-2")).checkpoints
    assert all(
        found.manifest and found.manifest.parent and found.manifest.parent.endswith("/checkpoint-4") for found in furthest
    )
    assert (run / "checkpoint-5").is_dir()


def test_never_starts_fresh_beside_what_is_there(run: Path) -> None:
    decided = plan(output=run, resume="never")
    assert (decided.mode, decided.output_dir.name) == ("fresh", "run-2")


def test_init_from_starts_a_new_run_from_the_weights_only(
    run: Path, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    _outcome, events = train(
        dataset=chat_file, model=tiny_model, init_from=run / "checkpoint-5", output=tmp_path / "new", **FLAGS
    )
    started = next(event for event in events if isinstance(event, RunStarted))
    assert (started.step, started.checkpoint) == (0, None)
    first = next(event for event in events if isinstance(event, Step))
    fresh = losses(run)[0][1]
    assert first.loss is not None and first.loss < fresh - 0.1


CONTRADICTIONS = {"rank": {"lora_r": 8}, "alpha": {"lora_alpha": 16}, "targets": {"target_modules": "q_proj,v_proj"}}


@pytest.mark.parametrize("flags", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_settings_that_contradict_the_adapter_are_refused_before_anything_loads(flags: dict[str, Any], run: Path) -> None:
    with pytest.raises(CannotContinue):
        plan(output=run, **flags)


def test_another_base_model_of_equal_shape_is_refused(run: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(CannotContinue):
        plan(output=run, model=other)


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "other words"}]}, *rows[1:]]


CHANGES = {"appended": chats(27), "removed": chats(25), "reordered": chats(26)[::-1], "edited": edited(chats(26))}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_dataset_is_refused_by_name_and_can_be_accepted(how: str, run: Path, tmp_path: Path) -> None:
    changed = write_jsonl(tmp_path / "changed.jsonl", CHANGES[how])
    with pytest.raises(CannotContinue) as refused:
        train(output=run, dataset=changed)
    assert how.removesuffix("ed") in refused.value.detail.lower() or (how == "reordered" and "order" in refused.value.detail)
    before = losses(run)
    outcome, events = train(output=run, dataset=changed, accept="dataset")
    assert outcome.state == "finished"
    assert receipt(events)["dataset"] == "changed"
    assert losses(run)[:5] == before[:5]


def test_a_refused_start_changes_nothing_of_the_run(run: Path, tmp_path: Path) -> None:
    settings = (run / "run.toml").read_bytes()
    with pytest.raises(CannotContinue):
        train(output=run, dataset=write_jsonl(tmp_path / "changed.jsonl", chats(27)))
    assert (run / "run.toml").read_bytes() == settings
    assert plan(output=run).mode == "continue"


def test_new_intervals_win_over_the_saved_ones(run: Path) -> None:
    train(output=run, save_steps=2, keep=100)
    names = {found.name for found in scan(run).checkpoints}
    assert {"checkpoint-6", "checkpoint-8", "checkpoint-10"} <= names


def test_retention_keeps_the_furthest_whatever_their_times(run: Path) -> None:
    for name in ("checkpoint-4", "checkpoint-5"):
        os.utime(run / name, (2_000_000_000, 2_000_000_000))
    train(output=run, save_steps=2, keep=2)
    assert {found.name for found in scan(run).checkpoints} == {"checkpoint-12", "checkpoint-14"}


def test_a_run_killed_between_its_last_checkpoint_and_its_final_adapter_gets_it_from_the_checkpoint(run: Path) -> None:
    from engine.training.complete import conclude

    train(output=run)
    whole = {path.name: path.read_bytes() for path in (run / "final").iterdir()}
    shutil.rmtree(run / "final")
    conclude(plan(output=run))
    assert {path.name: path.read_bytes() for path in (run / "final").iterdir()} == whole


def test_a_setting_changed_for_the_rest_of_a_run_is_told(run: Path) -> None:
    told = {(found.item, found.asked) for found in plan(output=run, save_steps=2, keep=9).differences}
    assert told == {("settings", "save_steps 2"), ("settings", "keep 9")}
