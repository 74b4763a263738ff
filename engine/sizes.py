"""Bytes as people say them."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Bytes in the unit that needs the fewest digits (powers of 1000, as disks are sold)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
