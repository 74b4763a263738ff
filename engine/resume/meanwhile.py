"""What happened in a run's folder between its plan and its start."""

from __future__ import annotations

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import EQUALLY_FAR, distance
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.scan import glance
from engine.errors import CannotContinue
from engine.i18n import _
from engine.paths import is_folder
from engine.resume.plan import ResumePlan


def need_as_planned(plan: ResumePlan) -> None:
    """Raise CannotContinue where the folder of `plan` holds what it was not planned over: between a plan and its start, as long as a
    person looks at a review, another process may have had the folder. To be called with the folder held."""
    if not is_folder(plan.output_dir):
        return
    new = [one for one in glance(plan.output_dir).checkpoints if _is_news(one, plan)]
    if not new:
        return
    raise CannotContinue(
        _("{folder}: something was saved there since this start was planned").format(folder=plan.output_dir),
        _("The plan does not know of {names}.").format(names=", ".join(one.name for one in new[-3:])),
        _("Nothing was begun. Start once more: the plan is then made over what is there now."),
    )


def _is_news(one: Checkpoint, plan: ResumePlan) -> bool:
    """Whether `plan` would have been another one with `one`. Of a run that goes on there, what is further and sound."""
    chosen = plan.checkpoint
    if plan.mode in ("fresh", "weights") or chosen is None or chosen.path.parent.resolve() != plan.output_dir.resolve():
        return True
    known = {passed.checkpoint.name for passed in plan.passed_over}
    return (
        one.name not in known
        and one.run in (plan.run_id, chosen.run)
        and distance(one)[:EQUALLY_FAR] > distance(chosen)[:EQUALLY_FAR]
        and inspect_folder(one.path).continuable
    )
