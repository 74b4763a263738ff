"""A run as it stands as text and curves for people: the training screen's words, and what the result shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from engine.config import REACHED, TOO_LOW
from engine.events import (
    CheckpointSaved,
    Evaluated,
    LossJumped,
    ResumeChecked,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Warned,
)
from engine.i18n import _, n_
from engine.sizes import loss_words
from tui.dataset_text import rows_words
from tui.event_text import MARKS, STYLES, assumed_words, item_words, jump_words, rolled_back_words
from tui.fields import LABELS, label
from tui.live import Happening, Live, items, verdicts
from tui.plain import visible
from tui.widgets.chart import Line, Picture
from tui.words import duration, epochs_words


def picture(live: Live) -> Picture:
    """The chart of a run."""
    return Picture(
        (
            Line(live.history.points, "history", "."),
            Line(live.loss_curve.points, "loss", "*"),
            Line(live.smooth.points, "smooth", "#"),
            Line(live.eval_curve.points, "eval", "o", joined=False),
        ),
        band=_band(live),
        join=live.join,
        last_step=_right_end(live),
    )


def _right_end(live: Live) -> int | None:
    """The last step that the axis shows: of the whole run, halved as long as what is there fits. So the curve takes half of the width
    or more, and that of a long run can be read from its beginning; how far it has come is said by the bar."""
    if live.started is None or live.started.total_steps is None or live.ended is not None:
        return None  # of a run that has ended the last point is the end
    end, done = live.started.total_steps, live.step.step if live.step is not None else live.started.step
    while done and end // 2 >= done:
        end //= 2
    return end


def _band(live: Live) -> tuple[float, float]:
    """The losses that the run aims for."""
    asked = live.started.config if live.started is not None else {}
    low, high = asked.get("loss_too_low"), asked.get("loss_reached")
    return (low, high) if isinstance(low, float) and isinstance(high, float) and low < high else (TOO_LOW, REACHED)


def status_text(live: Live, detached: bool) -> Text:
    """Where the run is, in one line."""
    if live.moving and live.ended is None:
        return Text(_("Moving to a process of its own: stopping, saving, continuing there"), style="bold yellow")
    status = _status_here(live)
    if not detached or live.ended is not None:
        return status
    words = _("{status} · detached, outlives this terminal").format(status=status.plain)
    return Text(words, style=status.style)


def _status_here(live: Live) -> Text:
    match live.ended:
        case RunFinished() as ended:
            return Text(_("Finished at step {step}").format(step=ended.step), style="bold green")
        case RunStopped() as ended:
            words = _("stopped at step {step}, epoch {epoch:.2f}").format(step=ended.step, epoch=ended.epoch)
            return Text(words, style="bold yellow")
        case RunFailed() as ended:
            return Text(visible(ended.title), style="bold red")
    if live.stopping and live.ended is None:
        return Text(_("Stopping after this step and saving"), style="bold yellow")
    if live.started is None:
        if live.tokenised is not None:
            return Text(rows_words(live.tokenised.rows, live.tokenised.total, live.tokenised.seconds), style="bold")
        return Text(_("Reading the data"), style="bold")
    if live.phase == "loading":
        return Text(_("Loading the model"), style="bold")
    if live.started.checkpoint is not None:
        words = _("Continued from {name} at step {step}").format(name=live.started.checkpoint, step=live.started.step)
        return Text(visible(words), style="bold")
    return Text(_("Training"), style="bold")


def tiles_text(live: Live, width: int, memory: str | None) -> Text:
    """The numbers of now, as many as fit a line, and how far the run has come. `width`: columns; `memory`: in words, if known."""
    step, started = live.step, live.started
    total = started.total_steps if started is not None else None
    done = step.step if step is not None else started.step if started is not None else 0
    tiles = [(_("step"), f"{done}/{total if total is not None else '-'}")]
    if step is not None and started is not None:
        tiles.append((_("epoch"), f"{step.epoch:.2f}/{epochs_words(started.total_epochs)}"))
        tiles.append((_("loss"), loss_words(step.loss)))
        if live.eval_curve.points:
            tiles.append((_("eval"), loss_words(live.eval_curve.points[-1][1])))
        if live.ended is None:
            left = live.seconds_left
            tiles.append((_("left"), duration(left) if left is not None else "-"))
        tiles.append((_("rate"), f"{step.learning_rate:.2e}"))
        tiles.append((_("tokens/s"), f"{step.tokens_per_second:.0f}"))
    if memory is not None:
        tiles.append((_("memory"), memory))
    gap = "   " if width >= 100 else "  "
    text = Text(no_wrap=True)
    for name, value in tiles:
        tile = Text.assemble((gap if text.plain else "", ""), (f"{name} ", "dim"), (value, "bold"))
        if text.cell_len + tile.cell_len <= width:
            text.append_text(tile)
    if total:
        columns = max(10, width - 5)
        filled = min(columns, round(columns * done / total))
        text.append("\n")
        text.append("█" * filled, style="green")
        text.append("─" * (columns - filled), style="dim")
        text.append(f" {done / total:4.0%}")
    return text


def span_text(losses: list[float]) -> Text:
    """The numbers of a sparkline: where the loss began, its lowest, and now."""
    if not losses:
        return Text("")
    words = _("loss {first} to {now} · lowest {lowest}").format(
        first=loss_words(losses[0]), now=loss_words(losses[-1]), lowest=loss_words(min(losses))
    )
    return Text(words, style="dim")


def events_text(happenings: tuple[Happening, ...]) -> Text:
    """What happened, a line or more each."""
    return Text("\n").join(_event_line(one) for one in happenings) if happenings else Text("")


def _event_line(one: Happening) -> Text:
    match one.event:
        case CheckpointSaved() as event:
            words = _("saved {name} · epoch {epoch:.2f} · loss {loss}").format(
                name=event.checkpoint, epoch=event.epoch, loss=loss_words(event.loss)
            )
            return Text(visible(words), style="green")
        case Evaluated() as event:
            return Text(_("step {step} · eval loss {loss}").format(step=event.step, loss=loss_words(event.eval_loss)))
        case LossJumped() as event:
            words = _("step {step}: {what} · from {before} to {after}").format(
                step=event.step, what=jump_words(event.kind), before=loss_words(event.before), after=loss_words(event.after)
            )
            return Text(words, style="bold yellow")
        case RolledBack() as event:
            return Text(visible(rolled_back_words(event)), style="bold yellow")
        case Warned() as event:
            return Text(visible(event.message), style="yellow")
        case RunStarted() as event:
            lines = [
                visible(f"{label(name) if name in LABELS else name} {reason}") for name, reason in event.choices.items()
            ]
            rows = n_("{count} row", "{count} rows", event.rows).format(count=event.rows)
            return Text("\n".join([rows, *lines]), style="dim")
    return Text("")


def receipt_text(receipt: ResumeChecked, names: bool = True) -> Text:
    """The receipt: how many items are as they were, with `names` which, and each that is not; the losses that prove it, always."""
    text = _receipt_head(receipt)
    for item in items(receipt):
        if item["verdict"] != "ok" or item["item"] == "probe_loss":
            text.append_text(_receipt_line(item))
    fine = [visible(str(item["item"])) for item in receipt.items if item["verdict"] == "ok" and item["item"] != "probe_loss"]
    if fine and names:
        text.append(f"\n{MARKS['ok']} ", style=STYLES["ok"])
        text.append(", ".join(fine), style="not bold dim")
    return text


def whole_receipt_text(receipt: ResumeChecked) -> Text:
    """The receipt with every item in full."""
    text = _receipt_head(receipt)
    if assumed := assumed_words(receipt):
        text.append("\n" + assumed, style="not bold dim")
    for item in items(receipt):
        text.append_text(_receipt_line(item))
    return text


def _receipt_head(receipt: ResumeChecked) -> Text:
    counts = verdicts(receipt)
    head = _("{ok} of {all} items restored as saved").format(ok=counts.get("ok", 0), all=len(receipt.items))
    return Text(head, style="bold red" if counts.get("failed", 0) else "bold green")


def _receipt_line(item: Mapping[str, Any]) -> Text:
    verdict = str(item["verdict"])
    text = Text.assemble((f"\n{MARKS[verdict]} ", STYLES[verdict]), (visible(item_words(item)), "not bold"))
    if verdict != "ok" and item["detail"]:
        text.append(visible(f" · {item['detail']}"), style="not bold dim")
    return text


def jump_text(jump: LossJumped, keys: Sequence[tuple[str, str]]) -> Text:
    """The warning, its likely causes and the keys that answer it now: (key, what it does)."""
    text = Text(_("WARNING  {what}").format(what=jump_words(jump.kind)), style="bold")
    ratio = f" (x {jump.ratio:.1f})" if jump.ratio is not None else ""
    words = _("since step {step}: from {before} to {after}").format(
        step=jump.step, before=loss_words(jump.before), after=loss_words(jump.after)
    )
    text.append(f" · {words}{ratio}")
    for cause in jump.causes:
        text.append("\n- " + visible(cause), style="not bold")
    if keys:
        text.append("\n" + " · ".join(f"{key} {what}" for key, what in keys), style="bold")
    return text
