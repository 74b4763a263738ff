"""The terminal on a handle of its own, with what must work beneath it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WIZARD = """
import asyncio, os, sys
from pathlib import Path

def main():
    from engine.data import tokens, workers
    from engine.remembered import Remembered
    from tests.tui.conftest import Hand
    from tui.app import LoraTui
    from tui.streams import own_terminal

    tokens.CHUNK, workers.ALONE = 4, 1
    workers._processors = lambda: 2
    asked, ask = [], workers._asked
    workers._asked = lambda *given: asked.append(ask(*given)) or asked[-1]

    async def look():
        app = LoraTui({"dataset": sys.argv[1], "model": sys.argv[2]}, remembered=Remembered())
        async with app.run_test(size=(80, 24)) as pilot:
            hand = Hand(app, pilot)
            await hand.go_on("ModelScreen", "26 rows")
            await hand.until(lambda: hand.shows("trained on"))

    with own_terminal(Path(sys.argv[3])):
        asyncio.run(look())
    assert asked and all(one.result() for one in asked), "nothing was asked of other processes"

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are handed to processes so on POSIX only")
def test_rows_are_tokenised_by_other_processes_beneath_the_wizard(tmp_path: Path, chat_file: Path, tiny_model: Path) -> None:
    """Textual puts a stream without a descriptor in place of sys.stderr: what begins processes stumbles over it."""
    (tmp_path / "wizard.py").write_text(WIZARD)
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, str(tmp_path / "wizard.py"), str(chat_file), str(tiny_model), str(log)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "LORA_TUI_CACHE": str(tmp_path / "cache"),
             "LORA_TUI_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    assert "fds_to_keep" not in log.read_text()
