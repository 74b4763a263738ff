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


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_a_venv_that_could_not_be_made_whole_is_made_anew_the_next_time(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "-f", str(MAKEFILE), f"PYTHON={python}", ".venv/.installed"]
    first = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    (tmp_path / "ensurepip").touch()
    again = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert (first.returncode, again.returncode) == (2, 0), again.stderr
