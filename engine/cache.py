"""Where lora-tui keeps what it can make again: the demo, token tables, converters."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from engine.paths import path_of


def cache_root() -> Path:
    """The platform's cache folder of lora-tui, there or not. LORA_TUI_CACHE names another one."""
    named = os.environ.get("LORA_TUI_CACHE")
    return (path_of(named) if named else platformdirs.user_cache_path("lora-tui")).absolute()
