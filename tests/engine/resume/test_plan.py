"""What the plan tells before anything is loaded."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.answers import gather
from engine.checkpoints.adapter import NOT_CARRIED_ON
from engine.checkpoints.checkpoint import Checkpoint, Problem
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.scan import Scan, glance
from engine.config import RunConfig
from engine.data import formats
from engine.errors import CannotContinue, ConfigError, OutputError
from engine.folder import proposed_output, run_id_of, write_run_toml
from engine.lock import locked
from engine.resume.plan import _rooted, plan_run, resumed, roll_back
from engine.resume.recommend import _misnamed
from tests.conftest import chats, write_jsonl
from tests.engine.checkpoints.test_lineage import made
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import plan, train


@pytest.fixture
def run(stopped: Path) -> Path:
    """The tests only plan on it."""
    return stopped


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"messages": [*rows[0]["messages"][:-1], {"role": "assistant", "content": "other words"}]}, *rows[1:]]


CHANGES = {
    "appended": (chats(27), "appended"),
    "removed": (chats(25), "removed"),
    "reordered": (chats(26)[::-1], "another order"),
    "edited": (edited(chats(26)), "edited"),
}


@pytest.mark.parametrize(("rows", "word"), CHANGES.values(), ids=CHANGES.keys())
def test_how_the_rows_differ_is_told_and_that_the_run_will_be_refused(
    rows: list[dict[str, Any]], word: str, run: Path, tmp_path: Path
) -> None:
    changed = write_jsonl(tmp_path / "changed.jsonl", rows)
    decided = plan(output=run, dataset=changed)
    (told,) = [found for found in decided.differences if found.item == "dataset"]
    assert told.winner == "neither" and word in told.reason and "--accept dataset" in told.reason
    assert decided.refused
    accepted = plan(output=run, dataset=changed, accept="dataset")
    assert not accepted.refused and accepted.position is not None and accepted.position.rows_consumed == 0


def test_settings_that_make_other_tokens_are_told_by_name(run: Path) -> None:
    (told,) = [found for found in plan(output=run, max_length=64).differences if found.item == "dataset"]
    assert (told.saved, told.asked, told.winner) == ("max_length 1024", "max_length 64", "neither")


def test_a_changed_template_is_told_and_a_rewritten_file_of_the_same_tokenizer_is_not(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    words = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(words))  # other bytes, same meaning
    assert not plan(output=run, model=other).differences
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    assert [(found.item, found.winner) for found in plan(output=run, model=other).differences] == [
        ("chat_template", "neither")
    ]


@pytest.mark.parametrize("way", ["resume", "init_from"])
def test_a_bare_name_of_a_checkpoint_in_the_folder_of_the_run_is_taken_for_what_was_meant(
    way: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotContinue, match="no such checkpoint") as refused:
        plan(output=run, **{way: "checkpoint-5"})
    assert refused.value.fix == f"Did you mean {run / 'checkpoint-5'}?"


def test_nothing_changed_is_nothing_told(run: Path) -> None:
    decided = plan(output=run)
    assert not decided.differences and not decided.refused


def test_data_that_was_read_before_is_not_read_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    numbered = formats.Rows.numbered
    monkeypatch.setattr(formats.Rows, "numbered", lambda rows: (read.append(rows.name), numbered(rows))[1])
    train(output=Path(shutil.copytree(run, tmp_path / "run")))
    assert read == []


def test_a_name_that_promises_more_than_its_state_keeps_is_told(run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    (out / "checkpoint-4").rename(out / "checkpoint-99")
    decided = plan(output=out)
    assert decided.checkpoint is not None and decided.checkpoint.name == "checkpoint-5"
    assert "checkpoint-99" in decided.reason and "state counts" in decided.reason


@pytest.mark.parametrize("how", ["output", "resume"])
def test_a_run_below_the_home_folder_goes_on_however_it_is_named(
    run: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    named = {"output": "~/run"} if how == "output" else {"resume": "~/run/checkpoint-5"}
    found = plan(dataset=chat_file, model=tiny_model, **named, **FLAGS)
    assert (found.mode, found.output_dir) == ("continue", run)


def by_file(path: Path, **flags: Any) -> Any:
    """What `lora-tui --yes --config PATH` would do with these flags."""
    answers = gather({key: str(value) for key, value in flags.items()}, path, environ={})
    return plan_run(answers.resolved, answers.found)


@pytest.mark.parametrize("how", ["resume", "init_from"])
def test_a_run_s_own_file_goes_on_with_that_run_from_any_folder(
    how: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began from another's checkpoint, and is not begun there again."""
    mine = Path(shutil.copytree(run, tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    train(stop_at=6 if how == "resume" else 2, **{how: mine / "checkpoint-4"}, output="branch", **FLAGS)
    monkeypatch.chdir(run)
    begun = run_id_of(tmp_path / "branch")
    (tmp_path / "link.toml").symlink_to(tmp_path / "branch" / "run.toml")
    for file in (tmp_path / "branch" / "run.toml", tmp_path / "link.toml"):
        onwards = by_file(file)
        assert (onwards.mode, onwards.output_dir, onwards.run_id) == ("continue", tmp_path / "branch", begun)
        assert onwards == plan(output=tmp_path / "branch")


def test_a_run_s_own_file_with_another_output_is_settings_and_no_more(run: Path, tmp_path: Path) -> None:
    fresh = by_file(run / "run.toml", output=tmp_path / "other")
    assert (fresh.mode, fresh.output_dir, fresh.config.learning_rate) == ("fresh", tmp_path / "other", 1e-2)
    copy = tmp_path / "settings.toml"
    copy.write_text((run / "run.toml").read_text().replace('resume = "auto"', 'resume = "never"'))
    assert by_file(copy, output=tmp_path / "other").config == fresh.config
    assert by_file(run / "run.toml", resume="never").output_dir == run.with_name("run-2")


def test_only_a_run_that_goes_on_has_a_format_and_a_batch_of_its_own(run: Path, tmp_path: Path) -> None:
    ways = plan(output=run), plan(init_from=run / "checkpoint-5", output=tmp_path / "new")
    assert [(one.saved_precision, one.saved_batch_size) for one in ways] == [("float32", 4), (None, None)]


def test_the_rate_that_would_have_come_next_is_told_beside_the_one_that_comes(run: Path) -> None:
    as_it_was, faster = plan(output=run), plan(output=run, learning_rate=2e-2)
    assert as_it_was.saved_learning_rate == faster.saved_learning_rate == as_it_was.next_learning_rate
    assert faster.next_learning_rate == pytest.approx(2 * (faster.saved_learning_rate or 0.0)) != 0


def test_two_beginnings_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        plan(resume=run / "checkpoint-5", init_from=run / "checkpoint-4", output=run)


def test_a_scan_of_another_folder_is_not_taken_for_that_of_the_run_s(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    resolved = gather({"output": str(run)}, environ={}).resolved
    assert plan_run(resolved, glance(tmp_path / "other")) == plan_run(resolved)


def test_a_run_keeps_the_id_that_its_folder_has(run: Path, tmp_path: Path) -> None:
    """Another tool's checkpoints bring none."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = plan(output=run).config
    write_run_toml(copy, config, "its-own")
    for path in copy.glob("checkpoint-*/manifest.json"):
        path.unlink()
    named: dict[str, Any] = {"dataset": config.dataset, "model": config.model, "accept": "dataset"}
    ways: list[dict[str, Any]] = [{"output": copy}, {"resume": copy / "checkpoint-5"}]
    assert {plan(**named, **way).run_id for way in ways} == {"its-own"}
    (copy / "run.toml").unlink()
    new = {plan(**named, **way).run_id for way in ways}
    assert len(new) == 2 and all(re.fullmatch("[0-9a-f]{12}", one) for one in new)
    for path in copy.glob("checkpoint-*"):
        shutil.rmtree(path)
    assert plan(output=copy, **named).mode == "fresh"
    write_run_toml(copy, config, "its-own")
    assert (plan(output=copy).mode, plan(output=copy).run_id) == ("fresh", "its-own")
    write_run_toml(copy, config.model_copy(update={"resume": str(copy / "checkpoint-5")}), "its-own")
    assert plan(output=copy).mode == "fresh", "what it had gone on from was its own"


def test_only_what_is_here_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split, a template of a name and a model of the hub are none, whatever lies here."""
    monkeypatch.chdir(tmp_path)
    for name in ("rows", "base", "test", "chatml", "test.jsonl", "own.jinja"):
        Path(name).touch()

    def rooted(**settings: str) -> dict[str, str]:
        made = _rooted(RunConfig(**settings))  # type: ignore[arg-type]
        return {name: getattr(made, name).replace(f"{tmp_path}/", "/") for name in settings}

    assert rooted(dataset="rows", model="base", eval_dataset="test", chat_template="chatml") == {
        "dataset": "/rows", "model": "/base", "eval_dataset": "test", "chat_template": "chatml"
    }  # fmt: skip
    assert rooted(dataset="org/rows", model="chatml", eval_dataset="test.jsonl", chat_template="own.jinja") == {
        "dataset": "org/rows", "model": "/chatml", "eval_dataset": "/test.jsonl", "chat_template": "/own.jinja"
    }  # fmt: skip


def test_a_run_without_a_folder_of_its_own_is_named_for_its_rows_and_its_model(
    tiny_model: Path, chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(dataset=chat_file, model=tiny_model).output_dir == proposed_output("chats", "tiny-llama")
    monkeypatch.chdir(chat_file.parent)
    assert plan(dataset=chat_file.name, model=tiny_model, output=tmp_path / "new").config.dataset == str(chat_file)


def test_names_that_promise_more_are_told_three_at_most_and_nothing_else_of_them() -> None:
    def one(name: str, *codes: str) -> Checkpoint:
        return replace(made(name, [1.0]), problems=tuple(Problem(code, f"{code} of {name}", "") for code in codes))

    found = [
        one("mine", "step_mismatch"),
        one("a", "step_mismatch", "other"),
        *(one(name, "step_mismatch") for name in "bcd"),
    ]
    told = _misnamed(Scan(Path("run"), tuple(found), ()), found[0])
    assert told == " a: step_mismatch of a b: step_mismatch of b c: step_mismatch of c"


@pytest.mark.parametrize("output", [None, "other", "run"])
def test_a_named_checkpoint_that_is_the_furthest_goes_on_where_it_lies_unless_another_place_is_named(
    output: str | None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    decided = plan(resume="run/checkpoint-5", **({"output": output} if output else {}))
    assert decided.config.resume == str(run / "checkpoint-5")
    assert plan(init_from="run/checkpoint-5", output="other").config.init_from == str(run / "checkpoint-5")
    branches = output == "other"
    assert decided.output_dir.resolve() == (run.with_name("other") if branches else run)
    assert (decided.run_id == run_id_of(run)) != branches
    assert decided.reason.startswith(
        "as asked; the run branches off" if branches else "as asked; it is the furthest of its run"
    )
    assert Path(decided.config.output or "").resolve() == decided.output_dir.resolve()


def test_an_earlier_checkpoint_branches_off_even_into_the_folder_it_lies_in(run: Path) -> None:
    decided = plan(resume=run / "checkpoint-4", output=run)
    assert (decided.output_dir, decided.parent) == (run.with_name("run-2"), f"{run_id_of(run)}/checkpoint-4")
    assert decided.reason == f"as asked; the run branches off here into {decided.output_dir}"


def test_a_run_goes_back_to_where_it_was_good_at_half_its_rate(
    run: Path, tmp_path: Path, chat_file: Path, tiny_model: Path
) -> None:
    own, branch = plan(output=run), plan(resume=run / "checkpoint-4", output=tmp_path / "branch")
    fresh = plan(dataset=chat_file, model=tiny_model, output=tmp_path / "new", learning_rate=1e-2)
    for begun, good, name, parent in (
        (own, "checkpoint-4", "checkpoint-4", None), (own, None, "checkpoint-5", None),
        (branch, None, "checkpoint-4", branch.parent),
    ):  # fmt: skip
        back = roll_back(begun, good)
        assert back.checkpoint is not None and back.checkpoint.path == run / name
        assert back.checkpoint.run == run_id_of(run)
        assert (back.mode, back.run_id, back.output_dir, back.parent) == ("continue", begun.run_id, begun.output_dir, parent)
        assert (back.config.learning_rate, back.reason) == (5e-3, "the last good one before the loss left its path")
    weights = plan(init_from=run / "checkpoint-4", output=tmp_path / "new", learning_rate=1e-2)
    for begun in (fresh, weights):
        assert roll_back(begun, None) == replace(begun, config=begun.config.model_copy(update={"learning_rate": 5e-3}))
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "checkpoint-4" / "optimizer.pt").unlink()
    with pytest.raises(CannotContinue, match="checkpoint-4: cannot be continued"):
        roll_back(plan(output=copy), "checkpoint-4")


def test_a_run_whose_processes_were_lost_goes_on_from_what_it_saved_since(run: Path, tmp_path: Path) -> None:
    branch = plan(resume=run / "checkpoint-4", output=tmp_path / "branch", stop_at_loss=0.01)
    copy = Path(shutil.copytree(run, tmp_path / "branch"))
    assert resumed(branch) is branch, "what another run saved there is not its own"
    again = resumed(replace(branch, run_id=run_id_of(run) or ""))
    assert again == plan(output=copy, stop_at_loss=0.01) and again.checkpoint is not None
    assert again.checkpoint.path == copy / "checkpoint-5"


def test_weights_that_no_run_can_have_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, config = tmp_path / "run" / "checkpoint-5", plan(output=run).config

    def why(**flags: Any) -> str:
        with pytest.raises(CannotContinue) as refused:
            plan(init_from=source, output=tmp_path / "new", dataset=config.dataset, model=config.model, **flags)
        return f"{refused.value.title} {refused.value.detail}"

    shutil.copytree(run, tmp_path / "run")
    assert "cannot start this run from its weights" in why(lora_r=3) and "rank" in why(lora_r=3)
    sound = inspect_folder(source)
    odd = replace(sound, problems=(Problem(NOT_CARRIED_ON, "it is odd", ""),))
    with monkeypatch.context() as patch:
        patch.setattr("engine.resume.plan.inspected", lambda path: odd)
        assert "it is odd" in why()
    weights = source / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "holds no sound adapter" in why()
    weights.write_bytes(whole)
    (source / "manifest.json").unlink()
    kind = source / "adapter_config.json"
    kind.write_text(kind.read_text().replace('"LORA"', '"IA3"'))
    assert "an adapter of type IA3, not LoRA" in why()
    (source / "adapter_config.json").unlink()
    assert "holds no sound adapter" in why()


def test_a_run_that_is_just_beginning_is_at_work_and_not_without_answers(tmp_path: Path) -> None:
    """Its run.toml comes once its rows are read: until then nothing tells what it was started with."""
    with locked(tmp_path / "run"):
        with pytest.raises(OutputError, match="another run is using this folder"):
            plan(output=tmp_path / "run")
        with pytest.raises(ConfigError, match="missing: --dataset"):
            plan(output=tmp_path / "run", resume="never")
