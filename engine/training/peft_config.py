"""The adapter's configuration: as asked for a new one, as saved for one that goes on.

A saved adapter_config.json is input from outside. PEFT would follow what it says: import modules it names, match its strings
as patterns. So nothing is handed to PEFT but the fields below, each of a plain type, and a configuration that sets anything
else is refused by name instead of being half understood.
"""

from __future__ import annotations

import re
from typing import Any

from engine.checkpoints.checkpoint import Checkpoint
from engine.config import RunConfig
from engine.errors import CannotContinue, ConfigError, LoraTuiError, ModelError
from engine.i18n import _

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")

INERT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
        "ensure_weight_tying",
    }
)
"""Fields that say where an adapter came from or how it was born; they do not act on one that exists."""


def lora_config(config: RunConfig) -> Any:
    """The peft.LoraConfig of a new adapter."""
    from peft import LoraConfig

    targets = "all-linear" if config.target_modules == "all-linear" else config.target_modules.split(",")
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=_number(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def need_targets(model: Any, config: RunConfig) -> None:
    """Raise ModelError where a name of --target-modules is of no layer of the PeftModel: PEFT is content with one that is."""
    if config.target_modules == "all-linear":
        return
    found = model.base_model.targeted_module_names
    missing = [
        name for name in config.target_modules.split(",") if not any(f".{layer}".endswith(f".{name}") for layer in found)
    ]
    if missing:
        head = model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if type(module).__name__ == "Linear" and module is not head
        }
        raise ModelError(
            _("--target-modules {names}: this model has no such layers").format(names=",".join(missing)),
            _("Its linear layers are: {names}.").format(names=", ".join(sorted(linear - {"default", "base_layer"}))),
            _("all-linear takes every linear layer but the output layer."),
        )


def lora_config_of(checkpoint: Checkpoint, config: RunConfig) -> Any:
    """The peft.LoraConfig that `checkpoint` was saved with; dropout as asked. Raises CannotContinue for what is not understood."""
    from peft import LoraConfig

    assert checkpoint.adapter is not None
    saved = checkpoint.adapter.raw
    try:
        fields = {
            "r": _positive(saved, "r"),
            "lora_alpha": _number(saved["lora_alpha"]),
            "lora_dropout": config.lora_dropout,
            "target_modules": _names(saved, "target_modules"),
            "modules_to_save": _names(saved, "modules_to_save"),
            "use_rslora": _flag(saved, "use_rslora"),
            "use_dora": _flag(saved, "use_dora"),
            "fan_in_fan_out": _flag(saved, "fan_in_fan_out"),
            "rank_pattern": _pattern(saved, "rank_pattern"),
            "alpha_pattern": _pattern(saved, "alpha_pattern"),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }
        known = {*fields, *INERT}
        defaults = LoraConfig().to_dict()
        odd = [
            name
            for name, value in saved.items()
            if (name not in known or name == "bias") and value not in (defaults.get(name), None, False, {}, [])
        ]
        if odd:
            raise ValueError(_("it sets {names}, which cannot be carried on here").format(names=", ".join(sorted(odd))))
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(checkpoint, str(error)) from None
    return LoraConfig(**fields)


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


def _refusal(checkpoint: Checkpoint, why: str) -> LoraTuiError:
    return CannotContinue(
        _("{path}: its adapter cannot be built again").format(path=checkpoint.path / "adapter_config.json"),
        why,
        _("Continue it with the tool that made it, or start a new run with --resume never."),
    )


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def _positive(saved: dict[str, Any], name: str) -> int:
    value = saved.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_536:
        raise ValueError(_("{name} is {value!r}").format(name=name, value=value))
    return value


def _flag(saved: dict[str, Any], name: str) -> bool:
    value = saved.get(name) or False
    if not isinstance(value, bool):
        raise ValueError(_("{name} is {value!r}").format(name=name, value=value))
    return value


def _names(saved: dict[str, Any], name: str) -> list[str] | None:
    value = saved.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(part, str) and _NAME.fullmatch(part) for part in value):
        raise ValueError(_("{name} is not a list of layer names").format(name=name))
    return value or None


def _pattern(saved: dict[str, Any], name: str) -> dict[str, Any]:
    value = saved.get(name) or {}
    if not isinstance(value, dict) or not all(
        _NAME.fullmatch(key) and isinstance(number, int | float) for key, number in value.items()
    ):
        raise ValueError(_("{name} is not a table of layer names and numbers").format(name=name))
    return value
