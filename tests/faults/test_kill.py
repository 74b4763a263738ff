"""A real run in a real process, killed with a real SIGKILL, continued until it is done: it is the run that was never killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.journal import JOURNAL_NAME
from tests.engine.runs import adapter_bytes, losses

FLAGS = ["--yes", "--epochs", 2, "--batch-size", 4, "--learning-rate", 0.01, "--save-steps", 2, "--lora-dropout", 0.1,
         "--eval-fraction", 0.2]  # fmt: skip
LAST_STEP = 12


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    from tests.engine.runs import train

    out = tmp_path_factory.mktemp("straight") / "run"
    train(dataset=chat_file, model=tiny_model, output=out, epochs=2, batch_size=4, learning_rate=0.01, save_steps=2,
          lora_dropout=0.1, eval_fraction=0.2)  # fmt: skip
    assert losses(out)[-1][0] == LAST_STEP
    return out


def journal_lines(out: Path) -> int:
    path = out / JOURNAL_NAME
    return path.read_bytes().count(b'"type": "step"') if path.exists() else 0


def wait_for(condition: Callable[[], bool], process: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def kill(process: Any) -> None:
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def finish(lora_tui: Callable[..., tuple[int, str, str]], out: Path) -> None:
    code, _out, err = lora_tui("--yes", "--output", out)
    assert code == 0, err


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_steps_is_the_same_run(
    seed: int, start: Any, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path, uninterrupted: Path
) -> None:
    chance, out = random.Random(seed), tmp_path / "run"
    arguments = [*FLAGS, "--dataset", chat_file, "--model", tiny_model, "--output", out]
    for _attempt in range(3):
        process, before = start(*arguments), journal_lines(out)
        steps = chance.randint(1, 6)
        wait_for(lambda: journal_lines(out) >= before + steps, process)  # noqa: B023
        time.sleep(chance.random() * 0.05)
        kill(process)
        assert all(found.grade == "proven" for found in scan(out).checkpoints)
        arguments = ["--yes", "--output", out]
    if not any(found.step for found in scan(out).checkpoints):
        arguments = [*FLAGS, "--dataset", chat_file, "--model", tiny_model, "--output", out]
        code, _out, err = lora_tui(*arguments)
        assert code == 0, err
    else:
        finish(lora_tui, out)
    assert adapter_bytes(out) == adapter_bytes(uninterrupted)
    assert losses(out) == losses(uninterrupted)
    assert not list(out.glob(".staging-*")) and not list(out.glob(".trash-*"))


@pytest.mark.parametrize("nth", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_killed_while_saving_continues_as_if_it_had_not_been(
    nth: int, start: Any, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "run"
    arguments = [*FLAGS, "--dataset", chat_file, "--model", tiny_model, "--output", out]
    process = start(*arguments)
    seen: set[str] = set()

    def saving() -> bool:
        seen.update(path.name for path in out.glob(".staging-*"))
        return len(seen) >= nth

    wait_for(saving, process)
    kill(process)
    assert process.exitcode == -signal.SIGKILL
    assert all(found.grade == "proven" for found in scan(out).checkpoints)
    code, _out, err = lora_tui(*arguments)
    assert code == 0, err
    assert adapter_bytes(out) == adapter_bytes(uninterrupted)
    assert losses(out) == losses(uninterrupted)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_a_checkpoint_and_leaves_with_its_own_code(
    name: str, code: int, start: Any, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "run"
    process = start(*FLAGS, "--dataset", chat_file, "--model", tiny_model, "--output", out)
    wait_for(lambda: journal_lines(out) >= 3, process)
    os.kill(process.pid, getattr(signal, name))
    process.join(60)
    assert process.exitcode == code
    stopped_at = losses(out)[-1][0]
    assert max(found.step or 0 for found in scan(out).checkpoints) == stopped_at
    finish(lora_tui, out)
    assert adapter_bytes(out) == adapter_bytes(uninterrupted)


def test_a_second_run_on_a_busy_folder_is_refused_and_names_the_holder(
    start: Any, lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    out = tmp_path / "run"
    flags = ["--yes", "--dataset", chat_file, "--model", tiny_model, "--output", out, "--epochs", 500]
    process = start(*flags)
    wait_for(lambda: journal_lines(out) >= 1, process)
    code, _out, err = lora_tui(*flags)
    assert code == 5
    assert str(process.pid) in err
