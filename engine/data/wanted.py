"""Whether the answer of a row is one to learn: others keep unwanted ones beside good ones, or answers about what is no text."""

from __future__ import annotations

from typing import Any

from engine.data.normal import Bad, Row
from engine.i18n import _

WANTED = ("label", "kto_tag")
"""Columns that say whether an answer is wanted: KTO learns from both kinds, fine-tuning would learn to give the unwanted ones."""
MEDIA = ("image", "video", "audio")
"""What an answer may be about and no text can say: the columns that hold it begin so (image_path), and <image> points at it."""


def answer_wanted(row: Row) -> None:
    """Raises Bad where a row says that its answer is not one to learn."""
    for name in WANTED:
        if truth(row.get(name)) is False:
            raise Bad(
                _('its answer is marked as not wanted ("{name}" is false), and fine-tuning would teach it').format(
                    name=name
                ),
                "answer_not_wanted",
                _('Keep the rows whose "{name}" is true; where it says something else, take that column out.').format(
                    name=name
                ),
            )


def only_text(row: Row) -> None:
    """Raises Bad where a row's answer is about pictures or sounds: without them a model would learn to make up what is in them. A path
    or an address beside words that do not point at it may be just that."""
    for name, held in row.items():
        kind = next((kind for kind in MEDIA if name.startswith(kind)), None)
        if kind is None or not held:
            continue
        if any(f"<{kind}>" in str(value) for value in row.values()) or (
            name in (kind, f"{kind}s") and not isinstance(held, str)
        ):
            raise Bad(
                _('has "{name}", and only text is learned, so the model would learn to answer without seeing it').format(
                    name=name
                ),
                "not_text",
                _('Keep the rows without "{name}", or take that column out where the answers do not need it.').format(
                    name=name
                ),
            )


def truth(value: Any) -> bool | None:
    """What a column of true and false says, which a table holds as text; None where it says something else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None
