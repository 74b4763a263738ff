"""The wizard on a real terminal, in a process of its own: real keys, a real screen, real training, real signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from engine.journal import read_journal
from engine.lock import holder_of, is_held
from tests.tui.conftest import RUN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")


class Terminal:
    """lora-tui on a pty, its screen kept by a terminal emulator."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        rows: int = 24,
        columns: int = 80,
        program: tuple[str, ...] = ("-m", "tui"),
        **environment: str,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        known = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "LORA_TUI"))}
        self.child = pexpect.spawn(
            sys.executable,
            [*program, *arguments],
            dimensions=(rows, columns),
            cwd=str(folder),
            env={
                **known,
                "TERM": "xterm-256color",
                "LANG": "C.UTF-8",
                "LORA_TUI_STATE": str(folder / "state"),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **environment,
            },
            timeout=60,
        )

    def look(self) -> str:
        """What is on the screen now."""
        while True:
            try:
                data = self.child.read_nonblocking(65536, timeout=0.05)
            except (pexpect.TIMEOUT, pexpect.EOF):
                break
            self.raw += data
            # pyte knows no private CSI such as the kitty keyboard's; a real terminal skips them.
            self.stream.feed(data.replace(b"\x1b[>1u", b"").replace(b"\x1b[<u", b""))
        return "\n".join(self.screen.display)

    def until(self, *words: str, seconds: float = 60) -> str:
        """Wait until one of `words` is to be seen; the screen then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(one in (seen := self.look()) for one in words):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"{' or '.join(words)} never came:\n{self.look()}")

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def end(self, seconds: float = 60) -> int | None:
        """The exit code, once it has ended."""
        end = time.monotonic() + seconds
        while self.child.isalive() and time.monotonic() < end:
            self.look()
        self.look()
        self.child.close(force=True)
        return self.child.exitstatus

    def left_behind(self) -> str:
        """What was written once the alternate screen had been left: what stays on the terminal, its colours and line ends aside."""
        return re.sub(r"\x1b\[[0-9;?]*[a-z]", "", self.raw.rpartition(b"\x1b[?1049l")[2].decode()).replace("\r\n", "\n")

    def restored(self) -> bool:
        """Whether the last word on the alternate screen, the cursor and the mouse was to leave them as they were."""
        return all(
            self.raw.rfind(off) > self.raw.rfind(on) >= 0
            for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"), (b"\x1b[?1000h", b"\x1b[?1000l"))
        )


ENTER, CTRL_N, CTRL_Q = "\r", "\x0e", "\x11"


@pytest.fixture
def terminal(tmp_path: Path, tiny_model: Path, chat_file: Path) -> Iterator[Callable[..., Terminal]]:
    opened = []

    def open_one(*arguments: str, **options: Any) -> Terminal:
        flags = {**RUN, "epochs": 1500, "save_steps": 50, "dataset": chat_file, "model": tiny_model, "output": "out/w"}
        words = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
        opened.append(Terminal([*words, *arguments], tmp_path, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        if not one.child.closed:
            one.child.close(force=True)


def to_training(terminal: Terminal, seen: str = "left ") -> None:
    terminal.until("26 rows")
    terminal.press(CTRL_N)
    terminal.until("context 256")
    terminal.press(CTRL_N)
    terminal.until("are free there")
    terminal.press(CTRL_N)
    terminal.until("4 Start")
    terminal.until("Start fresh or continue?")
    terminal.until("a fresh run starts", "is the furthest")
    terminal.press(ENTER)
    terminal.until("How should it be trained?")
    terminal.until("learning rate")
    terminal.press(CTRL_N)
    terminal.until("the same without the wizard")
    terminal.press(ENTER)
    terminal.until(seen)


@pytest.mark.slow
def test_hangup_in_the_middle_saves_and_the_next_start_continues(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    first = terminal()
    to_training(first)
    time.sleep(1)
    first.child.kill(signal.SIGHUP)
    assert first.end() == 129
    assert first.restored()
    out = tmp_path / "out" / "w"
    (stopped,) = [record for record in read_journal(out) if record["type"] == "run_stopped"]
    assert stopped["reason"] == "SIGHUP"
    assert (out / f"checkpoint-{stopped['step']}" / "manifest.json").is_file()

    second = terminal()
    to_training(second)
    second.until(f"Continued from checkpoint-{stopped['step']}")
    second.press(CTRL_Q)
    second.until("Stop, save and quit")
    second.press("\t" + ENTER)
    assert second.end() == 0
    assert second.restored()
    assert second.left_behind().endswith("lora-tui --yes --output out/w --resume auto\n")
    # What libraries print lies in the log and never tore the screen.
    assert b"Loading weights" not in first.raw + second.raw
    assert "Loading weights" in (out / "run.log").read_text()
    (receipt,) = [record for record in read_journal(out) if record["type"] == "resume_checked"]
    assert {item["verdict"] for item in receipt["items"]} == {"ok"}


@pytest.mark.slow
def test_a_terminal_that_vanishes_costs_nothing(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    one = terminal()
    to_training(one)
    pid = one.child.pid
    one.child.ptyproc.fileobj.close()  # what a dropped ssh session does: the system sends the hangup
    one.child.ptyproc.closed = one.child.closed = True
    end = time.monotonic() + 60
    while time.monotonic() < end and (Path("/proc") / str(pid)).exists():
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                break
        except ChildProcessError:
            break
        time.sleep(0.1)
    (stopped,) = [record for record in read_journal(tmp_path / "out" / "w") if record["type"] == "run_stopped"]
    assert stopped["reason"] == "SIGHUP"
    one.child.ptyproc.terminated = one.child.terminated = True


def test_a_run_that_was_detached_outlives_its_terminal_is_watched_from_another_and_stopped_there(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "w"
    first = terminal()
    to_training(first)
    first.press("d")
    first.until("Moving to a process of its own")
    first.until("Continued from checkpoint-")
    first.until("detached, outlives this terminal")
    assert b"stopped at step" not in first.raw
    holder = holder_of(out)
    assert holder is not None and holder.pid != first.child.pid
    first.child.ptyproc.fileobj.close()  # what a dropped ssh session does
    first.child.ptyproc.closed = first.child.closed = True
    assert os.waitstatus_to_exitcode(os.waitpid(first.child.pid, 0)[1]) == 129
    first.child.ptyproc.terminated = first.child.terminated = True
    assert is_held(out)

    looking = Terminal(["watch", "out/w", "--read-only"], tmp_path)
    looking.until("Continued from checkpoint-")
    looking.press("s")
    time.sleep(1)
    looking.press(CTRL_Q)
    assert looking.end() == 0
    assert "the run goes on without this terminal in out/w" in looking.left_behind()
    assert is_held(out)

    second = Terminal(["watch", "out/w"], tmp_path)
    second.until("left ")
    second.press("s")
    second.until("stopped at step")
    second.press(CTRL_Q)
    assert second.end() == 0
    moved, stopped = [record for record in read_journal(out) if record["type"] == "run_stopped"]
    assert (moved["reason"], stopped["reason"]) == ("detach", "watcher")
    began = [record for record in read_journal(out) if record["type"] == "run_started"][1]
    assert (began["step"], began["pid"]) == (moved["step"], holder.pid)  # not a step was lost
    (receipt,) = [record for record in read_journal(out) if record["type"] == "resume_checked"]
    assert {item["verdict"] for item in receipt["items"]} == {"ok"}


def test_what_was_reached_stays_on_the_terminal_once(terminal: Callable[..., Terminal]) -> None:
    one = terminal("--epochs", "1")
    to_training(one, "done · step 7")
    one.press(ENTER)
    assert one.end() == 0
    said = one.left_behind()
    assert said.count("done · step 7") == 1
    assert "adapter: out/w/final" in said
    assert "NOTE" not in said


FAULT = """
import sys
from tui import app

def fail(self):
    raise RuntimeError("a fault of ours")

app.LoraTui.on_key = fail
sys.exit(app.run_wizard({}, False))
"""


def test_a_fault_of_the_wizard_is_told_on_the_terminal(tmp_path: Path) -> None:
    one = Terminal([], tmp_path, program=("-c", FAULT))
    one.until("What should the model learn from?")
    one.press("\x07")  # no screen uses ctrl+g
    assert one.end() == 1
    said = one.left_behind()
    assert "lora-tui failed: a fault of ours" in said
    assert f"The details are in {tmp_path}/state/wizard.log." in said
    assert "Traceback" not in said and "NOTE" not in said


def test_the_warning_of_a_batch_system_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    one = Terminal([], tmp_path)
    one.until("What should the model learn from?")
    one.child.kill(signal.SIGUSR1)
    assert one.end() == 138
    assert one.restored()


@pytest.mark.slow
def test_ascii_and_no_colour_on_a_plain_terminal(terminal: Callable[..., Terminal]) -> None:
    one = terminal("--no-color", LORA_TUI_ASCII="1")
    one.until("26 rows")
    seen = one.until(">1 Dataset")
    assert "[[" in seen
    to_training(one)
    seen = one.until("|:::")
    assert not any(0x2800 <= ord(character) < 0x2900 for character in seen)


def test_the_wizard_in_chinese_with_own_keys_and_terminated_before_a_run(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "keys.toml").write_text('next = "f2"\n')
    one = terminal("--lang", "zh_CN", LORA_TUI_KEYS="keys.toml")
    seen = one.until("26 行").replace(" ", "")
    assert "数据集" in seen and "f2下一步" in seen
    one.child.kill(signal.SIGTERM)
    assert one.end() == 143
    assert one.restored()


def test_without_a_terminal_the_missing_flag_is_named(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-m", "tui"], capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert done.returncode == 2
    assert "--yes" in done.stderr
