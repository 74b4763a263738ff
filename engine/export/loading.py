"""Base and adapter as one PEFT model, for whatever looks at the result of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.data.tokens import end_marks
from engine.data.turns import behind_answer
from engine.errors import ModelError
from engine.export.source import ExportSource
from engine.hardware import Hardware
from engine.i18n import _


def load_adapted(
    source: ExportSource, copy: Path, hardware: Hardware, prepare: Callable[[Any, Any], None] = lambda base, wanted: None
) -> Any:
    """The PEFT model of `source`, in eval mode, read from the private `copy`; never in 4 bit. `prepare` is given the base and the
    adapter's LoraConfig before they are joined. Raises ModelError or CannotContinue where they do not fit."""
    from peft import get_peft_model, set_peft_model_state_dict

    from engine.training.memory import adapter_in_file
    from engine.training.model import load_base
    from engine.training.peft_config import lora_config_of

    wanted = lora_config_of(source.adapter, source.config)
    wanted.lora_dropout = 0.0
    base = load_base(source.base, hardware, source.config.model_copy(update={"load_in_4bit": False}))
    prepare(base, wanted)
    model = get_peft_model(base, wanted)
    loading = set_peft_model_state_dict(model, adapter_in_file(copy))
    lost = [name for name in loading.missing_keys if "lora_" in name or "modules_to_save" in name]
    if lost or loading.unexpected_keys:
        raise ModelError(
            _("{path}: the adapter does not fit this base model").format(path=source.base),
            ", ".join((*lost, *loading.unexpected_keys)[:5]),
            _("Name the base it was trained on with --model."),
        )
    return model.eval().to(hardware.device)


def tokenizer_of(source: ExportSource, copy: Path) -> Any:
    """The tokenizer saved with the adapter, else the base's."""
    from engine.models.folder import load_tokenizer

    if (copy / "tokenizer_config.json").is_file():  # with the template that it was trained with
        return load_tokenizer(copy)
    return load_tokenizer(source.base, source.config.chat_template)


def answer_ends(model: Any, tokenizer: Any, plain: bool) -> list[int]:
    """Ids of the tokens at which an answer of `model` ends, sorted: those that model and tokenizer name and, unless it was trained on
    plain text, what the chat template ends an answer with. A base model that was trained on conversations names another as its own."""
    named = model.generation_config.eos_token_id
    ends = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id}
    if not plain and tokenizer.chat_template is not None:
        behind = tokenizer(behind_answer(tokenizer).lstrip(), add_special_tokens=False)["input_ids"]
        ends |= end_marks(tokenizer).intersection(behind[:1])
    return sorted(one for one in ends if one is not None)
