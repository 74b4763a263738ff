"""Why a checkpoint cannot be of the run that is asked for: another rank, other layers, another base model.

It is never continued so, and `auto` passes it over.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.manifest import Identities
from engine.config import RunConfig
from engine.errors import ConfigError, ModelError
from engine.folder import source_of_run
from engine.i18n import _
from engine.paths import is_file
from engine.resume.whose import is_of_run_beside


def contradiction(checkpoint: Checkpoint, config: RunConfig) -> str | None:
    """Why a run with this configuration cannot be the one that saved `checkpoint`; None where it can. Raises ModelError where the
    model that is asked for cannot be loaded."""
    shape = checkpoint.adapter
    if shape is None:
        return None
    against = []
    if shape.r is not None and shape.r != config.lora_r:
        against.append(_("its LoRA rank is {saved}, asked is {asked}").format(saved=shape.r, asked=config.lora_r))
    if shape.lora_alpha is not None and shape.lora_alpha != config.lora_alpha:
        words = _("its LoRA alpha is {saved:g}, asked is {asked:g}")
        against.append(words.format(saved=shape.lora_alpha, asked=config.lora_alpha))
    if config.target_modules != "all-linear" and shape.target_modules:
        asked = tuple(sorted(config.target_modules.split(",")))
        if asked != shape.target_modules:
            words = _("its adapter is on {saved}, asked is {asked}")
            against.append(words.format(saved=", ".join(shape.target_modules), asked=", ".join(asked)))
    elif shape.target_modules and _is_on_named_layers(checkpoint):
        words = _("its adapter is on {saved}, asked is {asked}")
        against.append(words.format(saved=", ".join(shape.target_modules), asked=config.target_modules))
    base = _other_base(checkpoint, config)
    return "; ".join([*against, *([base] if base else [])]) or None


def _is_on_named_layers(checkpoint: Checkpoint) -> bool:
    """Whether its run was begun on layers by their names, as the run.toml beside it tells: an adapter on all-linear names them too."""
    try:
        own = source_of_run(checkpoint.path.resolve().parent)
    except ConfigError:  # told by whoever takes up those settings
        return False
    # Whose a checkpoint is may need a look at the whole folder, so it is asked last: this is asked of each one in it.
    return (
        own is not None and own.values.get("target_modules", "all-linear") != "all-linear" and is_of_run_beside(checkpoint)
    )


def _other_base(checkpoint: Checkpoint, config: RunConfig) -> str | None:
    from engine.models.report import model_report
    from engine.resume.layers import other_model

    folder = Path(config.model or "")
    here = is_file(folder / "config.json")
    if checkpoint.manifest is not None:
        if not here:
            return None  # a hub id: identified when it is loaded
        saved = checkpoint.manifest.identities
        if _is_base_of(saved, folder):
            return None
        if (stopped := model_report(str(folder)).stopped) is not None:  # torn, perhaps: that is no other model
            raise stopped
        if saved.base_model == config.model:
            return _("its base model is no longer what it was trained on: files in {name} were changed").format(
                name=saved.base_model
            )
        return _("it was trained on another base model ({name})").format(name=saved.base_model)
    named = checkpoint.adapter.base_model if checkpoint.adapter is not None else None
    if named is None or _model_name(_as_path(named)) in {_model_name(one) for one in (folder.absolute(), folder.resolve())}:
        return other_model(checkpoint.path, folder) if here else None
    if here and _is_same_base(Path(named), folder):
        return None
    return _(
        "it was trained on {name}, asked is {folder} (where that is the same model: name the folder in base_model_name_or_path of "
        "its adapter_config.json)"
    ).format(name=named, folder=folder)


def base_was_changed(checkpoint: Checkpoint, config: RunConfig) -> bool:
    """Whether the model of `config` lies where that of `checkpoint` lay when it was saved, and is no longer the same."""
    folder = Path(config.model or "")
    if checkpoint.manifest is None or checkpoint.manifest.identities.base_model != config.model:
        return False
    return is_file(folder / "config.json") and not _is_base_of(checkpoint.manifest.identities, folder)


def _is_base_of(saved: Identities, folder: Path) -> bool:
    """Whether the model in `folder` is the base that a manifest identifies."""
    from engine.models.folder import base_digests

    return base_digests(folder) == (saved.base_config, saved.base_weights)


def _is_same_base(there: Path, folder: Path) -> bool:
    """Whether the model in `there`, which a checkpoint names, is the one in `folder`. One that cannot be read proves nothing."""
    from engine.models.folder import base_digests

    if not is_file(there / "config.json"):
        return False
    now = base_digests(folder)
    try:
        return base_digests(there) == now
    except (OSError, ModelError):
        return False


def _as_path(named: str) -> Path:
    """A path or hub id as it was written, on Windows too."""
    return Path(PureWindowsPath(named).as_posix() if "\\" in named else named)


def _model_name(path: Path) -> str:
    """What a model is called, by the path or hub id that names it: its last part, also where the hub's cache keeps it below
    `models--owner--name/snapshots`, or ModelScope's with its points written as `___`."""
    name = path.parts[-3].rpartition("--")[2] if path.parent.name == "snapshots" and len(path.parts) > 2 else path.name
    return name.replace("___", ".").casefold()
