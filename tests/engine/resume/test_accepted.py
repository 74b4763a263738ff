"""Rows, tokens and templates that changed: refused by name, accepted when asked, and told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.errors import CannotContinue
from engine.events import Event, ResumeChecked
from engine.training import probe
from tests.conftest import build_tiny_model, chats, write_jsonl
from tests.engine.checkpoints.folders import undigested
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import adapter_bytes, losses, plan, receipt, train


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "other words"}]}, *rows[1:]]


def found_in(events: list[Event], item: str) -> str:
    """What the one receipt among `events` found of `item`."""
    (receipt,) = [event for event in events if isinstance(event, ResumeChecked)]
    return str(next(one["found"] for one in receipt.items if one["item"] == item))


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


def test_a_run_that_went_on_over_accepted_rows_goes_on_from_there_and_not_from_before(run: Path, tmp_path: Path) -> None:
    """The epoch that was begun anew has a smaller number than the one it was begun from; it is further along all the same."""
    changed = write_jsonl(tmp_path / "changed.jsonl", chats(28))
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    train(output=whole, dataset=changed, accept="dataset", save_steps=1)
    train(output=run, dataset=changed, accept="dataset", save_steps=1, stop_at=7)
    again = plan(output=run, dataset=changed)
    assert again.checkpoint is not None and again.checkpoint.name == "checkpoint-7"
    assert "begun anew" in again.reason and not again.refused
    assert again.position is not None and again.position.rows_consumed == 8
    outcome, events = train(output=run, dataset=changed)
    assert outcome.state == "finished" and set(receipt(events).values()) == {"ok"}
    assert adapter_bytes(run) == adapter_bytes(whole)


def test_what_is_left_to_do_is_told_of_the_epoch_that_is_begun_anew(run: Path, tmp_path: Path) -> None:
    changed = write_jsonl(tmp_path / "changed.jsonl", chats(28))
    assert plan(output=run).epochs_left == pytest.approx(2 - 20 / 26)
    assert plan(output=run, dataset=changed, accept="dataset").epochs_left == 2


def test_a_plan_over_more_rows_than_a_batch_had_counts_the_steps_that_are_done(tiny_model: Path, tmp_path: Path) -> None:
    """A batch of 4 had the 3 rows there were; over 10 it has 4."""
    out, rows = tmp_path / "run", write_jsonl(tmp_path / "rows.jsonl", chats(3))
    train(dataset=rows, model=tiny_model, output=out, **FLAGS)
    write_jsonl(rows, chats(10))
    asked = plan(output=out, accept="dataset", epochs=4)
    outcome, events = train(output=out, accept="dataset", epochs=4)
    assert asked.length is not None and asked.length.total_steps == outcome.step == 2 + 2 * 3
    (geometry,) = [one for one in asked.differences if one.item == "batch_geometry"]
    assert (geometry.saved, geometry.asked) == ("3 x 1", "4 x 1")
    assert "8 steps" in found_in(events, "schedule")


def test_the_receipt_counts_the_steps_over_changed_rows_that_hold_something_to_learn(run: Path, tmp_path: Path) -> None:
    silent = [{"messages": [turn | {"weight": 0} for turn in row["messages"]]} for row in chats(9)]
    changed = write_jsonl(tmp_path / "changed.jsonl", [*chats(26), *silent])
    outcome, events = train(output=run, dataset=changed, accept="dataset")
    assert outcome.step == 5 + 14
    assert f"{outcome.step} steps" in found_in(events, "schedule")


def test_an_accepted_template_goes_on_with_the_epoch_anew(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Other tokens have other lengths, and with them the rows stand in another order."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(
        template.read_text()
        .replace("assistant\n", "assistant said\n")
        .replace("{{ message['role'] }}", "{{ message['role'] }}, ")
    )
    with pytest.raises(CannotContinue, match="what was restored"):
        train(output=run, model=model)
    asked = plan(output=run, model=model, accept="chat_template")
    assert asked.position is not None and asked.position.rows_consumed == 0
    outcome, events = train(output=run, model=model, accept="chat_template")
    assert outcome.state == "finished"
    verdicts = receipt(events)
    assert (verdicts["chat_template"], verdicts["data_position"], verdicts["probe_loss"]) == (
        "changed",
        "changed",
        "unknown",
    )
    again = [one for one in scan(run).checkpoints if one.manifest is not None][-1]
    assert again.manifest is not None and again.manifest.probe is not None


def test_a_stronger_way_to_hold_rows_back_wins_over_the_runs_own(run: Path, tmp_path: Path) -> None:
    measured = write_jsonl(tmp_path / "measured.jsonl", chats(30)[27:])
    out = Path(shutil.copytree(run, tmp_path / "copy"))
    train(output=out, eval_dataset=measured, stop_at=6)
    assert plan(output=out).config.eval_dataset == str(measured)
    asked = plan(output=out, eval_fraction=0.2, accept="dataset").config
    assert (asked.eval_dataset, asked.eval_fraction) == (None, 0.2)


@pytest.mark.parametrize(
    "named", [{"train_on": "assistant"}, {"format": "messages"}, {"format": "messages", "train_on": "assistant"}]
)
def test_what_auto_had_found_may_be_named(named: dict[str, Any], run: Path) -> None:
    decided = plan(output=run, **named)
    assert not decided.refused and not [one for one in decided.differences if one.item == "dataset"]


def test_other_tokens_are_still_told(run: Path) -> None:
    assert plan(output=run, train_on="all").refused


@pytest.fixture
def dated(tmp_path: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose chat template writes the year, stopped; its tokens are gone and the year is another one."""
    from datetime import datetime

    from transformers.utils import chat_template_utils

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls(2222, 2, 22)

    model = build_tiny_model(tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{{ '<|im_start|>system\nIt is ' + strftime_now('%Y') + '.<|im_end|>\n' }}" + template.read_text())
    # On a busy machine the probe would be cut to its last tokens, and the date stands before them.
    monkeypatch.setattr(probe.affordable, "__defaults__", (60.0,))
    _outcome, events = train(stop_at=5, dataset=chat_file, model=model, output=tmp_path / "run", **FLAGS)
    assert any(event.type == "warned" and "writes today's date" in event.message for event in events)  # type: ignore[attr-defined]
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cold"))
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    return tmp_path / "run"


def test_a_template_that_writes_the_date_does_not_keep_a_run_from_going_on_another_day(dated: Path) -> None:
    outcome, events = train(output=dated)
    assert (outcome.state, receipt(events)["probe_loss"]) == ("finished", "ok")


def test_where_its_tokens_were_not_kept_another_date_is_not_taken_for_another_model(dated: Path) -> None:
    for checkpoint in dated.glob("checkpoint-*"):
        manifest = undigested(checkpoint / "manifest.json")
        del manifest["probe"]["scored"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    outcome, events = train(output=dated)
    assert (outcome.state, receipt(events)["probe_loss"]) == ("finished", "unknown")
