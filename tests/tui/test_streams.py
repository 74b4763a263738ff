"""The terminal on a handle of its own, with what must work beneath it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_jsonl

WIZARD = """
import asyncio, os, sys
from pathlib import Path

def main():
    from engine.data import tokens, workers
    from engine.remembered import Remembered
    from tests.tui.conftest import driven
    from tui.app import LoraTui
    from tui.streams import own_terminal

    tokens.CHUNK, workers.ALONE = 4, 1
    workers.processors = lambda: 2
    LoraTui._preload = lambda self: None  # what it imports meanwhile is not needed here
    asked, ask = [], workers._asked
    workers._asked = lambda *given: asked.append(ask(*given)) or asked[-1]

    async def look():
        app = LoraTui({"dataset": sys.argv[1], "model": sys.argv[2]}, remembered=Remembered())
        async with driven(app) as hand:
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


def _told(command: str, *given: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A command line of the shell, in which $L is lora-tui and $1, $2 ... are `given`."""
    return subprocess.run(
        ["sh", "-c", command, "sh", *map(str, given)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "L": f"{sys.executable} -m tui", **more},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    "closed", [pytest.param(">&-", marks=pytest.mark.slow), pytest.param("<&- 2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"]
)
def test_closed_streams_end_nothing(tmp_path: Path, chat_file: Path, tiny_model: Path, closed: str) -> None:
    """Nor does a file that is opened get a number that others print to."""
    where = {"LORA_TUI_CACHE": str(tmp_path / "cache"), "LORA_TUI_STATE": str(tmp_path)}
    before = chat_file.read_bytes()
    done = _told(
        f'$L --yes --dataset "$1" --model "$2" --output "$3" --max-steps 1 --save-steps 1 {closed}',
        chat_file, tiny_model, tmp_path / "run", **where,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for command in ('check "$3"', 'check "$3" --json', 'data "$1" --json', 'data "$1"'):
        done = _told(f"$L {command} {closed}", chat_file, tiny_model, tmp_path / "run", **where)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert ("checkpoint" in done.stdout or "rows" in done.stdout) == (">&-" not in closed.split()), command
    assert chat_file.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_stdout_is_told_in_a_line(tmp_path: Path, chat_file: Path) -> None:
    for command in ('check "$2" --json', 'check "$2"', 'data "$1" --json', 'data "$1"', "--help"):
        done = _told(f"$L {command} > /dev/full", chat_file, tmp_path)
        assert done.returncode == 5, command
        assert "standard output cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert _told('$L data "$1" | head -1', chat_file).stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader is another error there")
@pytest.mark.parametrize("deaf, words, code", [("stdout", ["runs", "."], 0), ("stderr", ["check", "nowhere"], 2)])
def test_a_reader_that_has_gone_changes_no_exit_code(tmp_path: Path, deaf: str, words: list[str], code: int) -> None:
    """`| head` of a command, and 2>&1 of one that refuses."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "run.toml").write_text("schema_version = 1")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tui", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": ""},
        stdout=writer if deaf == "stdout" else subprocess.PIPE,
        stderr=writer if deaf == "stderr" else subprocess.PIPE,
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == code
    assert not (done.stderr or b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_events_that_a_full_stdout_does_not_take_are_missed_once_and_the_run_goes_on(
    tmp_path: Path, chat_file: Path, tiny_model: Path
) -> None:
    where = {"LORA_TUI_CACHE": str(tmp_path / "cache"), "LORA_TUI_STATE": str(tmp_path)}
    run = '$L --json --dataset "$1" --model "$2" --output "$3" --max-steps 2'
    plan = _told(f"{run} --dry-run > /dev/full", chat_file, tiny_model, tmp_path / "run", **where)
    assert plan.returncode == 5 and "standard output cannot be written" in plan.stderr
    done = _told(f"{run} > /dev/full", chat_file, tiny_model, tmp_path / "run", **where)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output cannot be written: No space left on device") == 1
    assert (tmp_path / "run" / "final").is_dir() and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["io", "C"],
)
def test_what_an_encoding_cannot_say_ends_no_command(tmp_path: Path, locale: dict[str, str]) -> None:
    data = write_jsonl(tmp_path / "café.jsonl", [{"text": "“naïve” … 你好"}] * 3)
    run = tmp_path / "café"
    (run / "checkpoint-3").mkdir(parents=True)
    (run / "events.jsonl").write_text('{"type": "run_started", "t": 1.0, "attempt": 1}\n')
    for command in ('data "$1"', 'data "$1" --json', 'check "$2"', 'check "$2" --json', 'runs "$3"', 'runs "$3" --json'):
        done = _told(f"$L {command}", data, run, tmp_path, **locale)
        assert done.returncode == (3 if command.startswith("check") else 0), command
        assert "Traceback" not in done.stderr
        if "--json" in command:
            assert json.loads(done.stdout)["schema"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_working_folder_that_is_gone_is_told_and_nothing_is_begun(
    tmp_path: Path, chat_file: Path, tiny_model: Path
) -> None:
    """A run that names everything by absolute paths was ended by a library without a word."""
    for command in ("check .", 'data "$2"', '--yes --dataset "$2" --model "$3" --output "$4"', "--yes"):
        gone = tmp_path / "gone"
        gone.mkdir()
        done = _told(f'cd "$1" && rmdir "$1" && $L {command}', gone, chat_file, tiny_model, tmp_path / "run")
        assert done.returncode == 2, command
        assert "was started in is no longer there" in done.stderr and "cd" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "place", ["a file in the place of the folder", "a folder in the place of the log", "a link to nowhere"]
)
def test_a_log_that_cannot_be_kept_costs_nobody_the_wizard(place: str, tmp_path: Path) -> None:
    log = tmp_path / "state" / "wizard.log"
    if place == "a file in the place of the folder":
        log.parent.touch()
    else:
        log.parent.mkdir()
        log.mkdir() if place == "a folder in the place of the log" else log.symlink_to(tmp_path / "state" / "nowhere" / "x")
    words = "import os\nfrom pathlib import Path\nfrom tui.streams import own_terminal\n"
    words += f"with own_terminal(Path({str(log)!r})) as kept:\n    os.write(1, b'of a library')\nprint('begun', kept)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "begun None\n"), done.stderr
