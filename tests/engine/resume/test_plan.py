"""What the plan tells before anything is loaded."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.answers import gather
from engine.checkpoints.adapter import NOT_CARRIED_ON
from engine.checkpoints.checkpoint import AdapterShape, Checkpoint, Problem
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.manifest import DatasetIdentity, Geometry, Identities
from engine.checkpoints.scan import Scan, glance
from engine.config import RunConfig
from engine.data import formats
from engine.errors import CannotContinue, ConfigError, ModelError
from engine.folder import proposed_output, run_id_of, write_run_toml
from engine.resume.differences import changed_rows, contradiction, geometry_difference
from engine.resume.plan import _misnamed, _rooted, plan_run, resumed, roll_back
from tests.conftest import chats, write_jsonl
from tests.engine.checkpoints.folders import write_checkpoint
from tests.engine.checkpoints.test_lineage import made
from tests.engine.resume.conftest import FLAGS
from tests.engine.runs import plan, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run stopped at step 5 of 14; the tests only plan on it."""
    out = tmp_path_factory.mktemp("planned") / "run"
    train(stop_at=5, dataset=chat_file, model=tiny_model, output=out, **FLAGS)
    return out


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
def test_what_is_wrong_with_a_named_checkpoint_is_told_before_the_answers_it_would_have_given(
    way: str, run: Path, tmp_path: Path
) -> None:
    link = tmp_path / "latest"
    link.symlink_to(run / "checkpoint-5")
    with pytest.raises(CannotContinue) as refused:
        plan_run(gather({way: str(link)}, environ={}).resolved)
    assert "is a link" in refused.value.detail


@pytest.mark.parametrize("way", ["resume", "init_from"])
def test_a_bare_name_of_a_checkpoint_in_the_folder_of_the_run_is_taken_for_what_was_meant(
    way: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotContinue, match="no such checkpoint") as refused:
        plan(output=run, **{way: "checkpoint-5"})
    assert refused.value.fix == f"Did you mean {run / 'checkpoint-5'}?"


def test_a_torn_manifest_of_a_named_checkpoint_is_told_and_not_that_answers_are_missing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = copy / "checkpoint-5" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(CannotContinue, match="cannot be continued") as refused:
        plan_run(gather({"resume": str(copy / "checkpoint-5")}, environ={}).resolved)
    assert "manifest.json cannot be read" in refused.value.detail


def test_a_folder_of_damaged_checkpoints_only_is_told_before_answers_that_are_missing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "run.toml").unlink()
    for folder in copy.glob("checkpoint-*"):
        (folder / "optimizer.pt").unlink()
    with pytest.raises(CannotContinue, match="none of its checkpoints can be continued") as refused:
        answers = gather({"output": str(copy)}, environ={})
        plan_run(answers.resolved, answers.found)
    assert "optimizer.pt is missing" in refused.value.detail and "--init-from" in refused.value.fix


def test_of_a_run_whose_settings_are_lost_it_is_told_what_to_name(run: Path, tmp_path: Path, chat_file: Path) -> None:
    """What its journal tells is offered, and not taken up unasked."""
    copy = Path(shutil.copytree(run, tmp_path / "my run"))
    (copy / "run.toml").unlink()
    with pytest.raises(ConfigError, match="missing: --dataset") as refused:
        plan(output=copy)
    assert "run.toml is gone" in refused.value.detail
    command = refused.value.fix.partition(": ")[2]
    assert command == f"lora-tui --yes --output '{copy}' --dataset {chat_file} --save-steps 4"
    words = dict(zip(*[iter(shlex.split(command)[2:])] * 2, strict=True))
    found = plan(**{name.removeprefix("--").replace("-", "_"): value for name, value in words.items()})
    assert (found.mode, found.checkpoint and found.checkpoint.name) == ("continue", "checkpoint-5") and not found.refused
    assert found.run_id == run_id_of(run)
    (copy / "events.jsonl").unlink()
    with pytest.raises(ConfigError, match="--dataset DATASET"):
        plan(output=copy)


@pytest.mark.parametrize("length", [{"epochs": 3}, {"max_steps": 5}])
def test_of_a_run_whose_settings_are_lost_its_steps_and_its_rate_are_what_they_were(
    length: dict[str, Any], tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """In the warmup, where the logged rates would fit every kind of schedule."""
    out, rows = tmp_path / "run", {"dataset": chat_file, "model": tiny_model}
    shape = {"batch_size": 3, "grad_accum": 4, "warmup": 4, "scheduler": "constant", "seed": 0, "weight_decay": 0.125}
    train(stop_at=2, output=out, **rows, **shape, **length)
    as_it_was = plan(output=out)
    (out / "run.toml").unlink()
    lost = plan(output=out, **rows)
    assert not lost.differences and lost.config.weight_decay == 0.125
    assert (lost.length, lost.next_learning_rate) == (
        as_it_was.length,
        as_it_was.next_learning_rate,
    )


def test_of_a_run_whose_settings_are_lost_those_that_would_be_others_are_named_too(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    train(dataset=chat_file, model=tiny_model, output=out, max_steps=2, keep=7, max_length=64, stop_at=1)
    (out / "run.toml").unlink()
    with pytest.raises(ConfigError) as refused:
        plan(output=out, max_grad_norm=0.5)
    assert refused.value.fix.endswith(f"--dataset {chat_file} --max-length 64 --keep 7")


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


def test_a_run_on_layers_that_were_named_twice_goes_on(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    train(stop_at=1, dataset=chat_file, model=tiny_model, output=out, target_modules="q_proj,q_proj", **FLAGS)
    assert plan(output=out).mode == "continue"


def test_another_precision_is_told(run: Path) -> None:
    told = plan(output=run, precision="bfloat16").differences
    assert [(found.item, found.saved, found.asked) for found in told] == [("precision", "float32", "bfloat16")]


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


def test_another_warmup_is_a_change_of_the_schedule_and_goes_on(run: Path, tmp_path: Path) -> None:
    asked = plan(output=run, warmup=7)
    assert [one.item for one in asked.differences] == ["schedule"] and not asked.refused
    out = Path(shutil.copytree(run, tmp_path / "run"))
    outcome, events = train(output=out, warmup=7)
    assert outcome.state == "finished"
    (checked,) = [event for event in events if event.type == "resume_checked"]
    assert {item["item"] for item in checked.items if item["verdict"] == "changed"} == {"schedule"}  # type: ignore[attr-defined]


def test_settings_that_no_step_was_done_with_are_not_taken_up(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:

    asked: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "max_steps": 2}
    with pytest.raises(ModelError):
        train(**asked, target_modules="nosuch")
    outcome, _events = train(**asked)
    assert (outcome.state, outcome.step) == ("finished", 2)


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


def test_an_answer_that_is_missing_is_told_where_no_run_would_have_given_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a folder's lost run.toml told of where the run is none of ours, or not gone on with."""
    monkeypatch.chdir(tmp_path)  # no last run is there
    lost = Path(shutil.copytree(run, tmp_path / "lost"))
    (lost / "run.toml").unlink()
    (tmp_path / "empty").mkdir()
    write_checkpoint(tmp_path / "theirs" / "checkpoint-7", 7, 1.0)
    nowhere: list[dict[str, Any]] = [
        {}, {"output": tmp_path / "none"}, {"output": tmp_path / "empty"}, {"output": tmp_path / "theirs"},
        {"output": lost, "resume": "never"}, {"model": tmp_path}, {"dataset": tmp_path},
    ]  # fmt: skip
    for flags in nowhere:
        with pytest.raises(ConfigError, match=r"missing: --[a-z]") as refused:
            plan_run(gather({name: str(value) for name, value in flags.items()}, environ={}).resolved)
        assert refused.value.detail == "A run needs a dataset and a model."
    with pytest.raises(ConfigError) as refused:
        plan_run(gather({"output": str(lost)}, environ={}).resolved)
    assert "run.toml is gone" in refused.value.detail


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


def test_layers_that_no_adapter_can_be_on_are_told_by_the_plan(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    for layers, told in (("nosuch", "nosuch"), ("q_proj,lm_head", "lm_head: no adapter can be put there")):
        with pytest.raises(ModelError, match=told):
            plan(dataset=chat_file, model=tiny_model, output=tmp_path / "new", target_modules=layers)


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


def stock(base: str | None = "Qwen/Qwen2.5-0.5B", **shape: Any) -> Checkpoint:
    """Another tool's checkpoint of an adapter on two layers of `base`."""
    adapter = AdapterShape("LORA", 4, 8.0, ("k_proj", "q_proj"), base, {})
    return made("checkpoint-9", [3, 2], adapter=replace(adapter, **shape))


def asked(**settings: Any) -> RunConfig:
    return RunConfig(
        **{"lora_r": 4, "lora_alpha": 8, "model": "Qwen2.5-0.5B", "target_modules": "q_proj,k_proj", **settings}
    )


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
