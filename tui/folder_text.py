"""An output folder as text for people: (text, style) lines, the same in the wizard's screens and in its plain questions."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints.choose import Choice
from engine.i18n import _, n_
from engine.paths import as_argument
from engine.resume.seen import Seen
from engine.sizes import size_words
from tui.plain import visible

PASSED = 3
"""Checkpoints further along than the recommended one that are told, and folders that only look like one."""


def seen_lines(seen: Seen) -> list[tuple[str, str]]:
    """What lies there, and how much room there is."""
    if seen.place.problem is not None:
        return []
    free = _("{free} are free there").format(free=size_words(seen.place.free))
    held = [(held_words(seen.place.folder), "yellow")] if seen.held else []
    if not seen.place.occupied:
        return [*held, (_("A new folder") + f" · {free}", "")]
    if seen.found is None or seen.choice is None:
        return [*held, (_("Something lies there, but no checkpoint. It stays as it is.") + f" · {free}", "yellow")]
    count = len(seen.found.checkpoints)
    lines = [
        *held,
        (
            n_("{count} checkpoint lies there", "{count} checkpoints lie there", count).format(count=count) + f" · {free}",
            "bold",
        ),
    ]
    lines.append((visible(seen.choice.reason), ""))
    lines += [
        (visible(_("Ignored {name}: {reason}").format(name=one.name, reason=one.reason)), "dim")
        for one in seen.found.ignored[:PASSED]
    ]
    return lines


def held_words(folder: Path) -> str:
    """That a run is at work in `folder`, and what can be done about it."""
    words = _("A run is at work in this folder. See it, or stop it: lora-tui watch {folder}")
    return visible(words.format(folder=as_argument(folder)))


def choice_lines(choice: Choice) -> list[tuple[str, str]]:
    """What would be continued and why, and what was passed over."""
    passed = [
        (visible(_("Passed over {name}: {reason}").format(name=one.checkpoint.name, reason=one.reason)), "yellow")
        for one in choice.passed_over[:PASSED]
    ]
    return [(visible(choice.reason), "bold"), *passed]
