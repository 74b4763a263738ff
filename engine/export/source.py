"""Which adapter is exported, and the base it belongs to.

The adapter is judged like any checkpoint before a library sees it. The base must be the very one it was trained on: an adapter merged
into another model of equal shape gives a model that loads, answers and is wrong, and nothing later would tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.choose import weights_fallback
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.manifest import Manifest
from engine.checkpoints.scan import EXACT, glance, scan
from engine.config import RunConfig
from engine.errors import CannotContinue, ConfigError, ModelError
from engine.folder import FINAL, RUN_TOML, run_id_of, source_of_run
from engine.i18n import _, sentences
from engine.journal import last_finish
from engine.models.folder import base_digests, model_folder
from engine.paths import as_argument, is_file, is_folder
from engine.sources import Source, resolve

NAMED = 5
"""As many runs are named where one of them is meant."""


@dataclass(frozen=True)
class ExportSource:
    """A sound adapter and its base, known before anything is loaded."""

    adapter: Checkpoint
    base: Path
    """The base model's local folder."""
    base_name: str
    """As the run was given it: folder or hub id."""
    config: RunConfig
    base_proven: bool
    """Whether the base was held against a manifest of the run. False: no manifest names it."""


def find_source(out: Path, checkpoint: str | None = None, model: str | None = None) -> ExportSource:
    """The adapter of the run in `out`: `checkpoint` by name, else the final one, else the furthest sound one of the run.
    That is taken too where the run was extended and has saved since its adapter was final.

    `model` names the base where it has moved. Raises ConfigError where there is no such folder or checkpoint, CannotContinue where
    the adapter is missing or not whole, ModelError where the base is gone or another one.
    """
    if not is_folder(out):
        raise ConfigError(_("{folder}: there is no such folder").format(folder=out), fix=_("Name the folder of a run."))
    adapter = _sound(_named(out, checkpoint) if checkpoint is not None else _last(out))
    run = source_of_run(out)
    config = resolve([run] if run is not None else [Source("run", "", {})]).config
    assert adapter.adapter is not None
    name = model or config.model or adapter.adapter.base_model
    if not name:
        raise ModelError(
            _("{path}: nothing says which base model this adapter belongs to").format(path=adapter.path),
            fix=_("Name it with --model."),
        )
    base = _base_folder(name)
    manifest = adapter.manifest or _manifest_of_run(out)
    if manifest is not None:
        _refuse_another_base(base, manifest)
    return ExportSource(adapter, base, name, config, manifest is not None)


def _base_folder(name: str) -> Path:
    """As `model_folder`. What is told of a base that is not where the run had it names the flag that says where it is now."""
    try:
        return model_folder(name)
    except ModelError as error:
        elsewhere = _("Where the base has moved, name it with --model.")
        raise ModelError(error.title, error.detail, sentences(error.fix, elsewhere)) from error


def _named(out: Path, name: str) -> Checkpoint:
    if name != FINAL and not EXACT.fullmatch(name):
        raise ConfigError(
            _("{name} is not the name of a checkpoint").format(name=name), fix=_("It is final, or checkpoint-<number>.")
        )
    if (out / name).is_symlink() or not (out / name).is_dir():
        raise ConfigError(
            _("{folder}: there is no {name} in it").format(folder=out, name=name),
            fix=_("lora-tui check {folder} lists what is there.").format(folder=as_argument(out)),
        )
    return inspect_folder(out / name)


def _last(out: Path) -> Checkpoint:
    own = run_id_of(out)
    if (out / FINAL).is_dir() and not (out / FINAL).is_symlink() and not _went_on(out, own):
        return inspect_folder(out / FINAL)
    there = scan(out).checkpoints
    found = weights_fallback([one for one in there if one.run == own] or there)
    if found is None:
        raise CannotContinue(_("{folder}: there is no sound adapter in it").format(folder=out), fix=_meant(out))
    return found


def _meant(out: Path) -> str:
    """What to do where `out` holds no adapter: one may have named a checkpoint in place of its run's folder, or what runs lie in."""
    if out.name == FINAL or EXACT.fullmatch(out.name):
        return _("That is a checkpoint. Name the folder it lies in: {folder} --checkpoint {name}").format(
            folder=as_argument(out.parent), name=out.name)  # fmt: skip
    runs = sorted(one for one in out.iterdir() if is_file(one / RUN_TOML))
    if runs and not is_file(out / RUN_TOML):
        named = ", ".join(as_argument(one) for one in runs[:NAMED])
        return _("Runs lie in it. Name one of them: {runs}").format(runs=named if len(runs) <= NAMED else f"{named}, ...")
    return _("lora-tui check {folder} says what is there and what is wrong with it.").format(folder=as_argument(out))


def _went_on(out: Path, own: str | None) -> bool:
    """Whether run `own` in `out` has saved since its adapter was final: then that is of before."""
    ended = last_finish(out)
    return ended is not None and any(one.run == own and (one.step or 0) > ended for one in glance(out).checkpoints)


def _sound(found: Checkpoint) -> Checkpoint:
    told = "\n".join(problem.message for problem in found.problems)
    if found.grade is Grade.BROKEN or found.adapter is None:
        raise CannotContinue(
            _("{path}: its adapter is missing or not whole").format(path=found.path),
            told,
            _("Choose another one with --checkpoint; lora-tui check lists them."),
        )
    if found.adapter.peft_type != "LORA" or any(one.code == "adapter_config_imports" for one in found.problems):
        raise CannotContinue(
            _("{path}: only LoRA adapters can be exported").format(path=found.path), told,
            _("Export it with the program that made it."),
        )  # fmt: skip
    return found


def _manifest_of_run(out: Path) -> Manifest | None:
    """What a checkpoint of the run says of its base: `final` itself carries no manifest. None where none has one, or where checkpoints
    of several runs share the folder, so that it is not known which speaks for `final`."""
    manifests = [one.manifest for one in glance(out).checkpoints if one.manifest is not None]
    runs = {one.run_id for one in manifests}
    return manifests[-1] if len(runs) == 1 else None


def _refuse_another_base(base: Path, manifest: Manifest) -> None:
    config, weights = base_digests(base)
    if (config, weights) != (manifest.identities.base_config, manifest.identities.base_weights):
        raise ModelError(
            _("{path}: this is not the base model the adapter was trained on").format(path=base),
            _("Its weights or its config.json differ from those of {name}.").format(name=manifest.identities.base_model),
            _("Name the right one with --model."),
        )
