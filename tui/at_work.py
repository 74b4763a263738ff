"""The run that is shown: how it stands, and what may be asked of it.

The app owns one of these and the screens look at it; a screen's own workers die with it, and a run goes on. `Shown` is what a screen
may know. `RunAtWork` is a run of this wizard's, whose thread `carry_out` is the body of; the run of another process is in watcher.py.
Nothing here knows of the app or of Textual. Three things cross between the threads: a queue of what was told, a word that says why
it is to stop and what is to follow, and in the end the outcome or the error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import LoraTuiError
from engine.journal import last_join
from engine.runner import LEFT
from tui.live import Live, begun, fold, known_before

if TYPE_CHECKING:
    from engine.events import Event
    from engine.resume.plan import ResumePlan
    from engine.runner import Runner
    from engine.training.attempt import Outcome

Then = Literal["result", "start", "process", "exit"]
"""What follows once a run has stopped: its result, the choice of a checkpoint, going on in a process of its own, or the way out."""


class Shown:
    """A run as a screen sees it. As it is here: none yet."""

    plan: ResumePlan | None = None
    outcome: Outcome | None = None
    error: LoraTuiError | None = None
    detached = False
    """Whether it has moved to a process of its own and goes on without this one."""
    watched = False
    """Whether it is another process's, looked at from outside."""
    may_stop = True
    """Whether it may be stopped from here."""
    running = False
    """Whether its thread is at work."""

    def __init__(self, folder: Path | None = None, live: Live | None = None) -> None:
        self.folder = folder
        self.live = live if live is not None else begun()

    def take_in(self) -> None:
        """Bring `live` up to what was told since the last time."""

    def answer_jump(self) -> None:
        """The person has seen the warning and goes on."""
        self.live = replace(self.live, jump=None)

    def stop(self, reason: str, then: Then = "result") -> None:
        """Ask it to stop after this step and save. Raises LoraTuiError where it cannot be asked."""

    def leave(self, reason: str) -> None:
        """Whoever shows it goes away, for `reason`."""

    def abandon(self) -> None:
        """Whoever shows it has failed, and nothing more will be looked at."""


class RunAtWork(Shown):
    """One run of this wizard's, from its start to its end. Used once."""

    plan: ResumePlan

    def __init__(self, plan: ResumePlan, runner: Runner | None = None) -> None:
        """`runner`: where it happens; None leaves that to the plan."""
        history = plan.checkpoint.history if plan.checkpoint is not None and plan.mode != "weights" else ()
        super().__init__(plan.output_dir, known_before(history))
        self.plan = plan
        self.running = True
        self.then: Then = "result"
        self._runner = runner
        self._stop: str | None = None
        self._told: deque[tuple[Event, float]] = deque()
        """What its thread has told and nobody has taken in yet, with the seconds of the monotonic clock."""
        self._joined: int | None = None
        """Of a run with nothing left to train, the step at which its last attempt took over: nothing tells of it again."""
        self._asking = threading.RLock()
        """Held by who asks something of the run, or answers it by moving it: neither may come in the middle of the other."""

    # -- in its own thread ---------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """The body of its thread: comes back when the run has ended, with `outcome` or `error` set."""
        from engine.hardware import load_libraries
        from engine.launch import runner_of

        try:
            load_libraries()  # the head start may still be under way
            if self.plan.mode == "complete":
                self._joined = last_join(self.plan.output_dir)
            runner = self._runner if self._runner is not None else runner_of(self.plan)
            outcome = runner.run(self.plan, self.tell, self._should_stop)
            if self.then == "process" and outcome.state == "stopped":
                outcome = self._go_on_in_a_process(outcome)
            self.outcome = outcome
        except LoraTuiError as error:
            self.error = error
        except BaseException as error:
            logging.getLogger(__name__).exception("the run failed")
            self.error = LoraTuiError(f"{type(error).__name__}: {error}")
        finally:
            self.running = False

    def _go_on_in_a_process(self, outcome: Outcome) -> Outcome:
        """It has stopped and saved: continue it where it outlives this terminal, and show it as before."""
        from engine.detached import InItsOwnProcess, moved

        plan = moved(self.plan, outcome)
        with self._asking:
            if self.then != "process":  # a signal or a key has meanwhile asked for something else
                return outcome
            self._stop, self.then, self.detached = None, "result", True
        return InItsOwnProcess().run(plan, self.tell, self._should_stop)

    def tell(self, event: Event, record: Mapping[str, Any]) -> None:
        """What happened, from any thread: it waits to be taken in."""
        self._told.append((event, time.monotonic()))

    def _should_stop(self) -> str | None:
        return self._stop

    # -- for who shows it ----------------------------------------------------------------------------------------------

    @property
    def left(self) -> bool:
        """Whether it was left at work in its own process."""
        return self._stop == LEFT

    def take_in(self) -> None:
        """Fold what was told. Whoever shows the run asks a few times a second: a message for each event would wake the app's thread a
        hundred times a second where steps are short, and take from them what it costs."""
        while self._told:
            event, at = self._told.popleft()
            self.live = fold(self.live, event, at)
            if self.detached and event.type == "run_started":
                self.live = replace(self.live, stopping=self._stop is not None)
        if self._joined is not None and not self.running:
            self.live, self._joined = replace(self.live, join=self._joined), None

    def stop(self, reason: str, then: Then = "result") -> None:
        """The first reason counts, and the last `then`. That it moves is no reason any more once something else is to follow."""
        self.take_in()  # what was told before the key counts before it
        with self._asking:
            if self._stop is None or self.then == "process":
                self._stop = reason
            self.then = then
        self.live = replace(self.live, stopping=True, moving=then == "process")
        if self.live.halted is not None and then != "process":  # it had stopped for moving already, and does not go on
            self.live = fold(self.live, self.live.halted, self.live.now)

    def leave(self, reason: str) -> None:
        """A detached run goes on without; any other stops. A detached one that was asked to stop before is seen to its end, since it
        does not go on."""
        with self._asking:
            if not self.detached:
                self.stop(reason, then="exit")
            elif self._stop is None:
                self._stop = LEFT
            else:
                self.then = "exit"

    def abandon(self) -> None:
        self._stop = self._stop or "fault"
