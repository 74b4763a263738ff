"""The Makefile on a machine where something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
PYTHON = """#!/bin/sh
# Stands for a python3 whose venv module makes a folder and then has no pip to put into it, until ensurepip is there.
case "$*" in *"-m venv"*) ;; *) exit 0 ;; esac
mkdir -p .venv/bin && touch .venv/bin/python
[ -e ensurepip ] || exit 1
printf '#!/bin/sh\\n' > .venv/bin/pip && chmod +x .venv/bin/pip
"""


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    """`make` of the venv in `folder`, with a python of which `ensurepip` decides what it can do."""
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "-f", str(MAKEFILE), f"PYTHON={python}", ".venv/.installed"]
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True)


def test_a_venv_that_could_not_be_made_whole_is_made_anew_the_next_time(tmp_path: Path) -> None:
    first = make(tmp_path)
    (tmp_path / "ensurepip").touch()
    again = make(tmp_path)
    assert (first.returncode, again.returncode) == (2, 0), again.stderr


def test_a_venv_that_uv_made_is_not_taken_away(tmp_path: Path) -> None:
    """It has no pip by design, and all that somebody put into it."""
    (tmp_path / "ensurepip").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nimplementation = CPython\nuv = 0.9.1\n")
    refused = make(tmp_path)
    assert refused.returncode == 2 and "was made by uv" in refused.stderr
    assert not (tmp_path / ".venv" / "bin").exists()
