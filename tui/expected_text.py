"""What a run will take, as text for people: (text, style) lines, the same on the review and in plain questions."""

from __future__ import annotations

from engine.i18n import _, n_
from engine.sizes import size_words
from engine.training.estimate import TIGHT
from engine.training.expect import Expected
from tui.plain import visible
from tui.words import duration


def expected_lines(found: Expected) -> list[tuple[str, str]]:
    """Steps, time, device, batch, memory and disk."""
    lines: list[tuple[str, str]] = []
    steps = found.steps
    parts = [n_("{count} step to do", "{count} steps to do", steps).format(count=steps)] if steps is not None else []
    if found.seconds is not None:
        parts.append(_("about {time} at the pace of last time").format(time=duration(found.seconds)))
    else:
        parts.append(_("the time is known after the first steps"))
    lines.append((" · ".join(parts), ""))
    lines += [(visible(note), "yellow") for note in found.notes]
    for words in found.hardware.reasons().values():
        lines.append((visible(words), "dim"))
    if found.fitted is not None:
        batch = _("batch of {rows} rows · {reason}").format(rows=found.fitted.batch_size, reason=found.fitted.batch_reason)
        lines.append((visible(batch), "dim"))
        if found.fitted.checkpointing:
            words = _("activation checkpointing · {reason}").format(reason=found.fitted.checkpointing_reason)
            lines.append((visible(words), "dim"))
        if found.fitted.parallel != "ddp":
            words = _("each process holds a part of the model ({way}) · {reason}").format(
                way=found.fitted.parallel, reason=found.fitted.parallel_reason
            )
            lines.append((visible(words), "dim"))
        memory = found.fitted.memory
        if memory is not None:
            style = "bold red" if memory.total > found.memory_free else (
                "yellow" if memory.total > TIGHT * found.memory_free else "")  # fmt: skip
            words = _("memory: about {need} of {free} free").format(
                need=size_words(memory.total), free=size_words(found.memory_free)
            )
            lines.append((words, style))
    if found.disk is not None:
        words = _("disk: about {need} of {free} free").format(need=size_words(found.disk), free=size_words(found.disk_free))
        lines.append((words, "bold red" if found.disk > found.disk_free else ""))
    return lines
