"""Bytes and losses as people say them."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Bytes in the unit that needs the fewest digits (powers of 1000, as disks are sold)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def loss_words(value: float | None) -> str:
    """A loss with enough digits to tell and none to spare: 7 columns at most up to 1e99. A dash where it is not known."""
    if value is None:
        return "-"
    if 0.095 <= abs(value) < 9999.995:
        return f"{value:.2f}"
    return f"{value:.3g}" if 0.001 <= abs(value) < 0.095 else f"{value:.2g}"
