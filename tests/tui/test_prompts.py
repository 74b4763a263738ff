"""The wizard as plain questions: on a real terminal with real training, and what it makes of odd answers."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from engine.journal import read_journal
from engine.models.templates import NAMED
from engine.remembered import Remembered
from tests.engine.runs import train
from tui.prompts import LEFT, Questions
from tui.show import Show
from tui.wizard import Start, Wizard


def agreed_to_all(flags: dict[str, Any], folder: Path) -> Any:
    """A real terminal on which every question of a run with `flags` was answered with Enter alone."""
    words = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
    environment = {
        **os.environ,
        "TERM": "dumb",
        "LORA_TUI_STATE": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child = pexpect.spawn(
        sys.executable, ["-m", "tui", *words], cwd=str(folder), env=environment, timeout=60, encoding="utf-8"
    )
    for question in ("Dataset.*: ", "Model.*: ", "Folder of the run.*: ", "Change settings.*: ", "Start training.*: "):
        child.expect(question)
        child.send("\r")
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")
def test_a_run_is_begun_with_enter_alone_and_takes_over_no_screen(flags: dict[str, Any], tmp_path: Path) -> None:
    child = agreed_to_all(flags, tmp_path)
    child.expect("done · step 14")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (tmp_path / "out/w/final/adapter_model.safetensors").is_file()
    assert "\x1b[?1049h" not in (child.before or "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")
def test_ctrl_c_saves_and_says_so(flags: dict[str, Any], tmp_path: Path) -> None:
    child, out = agreed_to_all({**flags, "epochs": 1500, "save_steps": 5000}, tmp_path), tmp_path / "out/w"
    child.expect("lora_kernel")
    while not any(record["type"] == "step" for record in read_journal(out)):
        time.sleep(0.1)
    child.sendintr()
    child.expect("continue from checkpoint-")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    (stopped,) = [record for record in read_journal(out) if record["type"] == "run_stopped"]
    assert (out / stopped["checkpoint"] / "manifest.json").is_file()


class Talk:
    """Answers for questions, one after the other; then the input ends."""

    def __init__(self, *answers: str) -> None:
        self._answers: Iterator[str] = iter(answers)

    def __call__(self, question: str) -> str:
        try:
            return next(self._answers)
        except StopIteration:
            raise EOFError from None


def talk(flags: dict[str, Any], *answers: str) -> tuple[Questions, str]:
    words = io.StringIO()
    return Questions(Wizard(answers=dict(flags), remembered=Remembered()), Show(words), Talk(*answers)), words


def test_a_bad_answer_is_told_and_asked_again(flags: dict[str, Any], tmp_path: Path) -> None:
    questions, words = talk(flags, "nothing.jsonl", flags["dataset"], "no/such/model", flags["model"], "", "y", "x", "3")
    assert questions.run() == LEFT
    assert "nothing.jsonl: there is no such file" in words.getvalue()
    assert "there is no such model folder" in words.getvalue()
    assert "'x' is not a number" in words.getvalue()
    assert questions.wizard.answers["epochs"] == "3"


def test_no_share_of_the_rows_is_told_where_it_is_not_known_how_many_there_are() -> None:
    out = io.StringIO()
    Questions(Wizard({}), Show(out)).counted(25, None, 1.0)
    assert "25" in out.getvalue() and "%" not in out.getvalue()


def test_another_checkpoint_can_be_named(flags: dict[str, Any], trained: Path) -> None:
    questions, words = talk(flags, "", "", "", "checkpoint-99", "checkpoint-6")
    questions.run()
    assert questions.wizard.start == Start("continue", Path("out/w/checkpoint-6"))
    assert "There are: checkpoint-3, checkpoint-6, checkpoint-8" in words.getvalue()


def test_who_goes_on_with_a_finished_run_is_asked_for_more_epochs(flags: dict[str, Any]) -> None:
    train(**flags)
    questions, words = talk(flags, "", "", "", "c", "", "3", "", "", "", "", "", "n")
    assert questions.run() == 0
    assert "Nothing is left of this run; with more epochs it goes on." in words.getvalue()
    assert "continuing from checkpoint-14" in words.getvalue()


def test_how_to_begin_is_not_asked_where_a_flag_says_so(flags: dict[str, Any], trained: Path) -> None:
    questions, words = talk({**flags, "init_from": str(trained / "checkpoint-6")}, "", "", "", "n", "n")
    assert questions.run() == 0
    assert "from the weights of checkpoint-6" in words.getvalue()


def test_saying_no_at_the_end_starts_nothing(flags: dict[str, Any]) -> None:
    questions, _words = talk(flags, "", "", "", "n", "n")
    assert questions.run() == 0
    assert not Path("out/w").exists()


def test_columns_of_other_names_are_asked_for(flags: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("no,ask,say\n" + "".join(f"{row},what is {row}?,it is {row}\n" for row in range(9)))
    questions, words = talk(flags, str(path), "nonsense", "instruction=ask,output=say")
    questions.run()
    assert "9 rows · alpaca" in words.getvalue()
    assert questions.wizard.answers["columns"] == "instruction=ask,output=say"


@pytest.fixture
def base(flags: dict[str, Any], tmp_path: Path) -> Path:
    """A model without a template."""
    folder = shutil.copytree(flags["model"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    return folder


def test_how_turns_are_written_is_asked_where_the_model_has_no_template(flags: dict[str, Any], base: Path) -> None:
    questions, words = talk(flags, "", str(base), "no.jinja", "", "", "n", "n")
    assert questions.run() == 0
    assert "There is no such file." in words.getvalue()
    assert questions.wizard.answers["chat_template"] == "plain"


def test_the_template_of_a_run_that_goes_on_is_kept(flags: dict[str, Any], base: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(NAMED["chatml"], encoding="utf-8")
    train(**{**flags, "model": base, "epochs": 1}, chat_template=tmp_path / "own.jinja")
    questions, _words = talk({**flags, "model": str(base)}, "", "", "", "", "", "n", "n")
    assert questions.run() == 0
    assert questions.wizard.planned is not None and questions.wizard.planned.plan.mode == "continue"
    assert "chat_template" not in questions.wizard.answers


def test_what_the_run_will_take_is_told_before_it_is_agreed_to(flags: dict[str, Any]) -> None:
    questions, words = talk(flags, "", "", "", "n", "n")
    questions.run()
    assert "14 steps to do" in words.getvalue()
    assert "memory: about" in words.getvalue()
    assert "disk: about" in words.getvalue()


def test_a_run_that_is_complete_shows_its_result_and_asks_nothing_more(flags: dict[str, Any]) -> None:
    train(**flags)
    questions, words = talk(flags, "", "", "", "", "n")
    assert questions.run() == 0
    assert "Start training" not in words.getvalue()
    assert "adapter: " in words.getvalue()
