"""`--dry-run`: what a run would meet before its first step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ModelError, OutputError
from engine.lock import locked
from engine.resume.ahead import look_ahead
from tests.conftest import chats, write_jsonl
from tests.engine.runs import plan, train
from tui.plan_text import plan_lines

LoraTui = Callable[..., tuple[int, str, str]]


def flaw(name: str, folder: Path) -> list[object]:
    """What a person may get wrong -> the flags that do it."""
    write_jsonl(folder / "empty.jsonl", [])
    write_jsonl(folder / "bad.jsonl", [*chats(3), {"messages": 7}])
    (folder / "hollow").mkdir()
    (folder / "file").write_text("x")
    (folder / "owner").mkdir()
    for link in ("lost", "owner/lost"):
        (folder / link).symlink_to("elsewhere")
    return {
        "no such dataset": ["--dataset", folder / "no.jsonl"],
        "an empty dataset": ["--dataset", folder / "empty.jsonl"],
        "a row of another shape": ["--dataset", folder / "bad.jsonl"],
        "no such eval dataset": ["--eval-dataset", folder / "no.csv"],
        "no such split": ["--eval-dataset", "nosplit"],
        "a bad row to measure on": ["--eval-dataset", folder / "bad.jsonl"],
        "no such model": ["--model", folder / "gone"],
        "no model in there": ["--model", folder / "hollow"],
        "an adapter on the output layer": ["--target-modules", "q_proj,lm_head"],
        "layers that are not there": ["--target-modules", "q_proj,nope"],
        "no layer that is there": ["--target-modules", "nope"],
        "a torn model": ["--model", folder / "torn"],
        "a file in the place of the output": ["--output", folder / "file"],
        "a dataset behind a link that leads nowhere": ["--dataset", "lost"],
        "a model behind a link that leads nowhere": ["--model", "owner/lost"],
        "a tracker that is not installed": ["--report-to", "swanlab"],
    }[name]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("no such dataset", 4),
        ("an empty dataset", 4),
        ("a row of another shape", 4),
        ("no such eval dataset", 4),
        ("no such split", 4),
        ("a bad row to measure on", 4),
        ("no such model", 4),
        ("no model in there", 4),
        ("an adapter on the output layer", 4),
        ("layers that are not there", 4),
        ("no layer that is there", 4),
        ("a torn model", 4),
        ("a file in the place of the output", 5),
        ("a dataset behind a link that leads nowhere", 4),
        ("a model behind a link that leads nowhere", 4),
        ("a tracker that is not installed", 2),
    ],
)
def test_what_would_end_a_run_is_told_in_the_same_words(
    what: str, code: int, lora_tui: LoraTui, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    torn = Path(shutil.copytree(tiny_model, tmp_path / "torn")) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    flags = ["--yes", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "out", *flaw(what, tmp_path)]
    planned, run = lora_tui(*flags, "--dry-run"), lora_tui(*flags)
    assert (planned[0], run[0]) == (code, code), planned[2]
    errors = [told[2][told[2].index("error: ") :] for told in (planned, run)]
    assert errors[0] == errors[1]
    left = {
        path.name for path in tmp_path.glob("out/*")
    }  # of a run that ends while it loads its record stays, but no settings
    assert left <= ({"events.jsonl", "run.log", ".lock"} if what == "a torn model" else set())


def test_rows_and_their_format_are_told(lora_tui: LoraTui, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    flags = ("--yes", "--dry-run", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "out")
    code, _out, told = lora_tui(*flags)
    rows = len(chat_file.read_text().splitlines())
    assert code == 0 and f"{chat_file.name}: {rows} rows · messages: " in told


def test_what_is_to_be_fetched_is_named_and_not_asked_for(lora_tui: LoraTui, tmp_path: Path, chat_file: Path) -> None:
    flags = ("--yes", "--dry-run", "--model", "nobody/nothing", "--dataset", "no/rows", "--output", tmp_path / "out")
    code, _out, told = lora_tui(*flags, "--eval-dataset", "validation")
    fetched = [line.partition(":")[0] for line in told.splitlines() if "is fetched from the hub when the run begins" in line]
    assert (code, fetched) == (0, ["nobody/nothing", "no/rows"])


def test_a_busy_folder_is_told(lora_tui: LoraTui, tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    flags = ("--yes", "--dry-run", "--json", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "out")
    with locked(tmp_path / "out"):
        code, out, told = lora_tui(*flags)
    plan, failed = [json.loads(line) for line in out.splitlines()]
    assert (code, plan["type"], failed["type"], failed["exit_code"]) == (5, "plan", "run_failed", 5)
    assert "another run is using this folder" in told
    with locked(tmp_path / "out"):  # a start has no plan to show then
        code, _out, told = lora_tui(*(flag for flag in flags if flag not in ("--dry-run", "--json")))
    assert code == 5 and "another run is using this folder" in told and "starting fresh" not in told


def test_a_disk_without_room_for_two_checkpoints_is_told_before_a_run_goes_on(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "out", max_steps=4, save_steps=2, stop_at=2)
    look_ahead(plan(output=tmp_path / "out"))
    monkeypatch.setattr("engine.checkpoints.commit.free_bytes", lambda folder: 100_000)
    with pytest.raises(OutputError, match="too full"):
        look_ahead(plan(output=tmp_path / "out"))


@pytest.mark.parametrize(
    ("gone", "told"), [("chat_template.jinja", "no chat template"), ("token*", "tokenizer cannot be loaded")]
)
def test_a_model_that_lacks_what_its_rows_need_is_told(
    gone: str, told: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for path in model.glob(gone):
        path.unlink()
    asked = {"dataset": chat_file, "model": model, "output": tmp_path / "out"}
    with pytest.raises(ModelError, match=told):
        look_ahead(plan(**asked))
    if gone.startswith("chat"):
        look_ahead(plan(**asked, chat_template="plain"))
        look_ahead(plan(**asked | {"dataset": write_jsonl(tmp_path / "texts.jsonl", [{"text": "we keep watch"}])}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{% for m in messages %}{{ m.content }}", "endfor"),
        ("{{ messages | shout }}", "shout"),
        ("{{ " + "(" * 3000 + "messages" + ")" * 3000 + " }}", "recursion"),
    ],
)
def test_a_template_that_jinja_cannot_read_is_told(
    text: str, told: str, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    (tmp_path / "own.jinja").write_text(text)
    asked = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "out", "chat_template": tmp_path / "own.jinja"}
    with pytest.raises(ModelError, match="no Jinja that can be read") as caught:
        look_ahead(plan(**asked))
    assert told in caught.value.detail
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}"
    )
    look_ahead(plan(**asked))


def test_other_rows_to_measure_on_are_told_before_a_run_goes_on(
    lora_tui: LoraTui, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    measured, out = write_jsonl(tmp_path / "measured.jsonl", chats(5)), tmp_path / "out"
    train(dataset=chat_file, model=tiny_model, output=out, eval_dataset=measured, max_steps=4, save_steps=2, stop_at=2)
    flags = ("--yes", "--dry-run", "--output", out)
    assert "to measure on" not in lora_tui(*flags)[2]
    write_jsonl(measured, chats(4))
    code, _out, told = lora_tui(*flags)
    assert code == 0 and "saved 5 rows to measure on, now 4 rows to measure on" in told


def test_of_a_final_adapter_only_what_is_known_is_shown(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", max_steps=1)
    decided = plan(dataset=chat_file, model=tiny_model, output=tmp_path / "new", init_from=tmp_path / "run" / "final")
    assert plan_lines(decided)[0][0].endswith("from the weights of final")


def test_a_run_that_went_further_than_now_asked_says_both(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    out = tmp_path / "run"
    train(dataset=chat_file, model=tiny_model, output=out, epochs=2, batch_size=4)
    told = "\n".join(text for text, _style in plan_lines(plan(output=out, epochs=1)))
    assert "epoch 2.00, 1 asked for" in told and "of 2" not in told
