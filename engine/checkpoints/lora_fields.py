"""What an adapter_config.json asks of PEFT, taken over field by field.

A saved configuration is input from outside. PEFT would follow what it says: import modules it names, match its strings as patterns. So
nothing is handed to PEFT but the fields below, each of a plain type, and a configuration that sets anything else is refused by name
instead of being half understood. `check` says so of a checkpoint before a run is asked for.
"""

from __future__ import annotations

import re
from typing import Any

from engine.checkpoints.files import number
from engine.i18n import _

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")

INERT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "revision",
        "ensure_weight_tying",
    }
)
"""Fields that say where an adapter came from or how it was born, or that a run sets by itself; they do not act on one that exists."""
BORN: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "task_type": ("CAUSAL_LM", None),
}
"""Values that do not act on an adapter that exists. PiSSA, OLoRA, CorDA and LoftQ change the base model's weights too, each time that
the adapter is loaded (peft 0.21, LoraLayer.update_layer); another task has another head."""
DEFAULTS: dict[str, Any] = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
"""What PEFT writes where nobody has set these; all other fields are empty then (peft 0.21, LoraConfig)."""
OUTPUT_LAYER = "lm_head"
MOST_RANK, MOST_ALPHA = 4096, 65_536
"""As far as a run's own settings go (config.py); a larger one can be built and asked, and not trained on."""


def lora_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a peft.LoraConfig that is like the saved one, but for its dropout. Raises ValueError, in words, for what is not
    understood here."""
    fields: dict[str, Any] = {
        "r": _positive(raw, "r"),
        "lora_alpha": _alpha(raw),
        "target_modules": _names(raw, "target_modules"),
        "modules_to_save": _names(raw, "modules_to_save"),
        "use_rslora": _flag(raw, "use_rslora"),
        "use_dora": _flag(raw, "use_dora"),
        "fan_in_fan_out": _flag(raw, "fan_in_fan_out"),
        "rank_pattern": _pattern(raw, "rank_pattern"),
        "alpha_pattern": _pattern(raw, "alpha_pattern"),
    }
    odd = sorted(name for name, value in raw.items() if name not in fields and not _acts_not(name, value))
    if odd:
        names = ", ".join(name[:60] for name in odd[:8])
        raise ValueError(_("it sets {names}, which cannot be carried on here").format(names=names))
    return fields | {"bias": "none", "task_type": "CAUSAL_LM"}


def _acts_not(name: str, value: Any) -> bool:
    """Whether the field `name` with this value changes nothing of an adapter that exists."""
    if name in BORN:
        return value in BORN[name]
    return name in INERT or value in (None, False, {}, []) or value == DEFAULTS.get(name)


def why_not_trained(raw: dict[str, Any]) -> str | None:
    """Why the saved adapter cannot be trained on here, in words; None where it can. One on the output layer can be built all the same,
    and merged or asked."""
    try:
        targets = lora_fields(raw)["target_modules"]
    except ValueError as error:
        return str(error)
    if odd := out_of_range(raw):
        return odd
    if any(name.rpartition(".")[2] == OUTPUT_LAYER for name in targets or ()):
        return _("it is on {name}, the output layer, where TRL trains none").format(name=OUTPUT_LAYER)
    return None


def out_of_range(raw: dict[str, Any]) -> str | None:
    """Which number of the saved adapter no run can have, in words; None where each can be, or is not there."""
    rank, alpha, dropout = (number(raw.get(name)) for name in ("r", "lora_alpha", "lora_dropout"))
    odd = {
        "r": rank is not None and not 1 <= rank <= MOST_RANK,
        "lora_alpha": alpha is not None and not 0 < alpha <= MOST_ALPHA,
        "lora_dropout": (dropout is None and raw.get("lora_dropout") is not None)
        or (dropout is not None and not 0 <= dropout < 1),
    }
    name = next((name for name in odd if odd[name]), None)
    return _("{name} is {value!r}").format(name=name, value=raw[name]) if name is not None else None


def plain_number(value: float) -> float | int:
    """`value` without a fraction that is none: PEFT writes it as it was given."""
    return int(value) if float(value).is_integer() else float(value)


def _alpha(raw: dict[str, Any]) -> float | int:
    value = number(raw.get("lora_alpha"))
    if value is None:
        raise ValueError(_("{name} is {value!r}").format(name="lora_alpha", value=raw.get("lora_alpha")))
    return plain_number(value)


def _positive(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_536:
        raise ValueError(_("{name} is {value!r}").format(name=name, value=value))
    return value


def _flag(raw: dict[str, Any], name: str) -> bool:
    value = raw.get(name) or False
    if not isinstance(value, bool):
        raise ValueError(_("{name} is {value!r}").format(name=name, value=value))
    return value


def _names(raw: dict[str, Any], name: str) -> list[str] | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(part, str) and _NAME.fullmatch(part) for part in value):
        raise ValueError(_("{name} is not a list of layer names").format(name=name))
    return value or None


def _pattern(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict) or not all(
        _NAME.fullmatch(key) and isinstance(one, int | float) for key, one in value.items()
    ):
        raise ValueError(_("{name} is not a table of layer names and numbers").format(name=name))
    return value
