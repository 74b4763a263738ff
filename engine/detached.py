"""The Runner of a run that outlives the terminal, the ssh session and whoever started it: a child that leads a session of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.child import HAND_OVER, InAChild, this_program
from engine.events import CheckpointSaved, ResumeChecked, Step
from engine.runner import LEFT

if TYPE_CHECKING:
    from engine.resume.plan import ResumePlan
    from engine.training.attempt import Outcome, ShouldStop
    from engine.training.telling import Emit


class InItsOwnProcess(InAChild):
    """The Runner that does it."""

    def command(self, plan: ResumePlan) -> Sequence[str]:
        return this_program(HAND_OVER)


def moved(plan: ResumePlan, outcome: Outcome) -> ResumePlan:
    """What goes on from where the run of `plan` was just stopped: from the checkpoint it saved, with the settings it ran with; `plan`
    itself where it had done no step yet. Raises LoraTuiError."""
    from engine.answers import gather
    from engine.resume.plan import plan_run
    from engine.training.fitting import let_go

    let_go()  # the device's memory is the child's now
    began = plan.checkpoint.step if plan.mode == "continue" and plan.checkpoint is not None else 0
    if outcome.step <= (began or 0):
        return plan
    answers = gather({"output": str(plan.output_dir), "resume": "auto"}, environ={})
    return plan_run(answers.resolved, answers.found)


def until_it_runs(emit: Emit) -> tuple[Emit, ShouldStop]:
    """`emit` and a should_stop that goes away once the run trains: its folder is held, its data read, the model loaded, and of a run
    that goes on the receipt has nothing against it. What is wrong until then is still told here, with its exit code."""
    begun = []

    def told(event: Any, record: Any) -> None:
        restored = isinstance(event, ResumeChecked) and all(item["verdict"] != "failed" for item in event.items)
        if restored or isinstance(event, Step | CheckpointSaved):
            begun.append(event)
        emit(event, record)

    return told, lambda: LEFT if begun else None
