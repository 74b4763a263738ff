"""The seam between whoever shows a run and whatever carries it out.

A runner takes a plan, tells events and asks whether to stop; it blocks until the run has ended. The wizard calls it from a thread,
the headless command from the main one. A run in a child process is another runner (engine/detached.py: one that outlives its
terminal; engine/launch.py: several processes of one run), and neither of them notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.collector import collecting_later

if TYPE_CHECKING:  # what plans and what trains is imported when there is something to plan and to train
    from engine.resume.plan import ResumePlan
    from engine.training.attempt import Outcome, ShouldStop
    from engine.training.telling import Emit

LEFT = "left"
"""What `should_stop` answers where whoever shows the run goes away and the run is to go on. Only a runner whose run is a process
of its own can do that."""


class Runner(Protocol):
    """Carries out plans."""

    def run(self, plan: ResumePlan, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Do what `plan` says. Blocks. Raises LoraTuiError for a run that failed, after telling run_failed."""
        ...


class InThisProcess:
    """Runs in the calling thread."""

    def run(self, plan: ResumePlan, emit: Emit, should_stop: ShouldStop) -> Outcome:
        """Train; a plan that is complete is only concluded."""
        with collecting_later():
            from engine.training.trainer import Trainer

        if plan.mode != "complete":
            return Trainer(plan).run(emit, should_stop)
        import time

        from engine.events import as_record
        from engine.training.attempt import Outcome
        from engine.training.complete import conclude

        finished = conclude(plan)
        emit(finished, as_record(finished, 0, time.time()))
        return Outcome("finished", finished.step, finished.loss)
