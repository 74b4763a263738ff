"""llama.cpp's converters being fetched, by a pip that is none: how far it is, its end, and what is left of it."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.cache import cache_root
from engine.errors import Cancelled, ConfigError, OutputError
from engine.export import llama_cpp
from engine.export.llama_cpp import HF, find_llama_cpp, refuse_impossible
from tui.export import _Aside

PYTHON = sys.executable
PIP = """#!/bin/sh
mkdir "$TMPDIR/pip-unpack-x" && sleep 300 & echo $! > {pids}
{first}
wait
"""


class Pip:
    """What stands in for Python with its pip: it does what it is told, and would then be at work for minutes."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pids, self._script = place / "pids", place / "python"
        self.package = place / "llama_cpp_python-0.tar.gz"
        with tarfile.open(self.package, "w:gz") as archive:
            for name in (f"llama_cpp_python-0/vendor/llama.cpp/{HF}", "llama_cpp_python-0/other"):
                member = tarfile.TarInfo(name)
                member.size = 3
                archive.addfile(member, io.BytesIO(b"xyz"))
        monkeypatch.setattr(llama_cpp, "SHA256", hashlib.sha256(self.package.read_bytes()).hexdigest())
        monkeypatch.setattr(sys, "executable", str(self._script))
        monkeypatch.setenv("LORA_TUI_CACHE", str(place / "cache"))

    def does(self, first: str) -> None:
        self._script.write_text(PIP.format(pids=self._pids, first=first))
        self._script.chmod(0o755)

    def fetches(self, what: str) -> None:
        self.does(
            f'while [ ! -d "$TMPDIR/pip-unpack-x" ]; do sleep 0.02; done; {what} > "$TMPDIR/pip-unpack-x/{self.package.name}"'
        )

    def has_ended(self) -> bool:
        """Whether what it had started is gone too."""
        child = int(self._pids.read_text())
        for _turn in range(100):
            try:
                os.kill(child, 0)
                with open(f"/proc/{child}/stat") as stat:
                    if stat.read().split()[2] == "Z":  # nobody in a container may have asked for it yet
                        return True
            except OSError:
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    return Pip(tmp_path, monkeypatch)


def left() -> list[str]:
    return sorted(one.name for one in cache_root().iterdir() if not one.name.endswith(".lock"))


def test_the_package_is_taken_as_soon_as_it_is_whole_and_its_bytes_are_told(pip: Pip) -> None:
    pip.fetches(f"cat {pip.package}")
    told: list[str] = []
    found = find_llama_cpp(None, told.append)
    assert (found.folder / HF).read_text() == "xyz" and left() == [found.folder.name]
    assert any(" of 77 MB · " in words and words.endswith("MB/s") for words in told)
    assert pip.has_ended()


def test_without_a_terminal_each_thing_that_is_done_is_a_line_and_its_figures_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    aside = _Aside()
    for words in ("fetching: 77 MB, once", "fetched 1.5 of 77 MB", "fetched  60 of 77 MB", "", "merging"):
        aside(words)
    assert capsys.readouterr().err.splitlines() == ["fetching: 77 MB, once", "fetched 1.5 of 77 MB", "merging"]


def test_a_python_before_3_11_4_unpacks_it_too(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tarfile knows no filters."""
    extract = tarfile.TarFile.extractall

    def without_filters(archive: tarfile.TarFile, path: Path, members: Any = None) -> None:
        extract(archive, path, members, filter="fully_trusted")

    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(tarfile.TarFile, "extractall", without_filters)
    pip.fetches(f"cat {pip.package}")
    assert (find_llama_cpp(None).folder / HF).read_text() == "xyz"


def test_an_environment_without_pip_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that uv makes: a network, which is what a failed fetch is told to need, would not help."""
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="fetched by pip"):
        refuse_impossible(None, None)


def test_cancelled_it_ends_at_once_and_leaves_nothing(pip: Pip) -> None:
    pip.fetches("echo half")
    fetching = threading.Event()
    with pytest.raises(Cancelled):
        find_llama_cpp(None, lambda words: fetching.set() if "MB/s" in words else None, fetching.is_set)
    assert pip.has_ended() and left() == []


def test_ctrl_c_ends_what_pip_had_started_too(pip: Pip) -> None:
    pip.fetches("echo half")

    def interrupted(words: str) -> None:
        if "MB/s" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_llama_cpp(None, interrupted)
    assert pip.has_ended() and left() == []


def test_where_no_byte_comes_any_more_it_is_not_waited_for(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "PATIENCE", 0.6)
    pip.fetches("echo half")
    with pytest.raises(OutputError, match="No byte has come"):
        find_llama_cpp(None)
    assert pip.has_ended() and left() == []


def test_what_pip_complains_about_is_told(pip: Pip) -> None:
    pip.does('kill $!; echo "ERROR: no network" >&2; exit 1')
    with pytest.raises(OutputError, match="ERROR: no network"):
        find_llama_cpp(None)
    assert left() == []


def test_it_can_be_cancelled_while_another_process_fetches(pip: Pip) -> None:
    cache_root().mkdir(parents=True)
    fetching = llama_cpp.filelock.FileLock(cache_root() / f".llama.cpp-{llama_cpp.VERSION}.lock")
    with fetching, pytest.raises(Cancelled):
        find_llama_cpp(None, stopped=lambda: True)


EXPORTING = """
import sys
sys.executable = sys.argv.pop(1)
import tui.export
tui.export.find_source = lambda *given: None  # what is exported does not matter: it does not come to that
from tui.__main__ import main
sys.argv = ["lora-tui", "export", "out", "--to", "gguf"]
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_command_ends_pip_and_leaves_nothing(pip: Pip, number: int, code: int) -> None:
    pip.fetches("echo half")
    command = subprocess.Popen([PYTHON, "-c", EXPORTING, sys.executable], stderr=subprocess.PIPE, text=True)
    for _turn in range(1200):
        if list(cache_root().glob(".llama.cpp-*/pip-*/*.tar.gz")) or command.poll() is not None:
            break
        time.sleep(0.05)
    command.send_signal(number)
    assert command.wait(30) == code, command.communicate()[1]
    assert pip.has_ended() and left() == []


def test_a_cache_on_a_file_system_without_locks_is_fetched_into_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import errno
    import fcntl

    def refused(*_asked: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(llama_cpp, "_fetch", lambda folder, *_how: folder.mkdir())
    assert find_llama_cpp(None).folder.is_dir()
