"""The wizard's training screen alone, on a run that another process carries out: `lora-tui watch` on a terminal.

The thread here trains nothing; it follows the journal and folds it into the same snapshot, so the screen cannot tell the difference.
Leaving, or losing the terminal, costs the run nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from textual.screen import Screen

from engine.events import LossJumped, RunFailed, RunStarted
from engine.lock import ask_to_stop
from engine.watch import Told, follow, logged_before
from tui.app import LoraTui
from tui.at_work import Shown, Then
from tui.keys import own_keys
from tui.live import fold, known_before
from tui.opening import opened
from tui.streams import ascii_terminal, own_terminal


class RunElsewhere(Shown):
    """The run in a folder, by what its journal says. `follow` is the body of the thread that reads it."""

    watched = True

    def __init__(self, folder: Path, read_only: bool) -> None:
        super().__init__(folder)
        self._folder = folder
        self.may_stop = not read_only
        self.running = True
        self._left = False
        self._read = self._taken = self.live
        """The journal so far, folded by the thread; and what of that was taken in last."""
        self._answered: LossJumped | None = None

    def follow(self) -> None:
        """Fold the journal as it grows, until the run has ended or nobody looks any more."""

        def tell(batch: Sequence[Told]) -> None:
            live = self._read
            for event, record in batch:
                if isinstance(event, RunStarted) and live.started is None:
                    live = known_before(logged_before(self._folder, event))
                live = fold(live, event, float(record.get("t") or 0.0))
            self._read = live

        follow(self._folder, tell, lambda: self._left)
        self.running = False

    def take_in(self) -> None:
        """Show what was read, as far as the person has not answered it already."""
        read = self._read
        if read is not self._taken:
            self._taken, jump = read, read.jump if read.jump is not self._answered else None
            self.live = replace(read, jump=jump, stopping=self.live.stopping and read.ended is None)

    def answer_jump(self) -> None:
        self._answered = self.live.jump
        super().answer_jump()

    def stop(self, reason: str, then: Then = "result") -> None:
        """Ask the run's own process."""
        ask_to_stop(self._folder)
        self.live = replace(self.live, stopping=True)

    def leave(self, reason: str) -> None:
        self._left = True


class Watcher(LoraTui):
    """Watches the run in one folder."""

    def __init__(self, folder: Path, read_only: bool, **options: Any) -> None:
        super().__init__(**options)
        self.shown: RunElsewhere = RunElsewhere(folder, read_only)

    def get_default_screen(self) -> Screen[Any]:
        from tui.screens.training import TrainingScreen

        return TrainingScreen()

    async def on_mount(self) -> None:
        self.run_worker(self.shown.follow, name="watch", group="run", thread=True)

    def _preload(self) -> None:
        """Nothing will be trained here."""

    def action_leave(self) -> None:
        self.shown.take_in()
        ended = self.shown.live.ended
        self._go("user", ended.exit_code if isinstance(ended, RunFailed) else 0)

    def _signalled(self, name: str, code: int) -> None:
        self.shown.take_in()
        self._go(name, code)

    def _go(self, reason: str, code: int) -> None:
        from tui.screens.result import farewell

        self.shown.leave(reason)
        self.exit(code, return_code=code, message=self._goes_on() if self.shown.live.ended is None else farewell(self.shown))


def run_watcher(folder: Path, read_only: bool) -> int:
    """Watch the run in `folder` on this terminal; the exit code. Raises ConfigError for keys that cannot be used."""
    from engine.remembered import state_folder

    keys = own_keys()
    with own_terminal(state_folder() / "wizard.log") as log:
        app = Watcher(folder, read_only, log=log, ascii_only=ascii_terminal(), keys=keys)
        code = opened(app)
        return app.return_code or code or 0
