"""Numbers as people say them."""

from __future__ import annotations

from engine.i18n import _


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return _("{count:.0f} s").format(count=seconds)
    minutes = round(seconds / 60)
    if minutes < 90:
        return _("{count} min").format(count=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def size_words(count: int) -> str:
    """Bytes in the unit that needs the fewest digits (powers of 1000, as disks are sold)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def epochs_words(count: float | None) -> str:
    """A whole run's epochs, with two decimals at most and no more than it has: 3, 0.42. A dash where it is not known."""
    return "-" if count is None else f"{count:.2f}".rstrip("0").rstrip(".")
