"""What the answers of a run must name, and what of it must be there, before anything is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.checkpoints.lora_fields import OUTPUT_LAYER
from engine.config import RunConfig, flag
from engine.data.dataset import eval_rows, may_be_a_split
from engine.data.read import is_hub_id
from engine.errors import ConfigError, ModelError
from engine.folder import NOT_INHERITED, RUN_TOML
from engine.i18n import _
from engine.journal import last_settings
from engine.models.report import model_report
from engine.models.templates import TEMPLATE_FILE, template_source
from engine.paths import as_argument, is_file, is_there
from engine.resume.layers import need_layers
from engine.sources import Resolved, as_flags, problem_of


def need_answers(resolved: Resolved, begun: Path | None = None) -> None:
    """Raise ConfigError where no dataset or no model is named. `begun`: the folder of a run that is gone on with, if one is."""
    missing = [name for name in ("dataset", "model") if getattr(resolved.config, name) is None]
    title = _("missing: {flags}").format(flags=", ".join(map(flag, missing)))
    if missing and begun is not None and not is_there(begun / RUN_TOML):
        told = last_settings(begun)
        named = {name: told.get(name) or name.upper() for name in missing}
        raise ConfigError(
            title,
            _("{path} is gone, which kept what the run was started with.").format(path=begun / RUN_TOML),
            _("Put it back from a copy, or name them: lora-tui --yes --output {folder} {flags}").format(
                folder=as_argument(begun), flags=shlex.join(as_flags({**named, **_lost(resolved, told)}))
            ),
        )
    if missing:
        raise ConfigError(
            title,
            _("A run needs a dataset and a model."),
            _(
                "Name them, for example: lora-tui --yes --dataset chat.jsonl --model ./Qwen3-0.6B · or try: lora-tui --demo --yes"
            ),
        )


_DECIDED_ANEW = "activation_checkpointing"
"""The Journal tells what came of `auto`."""


def _lost(resolved: Resolved, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was started with besides, as its Journal has `told` it, where nobody says it now and the default is another: it
    would silently be that."""
    others = RunConfig.model_fields.keys() - {"dataset", "model", _DECIDED_ANEW, *NOT_INHERITED, *resolved.origin}
    differ = {name: told[name] for name in others & told.keys() if told[name] != getattr(resolved.config, name)}
    return {
        name: differ[name] for name in RunConfig.model_fields if name in differ and problem_of(name, differ[name]) is None
    }


def need_no_output_layer(config: RunConfig) -> None:
    """Raise ModelError where --target-modules names the output layer: the trainer refuses that, but only once everything is loaded. Of
    a saved adapter that is there, its checkpoint says that it cannot be carried on."""
    named = [name for name in config.target_modules.split(",") if name.rpartition(".")[2] == OUTPUT_LAYER]
    if named:
        raise ModelError(
            _("--target-modules {names}: no adapter can be put there").format(names=",".join(named)),
            _("lm_head is the output layer. TRL trains no adapter on it: it takes the layer's own weights for the loss."),
            _("all-linear takes every linear layer but the output layer."),
        )


def need_template(config: RunConfig, checkpoint: Path) -> None:
    """Raise ConfigError where the file of --chat-template cannot be read; it tells of the copy that `checkpoint` has of it."""
    try:
        template_source(config.chat_template)
    except ConfigError as error:
        kept = checkpoint / TEMPLATE_FILE
        if not is_file(kept):
            raise
        words = _("The checkpoint has it as it was: put {path} back in its place.").format(path=kept)
        raise ConfigError(error.title, error.detail, words) from None


def need_what_is_named(config: RunConfig, mode: str) -> None:
    """Raise ConfigError, ModelError or DatasetError where a template, layers or eval rows that are named are not there: the run would
    say so, but only once it has begun. Of what is to be fetched nothing is known yet."""
    assert config.dataset is not None and config.model is not None
    if mode != "complete":
        template_source(config.chat_template)
    if mode == "fresh" and config.target_modules != RunConfig.model_fields["target_modules"].default:
        folder = model_report(config.model).folder
        if folder is not None:
            need_layers(config.target_modules, folder)
    measured = config.eval_dataset
    if mode == "complete" or measured is None or is_hub_id(config.dataset):
        return
    if may_be_a_split(measured) or not is_hub_id(measured):
        eval_rows(config)
