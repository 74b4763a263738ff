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

from engine.errors import LoraTuiError
from engine.events import LossJumped, RunFailed, RunStarted
from engine.lock import ask_to_stop
from engine.watch import Told, follow, logged_before
from tui.app import LoraTui
from tui.keys import own_keys
from tui.live import begun, fold, known_before
from tui.messages import Followed
from tui.plain import visible
from tui.streams import ascii_terminal, own_terminal


class Watcher(LoraTui):
    """Watches the run in one folder."""

    watches = True

    def __init__(self, folder: Path, read_only: bool, **options: Any) -> None:
        super().__init__(**options)
        self._folder = folder
        self.may_stop = not read_only
        self._left = False
        self._answered: LossJumped | None = None

    @property
    def folder(self) -> Path | None:
        return self._folder

    def get_default_screen(self) -> Screen[Any]:
        from tui.screens.training import TrainingScreen

        return TrainingScreen()

    def on_mount(self) -> None:
        self._run = self.run_worker(self._watch, name="watch", group="run", thread=True)

    def _preload(self) -> None:
        """Nothing will be trained here."""

    def _watch(self) -> None:
        """The body of the thread: one message for each look, however much there was to read."""
        live = begun()

        def tell(batch: Sequence[Told]) -> None:
            nonlocal live
            for event, record in batch:
                if isinstance(event, RunStarted) and live.started is None:
                    live = known_before(logged_before(self._folder, event))
                live = fold(live, event, float(record.get("t") or 0.0))
            self._post(Followed(live))

        follow(self._folder, tell, lambda: self._left)

    def on_followed(self, message: Followed) -> None:
        """Show it, as far as the person has not answered it already."""
        message.stop()
        live = message.live
        jump = live.jump if live.jump is not self._answered else None
        self.live = replace(live, jump=jump, stopping=self.live.stopping and live.ended is None)

    def answer_jump(self) -> None:
        self._answered = self.live.jump
        super().answer_jump()

    def stop_run(self, reason: str, then: str = "result") -> None:
        """Ask the run's own process."""
        try:
            ask_to_stop(self._folder)
        except LoraTuiError as error:
            self.notify(visible(str(error)), severity="error", markup=False)
            return
        self.live = replace(self.live, stopping=True)

    def action_leave(self) -> None:
        self._go(self.live.ended.exit_code if isinstance(self.live.ended, RunFailed) else 0)

    def _signalled(self, name: str, code: int) -> None:
        self._go(code)

    def _go(self, code: int) -> None:
        self._left = True
        from tui.screens.result import farewell

        self.exit(code, return_code=code, message=self._goes_on() if self.live.ended is None else farewell(self))


def run_watcher(folder: Path, read_only: bool) -> int:
    """Watch the run in `folder` on this terminal; the exit code. Raises ConfigError for keys that cannot be used."""
    from engine.remembered import state_folder

    keys = own_keys()
    with own_terminal(state_folder() / "wizard.log") as log:
        app = Watcher(folder, read_only, log=log, ascii_only=ascii_terminal(), keys=keys)
        code = app.run()
        return app.return_code or code or 0
