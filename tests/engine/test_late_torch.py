"""torch comes when it is asked for: what must be set before it can be, and importing it goes the one way there is (hardware.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["engine.training.trainer", "engine.training.expect", "engine.training.trial", "engine.chat", "tui.wizard", "tui.app"]
)  # fmt: skip
def test_a_module_that_is_imported_early_brings_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
