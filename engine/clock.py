"""Seconds of the Unix epoch as a date. They come from files, which may say anything."""

from __future__ import annotations

from datetime import datetime, tzinfo


def moment(seconds: float | None, zone: tzinfo | None = None) -> datetime | None:
    """The moment `seconds`, by the clock of this place or of `zone`; None where there is none, or no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, zone) if seconds is not None else None
    except (ValueError, OverflowError, OSError):
        return None
