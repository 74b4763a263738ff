"""The adapter's configuration: as asked for a new one, as saved for one that goes on (checkpoints/lora_fields.py)."""

from __future__ import annotations

from typing import Any

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.lora_fields import lora_fields, plain_number, why_not_trained
from engine.config import RunConfig
from engine.errors import CannotContinue, ConfigError, ModelError
from engine.i18n import _
from engine.resume.layers import no_such_layers


def lora_config(config: RunConfig) -> Any:
    """The peft.LoraConfig of a new adapter."""
    from peft import LoraConfig

    targets = "all-linear" if config.target_modules == "all-linear" else config.target_modules.split(",")
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=plain_number(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def need_targets(base: Any, config: RunConfig) -> None:
    """Raise ModelError where a name of --target-modules is of no layer of the base model: PEFT is content with one that is."""
    if config.target_modules == "all-linear":
        return
    modules = dict(base.named_modules())
    missing = [
        name for name in config.target_modules.split(",") if not any(f".{layer}".endswith(f".{name}") for layer in modules)
    ]
    if missing:
        head = base.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in modules.items()
            if type(module).__name__ == "Linear" and module is not head
        }
        raise no_such_layers(missing, linear)


def need_to_go_on(model: Any, config: RunConfig) -> None:
    """Raise ModelError where what PEFT has made of a new adapter could be saved and never be gone on with: for experts that are one
    tensor it puts parameters into the adapter's configuration, and patterns, which are not built again here."""
    made = model.peft_config["default"].to_dict()
    raw = {name: sorted(value) if isinstance(value, set) else value for name, value in made.items()}
    why = why_not_trained(raw)
    if why is not None:
        raise ModelError(
            _("{model}: a run with --target-modules {names} could not be continued").format(
                model=config.model, names=config.target_modules
            ),
            why,
            _("Name layers that are linear by themselves, for example --target-modules q_proj,k_proj,v_proj,o_proj."),
        )


def lora_config_of(checkpoint: Checkpoint, config: RunConfig) -> Any:
    """The peft.LoraConfig that `checkpoint` was saved with; dropout as asked. Raises CannotContinue for what is not understood."""
    from peft import LoraConfig

    assert checkpoint.adapter is not None
    try:
        return LoraConfig(**lora_fields(checkpoint.adapter.raw), lora_dropout=config.lora_dropout)
    except ValueError as error:
        raise CannotContinue(
            _("{path}: its adapter cannot be built again").format(path=checkpoint.path / "adapter_config.json"),
            str(error),
            _("Continue it with the tool that made it, or start a new run with --resume never."),
        ) from None


def need_plain(adapter: Any, way: str) -> None:
    """Raise ConfigError where an adapter trains or measures base weights, which a model in parts has not whole: what it trains
    of them would be missing in what is saved."""
    if adapter.modules_to_save or adapter.use_dora:
        raise ConfigError(
            _("--parallel {way}: this adapter needs the whole of some base weights").format(way=way),
            _("It is a DoRA.")
            if adapter.use_dora
            else _("It trains {names} whole.").format(names=", ".join(adapter.modules_to_save)),
            _("Use --parallel ddp."),
        )
