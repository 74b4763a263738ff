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


def epochs_words(count: float | None) -> str:
    """A whole run's epochs, with two decimals at most and no more than it has: 3, 0.42. A dash where it is not known."""
    return "-" if count is None else f"{count:.2f}".rstrip("0").rstrip(".")
