"""What is decided of an attempt once rows and machine are known and the model is not yet loaded, each choice with its reason."""

from __future__ import annotations

from dataclasses import replace

from engine.checkpoints.manifest import Geometry
from engine.config import RunConfig
from engine.course.steps import Length, Position, position_at, run_length
from engine.hardware import Hardware, choose_hardware, free_memory
from engine.i18n import _
from engine.models.report import ModelReport, model_report
from engine.resume.differences import changed_rows, geometry_difference, schedule_differences
from engine.resume.plan import ResumePlan
from engine.training.attempt import Attempt
from engine.training.estimate import Fitted, fit_batch
from engine.training.facts import facts_of_material
from engine.training.material import Material
from engine.training.ranks import Ranks


def decide(plan: ResumePlan, material: Material, ranks: Ranks) -> Attempt:
    """The next attempt of `plan`. All processes decide the same: rank 0 decides what depends on free memory, and where files or
    machines differ all raise what `Ranks.agree` raises. Raises ConfigError."""
    from engine.training.lora_kernel import choose_kernel
    from engine.training.loss import choose_logits

    config = plan.config
    report = model_report(str(material.folder))
    hardware = choose_hardware(config, report, plan.saved_precision)
    ranks.agree({**facts_of_material(material), "device": hardware.device, "precision": hardware.precision})
    fitted = ranks.share(_fit(plan, report, material, hardware, ranks))
    config = config.model_copy(update={"activation_checkpointing": fitted.checkpointing, **fitted.kept_rows(config)})
    plan = replace(plan, config=config)
    start = _start(plan, material)
    geometry = Geometry(batch_size=fitted.batch_size, grad_accum=config.grad_accum, world_size=ranks.world)
    length = run_length(config, len(material.train), geometry.rows, start)
    plan = _told_over_its_rows(plan, geometry, length)
    at_labels, logits = choose_logits(config, hardware, material.trained_tokens, int(material.train.lengths.sum()))
    saved = plan.checkpoint.adapter.raw if plan.checkpoint is not None and plan.checkpoint.adapter is not None else {}
    fused, kernel = choose_kernel(config, hardware, saved)
    choices = {
        **hardware.reasons(),
        "batch_size": f"{fitted.batch_size} · {fitted.batch_reason}",
        "logits": logits,
        "lora_kernel": kernel,
        **_choices_of_several(config, fitted, ranks),
    }
    if fitted.checkpointing:
        choices["activation_checkpointing"] = f"on · {fitted.checkpointing_reason}"
    return Attempt(plan, material, hardware, start, length, fitted.batch_size, at_labels, fused, fitted.parallel, choices)


def _told_over_its_rows(plan: ResumePlan, geometry: Geometry, length: Length) -> ResumePlan:
    """`plan` with its differences in steps and rates as they are over the rows that hold something to learn: which of changed rows
    do, it could not know. A batch of which it told nothing, such as a smaller one for want of memory, nobody asked for."""
    manifest = plan.checkpoint.manifest if plan.mode == "continue" and plan.checkpoint is not None else None
    if plan.checkpoint is None or manifest is None:
        return plan
    others = [one for one in plan.differences if one.item not in ("batch_geometry", "schedule")]
    if any(one.item == "batch_geometry" for one in plan.differences):
        others += geometry_difference(manifest.geometry, geometry)
    return replace(plan, differences=(*others, *schedule_differences(plan.checkpoint, plan.config, length)))


def _choices_of_several(config: RunConfig, fitted: Fitted, ranks: Ranks) -> dict[str, str]:
    if ranks.alone:
        asked = config.parallel not in ("auto", "ddp")
        return {"parallel": _("whole · there is one process (--nproc)")} if asked else {}
    rows = fitted.batch_size * config.grad_accum * ranks.world
    return {
        "processes": _("{count} · {rows} rows for a step").format(count=ranks.world, rows=rows),
        "parallel": " · ".join(filter(None, (fitted.parallel, fitted.parallel_reason))),
    }


def _fit(plan: ResumePlan, model: ModelReport, material: Material, hardware: Hardware, ranks: Ranks) -> Fitted:
    free = free_memory(hardware.device)[0] // (1 if hardware.device == "cuda" else ranks.here)
    longest = int(material.train.lengths.max())
    return fit_batch(model, plan.config, hardware, len(material.train), longest, free, plan.saved_batch_size, ranks.world)


def _start(plan: ResumePlan, material: Material) -> Position:
    """Where the run goes on, now that the rows are known."""
    if plan.mode != "continue" or plan.checkpoint is None:
        return Position(0, 0, 0)
    rows = len(material.train)
    manifest = plan.checkpoint.manifest
    if manifest is not None:
        cursor = manifest.cursor
        saved = Position(manifest.step, cursor.epoch, cursor.rows_consumed, cursor.given_up)
        changed = set(changed_rows(manifest.identities, material.identities)) & set(plan.config.accept)
        return saved.begun_anew(cursor.rows) if changed or cursor.rows != rows else saved
    step, epoch = plan.checkpoint.step, plan.checkpoint.epoch
    assert step is not None and epoch is not None, "the plan refuses one that does not say where it stands"
    return position_at(step, epoch, rows)
