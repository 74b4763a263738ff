"""Where lora-tui keeps what it can make again: the demo, token tables, converters."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The platform's cache folder of lora-tui, there or not. LORA_TUI_CACHE names another one."""
    named = os.environ.get("LORA_TUI_CACHE")
    return (Path(named).expanduser() if named else platformdirs.user_cache_path("lora-tui")).absolute()
