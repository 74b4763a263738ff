"""Step 6: the run, live. It looks at the run's snapshot twice a second and paints what differs; it computes nothing.

The chart is painted at most once a second: what the screen costs is time taken from the training.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Sparkline, Static

from engine.errors import LoraTuiError
from engine.events import LossJumped, RunFailed
from engine.folder import RUN_LOG
from engine.i18n import _, sentences
from engine.sizes import size_words
from tui.at_work import Shown, Then
from tui.i18n import N_
from tui.keys import bound
from tui.live import Live
from tui.plain import visible
from tui.screens.base import StepScreen
from tui.training_text import events_text, jump_text, picture, receipt_text, span_text, status_text, tiles_text
from tui.widgets.chart import LossChart
from tui.widgets.growing import Growing

if TYPE_CHECKING:
    import psutil

LOOK = 0.5
"""Seconds between two looks at the snapshot."""
CHART = 1.0
"""Seconds between two paintings of the chart."""
NAMES_FROM = 30
"""Rows from which on the receipt names the items that are as they were; below they would take the room of what happens."""
SMALLEST = (44, 5)
"""Columns and rows below which the chart with axes gives way to a sparkline with the numbers."""


class TrainingScreen(StepScreen):
    """Watch, stop, answer a warning."""

    STEP = 5
    HEADING = ""
    SCROLLED: ClassVar[str] = "#events-scroll"
    AUTO_FOCUS = ""  # nothing: one Enter too many on the way here, or in a watched run, must not stop it
    MAIN = N_("Stop and save")
    HELP_TEXT: ClassVar[str] = N_(
        "The thin line is the loss as logged, the thick one its smoothed course, o marks the loss on held-back rows. Left of the "
        "upright line is what the continued run knew before. The shaded band from 0.1 to 0.3 is where a model is usually good "
        "enough to try.\n\ns stops after this step and saves a checkpoint; nothing is lost, and the run can be continued at any "
        "time. l opens the log of the libraries. d moves the run to a process of its own, which goes on when this terminal closes: "
        "it stops, saves and continues there. When the loss jumps, b stops and goes back to the last good checkpoint, g goes on."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        bound("stop", "stop", N_("Stop and save")),
        bound("log", "log", N_("Log")),
        bound("receipt", "receipt", N_("Receipt")),
        bound("detach", "detach", N_("Detach")),
        bound("go_back", "back_to_good", N_("Go back")),
        bound("go_on", "go_on_after_jump", N_("Go on")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shown: Live | None = None
        self._painted = 0.0
        self._offered: tuple[bool, ...] = ()
        """Of the keys, which could be used when it was looked last."""
        self._written: dict[str, Text] = {}
        self._weighed = (-CHART, "")

    @property
    def run(self) -> Shown:
        """The run that is shown."""
        return self.owner.shown

    def compose_body(self) -> ComposeResult:
        yield Static("", id="jump", markup=False)
        yield Static("", id="tiles", markup=False)
        with Horizontal(id="live"):
            with Vertical(id="curves"):
                yield LossChart(ascii_only=self.owner.ascii_only, id="chart")
                yield Sparkline([], id="sparkline")
                yield Static("", id="span", markup=False)
            with Vertical(id="side"):
                yield Static("", id="receipt", markup=False)
                with Growing(id="events-scroll", can_focus=False):
                    yield Static("", id="events", markup=False)

    def fill(self) -> None:
        self.query_one("#back").display = False
        self.query_one("#jump").display = False
        self.query_one("#receipt").display = False
        self._look()
        self.set_interval(LOOK, self._look)

    def on_resize(self) -> None:
        self._painted = 0.0
        self._written.clear()  # what stands there was made for another width, and may have been wrapped
        self._paint_numbers(self.run.live)
        self._paint_receipt(self.run.live)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.run.take_in()
        live, now = self.run.live, time.monotonic()
        if live is not self._shown:
            before, self._shown = self._shown, live
            self._paint(live, before)
        if (live.loss_curve.points or live.history.points) and now - self._painted >= CHART:
            self._painted = now
            self._paint_curves(live)

    def _paint(self, live: Live, before: Live | None) -> None:
        self._paint_numbers(live)
        if before is None or live.happenings is not before.happenings:
            self.query_one("#events", Static).update(events_text(live.happenings))
            self.query_one(Growing).grown()
        if live.receipt is not None and (before is None or before.receipt is not live.receipt):
            self._paint_receipt(live)
        if before is None or live.jump is not before.jump or live.ended is not before.ended:
            self._warn(live.jump, new=before is None or live.jump is not before.jump)
        main, over = self.query_one("#main", Button), self._watched_to_its_end(live)
        main.disabled = not over and (live.stopping or live.ended is not None or not self.run.may_stop)
        if over and (before is None or before.ended is None):
            main.label = _("Leave")
            main.refresh(layout=True)
            main.focus()
        elif not over and before is not None and self._watched_to_its_end(before):  # its job was sent again
            main.label = _(self.MAIN)
            main.refresh(layout=True)
            self.set_focus(None)
        if self.run.watched and isinstance(live.ended, RunFailed):
            self.close(visible(sentences(live.ended.detail, live.ended.fix)))
        offered = tuple(bool(self.check_action(one.action, ())) for one in self.BINDINGS if isinstance(one, Binding))
        if offered != self._offered:  # a footer is built anew for it
            self._offered = offered
            self.refresh_bindings()

    def _watched_to_its_end(self, live: Live) -> bool:
        """Whether somebody watched and there is nothing more to see: no other step follows as in the wizard."""
        return self.run.watched and live.ended is not None

    def _paint_numbers(self, live: Live) -> None:
        self._write("heading", status_text(live, self.run.detached))
        self._write("tiles", tiles_text(live, self.size.width - 5, self._memory_words()))

    def _paint_receipt(self, live: Live) -> None:
        receipt = self.query_one("#receipt", Static)
        receipt.display = live.receipt is not None
        if live.receipt is not None:
            receipt.update(receipt_text(live.receipt, names=self.size.height >= NAMES_FROM))

    def _memory_words(self) -> str | None:
        """What this process takes, looked up once a second; None where the run is elsewhere."""
        if self.run.watched or self.run.detached:
            return None
        now = time.monotonic()
        if now - self._weighed[0] >= CHART:
            self._weighed = now, _memory()
        return self._weighed[1]

    def _write(self, name: str, text: Text) -> None:
        """Show `text` in the place `name`, if it is other than what stands there; the screen is laid out anew only where it has
        another number of lines, or may wrap."""
        before = self._written.get(name)
        if before is None or (text, text.style) != (before, before.style):
            self._written[name] = text
            same = before is not None and text.no_wrap and text.plain.count("\n") == before.plain.count("\n")
            self.query_one(f"#{name}", Static).update(text, layout=not same)

    def _warn(self, jump: LossJumped | None, new: bool) -> None:
        note = self.query_one("#jump", Static)
        note.display = jump is not None
        if jump is not None:
            answers = {
                "stop": ("s", _("stop and save")),
                "back_to_good": ("b", _("back to the last good checkpoint")),
                "go_on_after_jump": ("g", _("go on")),
            }
            note.update(jump_text(jump, [words for action, words in answers.items() if self.check_action(action, ())]))
            if new:
                self.owner.bell()

    def _paint_curves(self, live: Live) -> None:
        chart, spark = self.query_one("#chart", LossChart), self.query_one("#sparkline", Sparkline)
        room = self.query_one("#curves").size
        small = (room.width < SMALLEST[0] or room.height < SMALLEST[1]) and not self.owner.ascii_only
        chart.display, spark.display = not small, small
        self.query_one("#span", Static).display = small
        if small:
            losses = [value for _step, value in live.loss_curve.points if math.isfinite(value)]
            spark.data = losses
            self.query_one("#span", Static).update(span_text(losses))
        else:
            chart.show(picture(live))

    # -- doing ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "back_to_good":
            here = not self.run.watched and not self.run.detached
            return self.run.live.jump is not None and self.run.live.ended is None and here
        if action == "go_on_after_jump":
            return self.run.live.jump is not None and self.run.live.ended is None
        if action == "receipt":
            return self.run.live.receipt is not None
        if action == "stop":
            return self.run.may_stop and self.run.live.ended is None
        if action == "detach":
            live = self.run.live
            moves = not self.run.watched and not self.run.detached and os.name == "posix"
            return moves and live.started is not None and live.ended is None and not live.stopping
        return action not in ("finish", "back")

    def may_leave(self) -> bool:
        return not self.run.running and not self.run.watched

    def action_next(self) -> None:
        if self._watched_to_its_end(self.run.live):
            self.owner.action_leave()
        else:
            self.action_stop()

    def _stop(self, reason: str, then: Then = "result") -> None:
        try:
            self.run.stop(reason, then)
        except LoraTuiError as error:
            self.notify(visible(str(error)), severity="error", markup=False)

    def action_stop(self) -> None:
        if self.run.running and self.run.may_stop:
            self._stop("user")

    def action_detach(self) -> None:
        if self.run.running:
            self._stop("detach", then="process")

    def action_back_to_good(self) -> None:
        if self.run.running and self.run.live.jump is not None:
            self._stop("user", then="start")

    def action_go_on_after_jump(self) -> None:
        self.run.answer_jump()

    def action_log(self) -> None:
        from tui.screens.dialogs import LogScreen

        if self.run.folder is not None:
            self.owner.push_screen(LogScreen(self.run.folder / RUN_LOG))


def _memory() -> str:
    return size_words(_this_process().memory_info().rss)


@cache
def _this_process() -> psutil.Process:
    """Made once: it looks up when the process began."""
    import psutil

    return psutil.Process()
