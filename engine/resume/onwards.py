"""What going on from a checkpoint comes to: what differs and who wins, where it stands, how long it is, the rate after the join.

Told before anything is loaded, from the manifest of a checkpoint made here, or from what another tool logged.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.inspect import OPTIMIZER, SCHEDULER
from engine.checkpoints.manifest import Geometry, Manifest
from engine.checkpoints.rates import saved_rates, saved_weight_decay
from engine.config import RunConfig
from engine.course.advice import has_reached
from engine.course.steps import (
    Length,
    Position,
    chosen_batch_size,
    kept_geometry,
    learning_rate_at,
    position_at,
    run_length,
)
from engine.data.dataset import DATA_SETTINGS, Dataset, in_saved_words, read_dataset
from engine.i18n import _
from engine.models.folder import is_hub_id, model_folder
from engine.resume.differences import (
    RESTARTING,
    Difference,
    geometry_difference,
    logged_geometry_difference,
    logged_schedule_difference,
    material_differences,
    precision_difference,
    schedule_differences,
    settings_differences,
    untold_settings,
    weight_decay_difference,
)
from engine.resume.logged import logged_accumulation, logged_batches
from engine.resume.needs import need_template
from engine.sources import Resolved

READ_BY = ("columns", "encoding", "skip_rows")
"""Settings that make other rows of the same files."""


@dataclass(frozen=True)
class Onwards:
    """The rest of a run, as far as it is known; what each means stands at ResumePlan."""

    config: RunConfig
    complete: bool
    reached: bool
    differences: tuple[Difference, ...]
    position: Position | None
    length: Length | None
    epochs_left: float | None
    saved_learning_rate: float | None
    next_learning_rate: float | None
    dataset: Dataset | None


def onwards(resolved: Resolved, checkpoint: Checkpoint) -> Onwards:
    """What going on from `checkpoint` with these answers comes to. Raises DatasetError and ModelError for rows or a tokenizer that
    cannot be read."""
    manifest = checkpoint.manifest
    return _as_saved(resolved, checkpoint, manifest) if manifest is not None else _as_logged(resolved, checkpoint)


def _as_saved(resolved: Resolved, checkpoint: Checkpoint, saved: Manifest) -> Onwards:
    config, dataset = resolved.config, None
    differences: list[Difference] = []
    if config.seed != saved.cursor.seed:
        differences.append(
            Difference(
                "data_position",
                f"seed {saved.cursor.seed}",
                f"seed {config.seed}",
                "saved",
                _("the order of the rows under way depends on it"),
            )
        )
        config = config.model_copy(update={"seed": saved.cursor.seed})
    if saved.geometry.world_size != config.world and not (resolved.asked("batch_size") or resolved.asked("grad_accum")):
        kept = kept_geometry(saved.geometry.rows, saved.geometry.batch_size, config.world)
        config = config.model_copy(update=dict(zip(("batch_size", "grad_accum"), kept, strict=True)))
    rows = saved.cursor.rows
    geometry = _geometry(config, rows, saved.geometry)
    position = Position(saved.step, saved.cursor.epoch, saved.cursor.rows_consumed, saved.cursor.given_up)
    length = run_length(config, rows, geometry.rows, position)
    reached = length.total_steps > saved.step and _reached(checkpoint, config)
    complete = length.total_steps <= saved.step or reached
    material: list[Difference] = []
    if complete:
        _need_named_model(resolved)
    # That it is done is an answer about its own rows: others that are named are held against them.
    if not complete or any(map(resolved.asked, ("dataset", "model", "chat_template", *READ_BY, *DATA_SETTINGS))):
        need_template(config, checkpoint.path)
        config = in_saved_words(config, saved.identities.data_settings)
        dataset = read_dataset(config)
        material = material_differences(checkpoint, config, dataset)
        if not complete and any(found.item in RESTARTING and found.winner == "asked" for found in material):
            position, rows = position.begun_anew(rows), len(dataset.train)
            geometry = _geometry(config, rows, saved.geometry)
            length = run_length(config, rows, geometry.rows, position)
    differences += [*geometry_difference(saved.geometry, geometry), *material]
    left = max(0.0, length.total_epochs - position.epochs(rows))
    after = learning_rate_at(config, length.total_steps, saved.steps_done)
    differences += schedule_differences(checkpoint, config, length)
    differences += precision_difference(checkpoint, resolved)
    differences += settings_differences(resolved, checkpoint)
    return Onwards(
        config,
        complete,
        reached,
        tuple(differences),
        position,
        length,
        left,
        saved.schedule.next_learning_rate,
        after,
        dataset,
    )


def _as_logged(resolved: Resolved, checkpoint: Checkpoint) -> Onwards:
    config, position, length, dataset = resolved.config, None, None, None
    left, before, after = checkpoint.remaining_epochs, None, None
    differences: list[Difference] = []
    epochs_asked = resolved.asked("epochs") or resolved.asked("max_steps")
    reached = False
    complete = not epochs_asked and checkpoint.max_steps is not None and (checkpoint.step or 0) >= checkpoint.max_steps
    if complete:
        _need_named_model(resolved)
        if resolved.asked("dataset"):
            read_dataset(config)
    else:
        assert checkpoint.step is not None and checkpoint.epoch is not None, "else it is not continuable"
        dataset = read_dataset(config)
        rows = len(dataset.train)
        if not resolved.asked("grad_accum") and not resolved.asked("batch_size"):
            batches = logged_batches(checkpoint, rows) if config.batch_size == "auto" and config.world == 1 else None
            kept = {"grad_accum": logged_accumulation(checkpoint, config, rows)}
            config = config.model_copy(
                update=kept if batches is None else dict(zip(("batch_size", "grad_accum"), batches, strict=True))
            )
            differences += logged_geometry_difference(checkpoint, config, rows)
        position = position_at(checkpoint.step, checkpoint.epoch, rows)
        batch_size, _reason = chosen_batch_size(config, rows, checkpoint.batch_size)
        length = run_length(config, rows, batch_size * config.grad_accum * config.world, position)
        reached = length.total_steps > checkpoint.step and _reached(checkpoint, config)
        complete = length.total_steps <= checkpoint.step or reached
        left = max(0.0, length.total_epochs - position.epochs(rows))
        if (rates := saved_rates(checkpoint.path / SCHEDULER)) is not None:
            before, after = rates.next, learning_rate_at(config, length.total_steps, rates.step)
            differences += logged_schedule_difference(checkpoint, rates, resolved, config, length)
        if not complete:
            differences += untold_settings(checkpoint, resolved)
        if resolved.asked("weight_decay"):
            differences += weight_decay_difference(saved_weight_decay(checkpoint.path / OPTIMIZER), config)
    return Onwards(config, complete, reached, tuple(differences), position, length, left, before, after, dataset)


def _geometry(config: RunConfig, rows: int, saved: Geometry) -> Geometry:
    """How `rows` rows are cut into steps from here on."""
    batch_size, _reason = chosen_batch_size(config, rows, saved.batch_size)
    return Geometry(batch_size=batch_size, grad_accum=config.grad_accum, world_size=config.world)


def _need_named_model(resolved: Resolved) -> None:
    """Raise ModelError where this start of a finished run names a model that is not there: nothing is loaded that would say so."""
    if resolved.asked("model") and not is_hub_id(str(resolved.config.model)):
        model_folder(str(resolved.config.model))


def _reached(checkpoint: Checkpoint, config: RunConfig) -> bool:
    """Whether the loss was already where --stop-at-loss wants it."""
    return has_reached([row.loss for row in checkpoint.history if row.loss is not None], config.stop_at_loss)
