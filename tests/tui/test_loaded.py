"""Nothing is loaded, and nothing sent, that a command does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tui.commands import COMMANDS

HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "textual"}


def loaded_by(*arguments: object) -> set[str]:
    """The modules that are loaded when the command has ended, in a process of its own."""
    code = (
        "import sys, json\n"
        "from tui.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("check", "{out}"),
        ("check", "{out}", "--json"),
        ("--version",),
        *((word, "--help") for word in COMMANDS),
    ],
)
def test_help_and_check_load_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    assert not HEAVY & loaded_by(*(word.format(out=tmp_path) for word in arguments))


def test_a_plan_is_made_without_torch(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    arguments = ("--yes", "--dry-run", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "x")
    assert not HEAVY & loaded_by(*arguments)
    assert not (tmp_path / "x").exists()


def test_the_first_frame_waits_for_nothing_of_checkpoints_and_runs() -> None:
    code = "import sys, tui.app, tui.screens.dataset; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tui.live" in loaded and not {"engine.checkpoints", "engine.resume", "engine.training"} & loaded


def test_no_run_is_told_to_the_hub(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    # huggingface_hub begins a thread at the first thing that is to be sent; TRL sends one at the start of each run.
    arguments = ("--yes", "--max-steps", "1", "--dataset", chat_file, "--model", tiny_model, "--output", tmp_path / "x")
    code = (
        "import sys, threading\n"
        "from tui.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, [one.name for one in threading.enumerate() if 'telemetry' in one.name])"
    )
    asked = ("CI", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
