"""The command line that the review shows means the same run."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.folder import write_run_toml
from tui.app import LoraTui
from tui.cli import run_parser
from tui.commands import COMMANDS
from tui.wizard import Start, Wizard

Make = Callable[..., LoraTui]


async def test_the_command_line_of_the_review_means_the_same_run(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard({**flags, "seed": "7"})
    app.wizard.start = Start("fresh")
    planned = await asyncio.to_thread(app.wizard.make_plan)
    words = shlex.split(app.wizard.command_line())
    assert words[:2] == ["lora-tui", "--yes"]
    from engine.answers import gather
    from engine.resume.plan import plan_run

    options = run_parser().parse_args(words[1:])
    named = {name: value for name, value in vars(options).items() if name in RunConfig.model_fields}
    again = gather(named, environ={})
    assert plan_run(again.resolved, again.found).config == planned.config


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (3.0, "3"),
        (2e-05, "2e-05"),
        (0.123456789, "0.123456789"),
        (1.23456789e-05, "1.23456789e-05"),
        (16, "16"),
        ("1e-4", "1e-4"),
    ],
)
def test_a_number_on_the_command_line_is_the_same_number(value: Any, word: str) -> None:
    from tui.wizard import Wizard

    words = shlex.split(Wizard(answers={"learning_rate": value}).command_line())
    assert words[-2:] == ["--learning-rate", word]


def test_the_demo_is_named_in_full_where_the_folder_is_another_runs(tmp_path: Path) -> None:
    """Headless its run.toml would win over --demo."""
    from engine.demo import demo_answers

    answers = {**demo_answers(), "output": str(tmp_path)}
    assert "--demo" in shlex.split(Wizard(demo=True, answers=answers).command_line())
    write_run_toml(tmp_path, RunConfig(dataset="/other/rows.jsonl", model="/other/model"), "run-7")
    words = shlex.split(Wizard(demo=True, answers=answers).command_line())
    assert "--demo" not in words and {str(demo_answers()["dataset"]), str(demo_answers()["model"])} <= {*words}


def test_a_name_that_begins_with_a_dash_is_no_flag_on_the_command_line() -> None:
    words = shlex.split(Wizard(answers={"dataset": "-rows.jsonl", "model": "m", "output": "-o"}).command_line())
    options = vars(run_parser().parse_args(words[1:]))
    assert (options["dataset"], options["output"]) == ("-rows.jsonl", "-o")


def test_a_switch_that_is_left_to_the_program_is_no_flag_on_the_command_line() -> None:
    words = shlex.split(Wizard(answers={"model": "m", "activation_checkpointing": "auto"}).command_line())
    assert vars(run_parser().parse_args(words[1:])).keys().isdisjoint({"activation_checkpointing"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to"], "--to needs a value"),
        (["--to", "x"], "--to: 'x' is none of "),
        (["--lora=yes"], "--lora takes no value, and has 'yes'"),
        ([], "missing: OUT, --to"),
        ([""], "OUT: is empty"),
    ],
)
def test_what_argparse_has_to_say_is_said_in_words_that_can_be_translated(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        COMMANDS["export"].parser().parse_args(words)
