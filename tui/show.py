"""A run as text on a terminal or in a log: one method for each kind of event, nothing decided here.

On a terminal the steps are one live bar; elsewhere they are plain lines, few enough to read in a log. Every string that may come
from outside (names, messages of libraries) goes through `visible` and never through rich's markup.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from engine.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    LossJumped,
    ResumeChecked,
    RolledBack,
    RowsTokenised,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
)
from engine.i18n import _, n_
from engine.redact import redact
from engine.sizes import loss_words
from tui import breaking
from tui.dataset_text import rows_words
from tui.event_text import (
    MARKS,
    NOTHING,
    STYLES,
    assumed_words,
    into_ollama,
    item_words,
    jump_words,
    rolled_back_words,
    stop_words,
    stopped_standing,
    ways_on,
)
from tui.plain import visible

LINE_SECONDS = 5.0
"""Without a terminal, a step is told at most this often (and the first and last always)."""


class Show:
    """Shows one run on one stream. Use as a context: the live bar must end before the terminal is given back."""

    def __init__(self, stream: IO[str], lines_only: bool = False) -> None:
        """`lines_only`: whole lines that stay, on a terminal too; what is drawn again and again cannot be listened to."""
        soft_wrap = lines_only or not stream.isatty()
        self.console = breaking.console(stream, soft_wrap)
        self._drawn = self.console.is_terminal and not lines_only
        self._lines_only = lines_only
        self._bar: Progress | None = None
        self._task: Any = None
        self._said = 0.0
        self._total = 0

    def __enter__(self) -> Show:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_bar()

    def line(self, text: str, style: str = "") -> None:
        """One line of talk."""
        self.console.print(Text(visible(redact(text)), style=style))

    def lines(self, lines: Iterable[tuple[str, str]]) -> None:
        """Several lines, each with its style."""
        for text, style in lines:
            self.line(text, style)

    def progress(self, what: str, share: float | None) -> None:
        """Something before the run takes its time. `share`: 0 to 1; None where it is not known how much there is."""
        now = time.monotonic()
        if self._drawn:
            if self._bar is None:
                self._start_bar(100, what)
            assert self._bar is not None
            self._bar.update(self._task, completed=round((share or 0.0) * 100), text=visible(what))
            if share is not None and share >= 1:
                self._end_bar()
        elif (share is not None and share >= 1) or now - self._said >= LINE_SECONDS:
            self._said = now
            self.line(what if share is None else f"{what} {share:.0%}")

    def event(self, event: Event) -> None:
        """Show what happened."""
        match event:
            case Step():
                self._step(event)
            case RowsTokenised():
                words = rows_words(event.rows, event.total, event.seconds)
                self.progress(words, event.rows / event.total if event.total else None)
            case RunStarted():
                self._started(event)
            case ResumeChecked():
                self._receipt(event)
            case Evaluated():
                self.line(_("step {step} · eval loss {loss}").format(step=event.step, loss=loss_words(event.eval_loss)))
            case CheckpointSaved():
                self._saved(event)
            case LossJumped():
                self._jumped(event)
            case RolledBack():
                self._end_bar()
                self.line(rolled_back_words(event), "bold yellow")
            case Warned():
                self.line(_("note: {message}").format(message=event.message), "yellow")
            case RunFinished():
                self._finished(event)
            case RunStopped():
                self._stopped(event)
            case RunFailed():
                self._failed(event)

    def _started(self, event: RunStarted) -> None:
        tokens, steps, epochs = event.trained_tokens, event.total_steps, event.total_epochs
        parts = (
            n_("{count} row", "{count} rows", event.rows).format(count=event.rows),
            n_("{count} trained token an epoch", "{count} trained tokens an epoch", tokens).format(count=tokens),
            n_("{count} step", "{count} steps", steps).format(count=steps),
            n_("{count} epoch", "{count} epochs", 1 if epochs == 1 else 2).format(count=f"{epochs:.4g}"),
            _("run {run}").format(run=event.run_id),
        )
        self.line(" · ".join(parts))
        for name, reason in event.choices.items():
            self.line(f"  {name} {reason}", "dim")
        self._total = event.total_steps
        if self._drawn:
            self._start_bar(event.total_steps, _("loading"), event.step)

    def _start_bar(self, total: int, text: str, done: int = 0) -> None:
        self._end_bar()
        self._bar = Progress(
            TextColumn("{task.fields[text]}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total, completed=done, text=visible(text))
        self._bar.start()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _step(self, event: Step) -> None:
        text = _("epoch {epoch:.2f} · loss {loss} · lr {rate:.2e} · {speed:.0f} tok/s").format(
            epoch=event.epoch, loss=loss_words(event.loss), rate=event.learning_rate, speed=event.tokens_per_second
        )
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, text=text)
        elif now - self._said >= LINE_SECONDS or event.step >= self._total:
            self._said = now
            self.line(_("step {step}/{total} · {text}").format(step=event.step, total=self._total, text=text))

    def _receipt(self, event: ResumeChecked) -> None:
        if self._lines_only:
            for item in event.items:
                verdict = str(item["verdict"])
                detail = f" · {item['detail']}" if item["detail"] and verdict != "ok" else ""
                self.line(f"{MARKS[verdict]} {item_words(item)}{detail}", STYLES[verdict])
        else:
            self._receipt_table(event)
        if assumed := assumed_words(event):
            self.line(assumed, "dim")

    def _receipt_table(self, event: ResumeChecked) -> None:
        table = Table(box=None, padding=(0, 1), show_edge=False, pad_edge=False)
        for title in ("", _("restored"), _("saved"), _("now")):
            table.add_column(title)
        for item in event.items:
            verdict = str(item["verdict"])
            # What is as it was needs one line; what is not is shown in full, with its reason.
            shape: Any = {"no_wrap": True, "overflow": "ellipsis"} if verdict == "ok" else {"overflow": "fold"}
            table.add_row(
                Text(MARKS[verdict], STYLES[verdict], no_wrap=True),
                Text(visible(str(item["item"])), no_wrap=True),
                Text(visible(str(item["expected"])) or NOTHING, **shape),
                Text(visible(str(item["found"])) or NOTHING, **shape),
            )
            if item["detail"] and verdict != "ok":
                table.add_row("", "", Text(visible(str(item["detail"])), "dim"), "")
        self.console.print(table)

    def _saved(self, event: CheckpointSaved) -> None:
        gone = _(" · removed {names}").format(names=", ".join(event.removed)) if event.removed else ""
        self.line(
            _("saved {name} · epoch {epoch:.2f} · loss {loss}{gone}").format(
                name=event.checkpoint, epoch=event.epoch, loss=loss_words(event.loss), gone=gone
            ),
            "dim",
        )

    def _jumped(self, event: LossJumped) -> None:
        self.line(
            _("WARNING step {step}: {what} · from {before} to {after}").format(
                step=event.step, what=jump_words(event.kind), before=loss_words(event.before), after=loss_words(event.after)
            ),
            "bold yellow",
        )
        for cause in event.causes:
            self.line("  - " + cause)
        self.line("  " + ways_on(event), "dim")

    def _finished(self, event: RunFinished) -> None:
        self._end_bar()
        evaluated = _(" · eval loss {loss}").format(loss=loss_words(event.eval_loss)) if event.eval_loss is not None else ""
        self.line(
            _("done · step {step} · epoch {epoch:.2f} · loss {loss}{evaluated}").format(
                step=event.step, epoch=event.epoch, loss=loss_words(event.loss), evaluated=evaluated
            ),
            "bold green",
        )
        self.line(event.advice["message"])
        self.line(_("adapter: {path}").format(path=event.adapter))
        self.line(into_ollama(Path(event.adapter).parent))

    def _stopped(self, event: RunStopped) -> None:
        self._end_bar()
        where = _("nothing was trained yet") if not event.step else _("there is no checkpoint to go on from")
        if event.checkpoint:
            where = _("continue from {name} with --resume auto").format(name=event.checkpoint)
        self.line(
            _("stopped ({reason}) at step {step}, epoch {epoch:.2f}{standing} · {where}").format(
                reason=stop_words(event.reason),
                step=event.step,
                epoch=event.epoch,
                standing=stopped_standing(event),
                where=where,
            ),
            "bold",
        )
        if event.advice is not None:
            self.line(event.advice["message"])

    def _failed(self, event: RunFailed) -> None:
        self._end_bar()
        self.line(_("error: {title}").format(title=event.title), "bold red")
        for more in (event.detail, event.fix):
            for text in more.splitlines():
                self.line(f"  {text}")
