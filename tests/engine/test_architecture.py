"""docs/architecture.md is the way into the house: no room is missing from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("engine", "tui")
    for path in (ROOT / package).rglob("*.py")
    if path.name[:2] != "__"
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_is_named(module: Path) -> None:
    """In the row of its folder, or by its path."""
    rows = [
        line for line in (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    own = [row for row in rows if f"`{module}`" in row or f"`{module.parent}/`" in row]
    assert any(f"`{module}`" in row or re.search(rf"\b{module.stem}\b", row) for row in own)
