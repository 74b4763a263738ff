"""The base model, loaded: on its device, in its number format, whole or a part of it. Its folder is read in models/folder.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.errors import LoraTuiError, ModelError, first_line
from engine.hardware import Hardware
from engine.i18n import _, n_
from engine.models.folder import read_model_config, weight_files
from engine.models.report import torn

if TYPE_CHECKING:
    from engine.training.parts import Parts


NAMED = 3
"""Tensors whose names are told where some are not used."""


def load_base(
    folder: Path,
    hardware: Hardware,
    config: RunConfig,
    parts: Parts | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> Any:
    """The base model on its device, in the chosen precision; with `parts`, this process's part of it. `tell`: hears what of its files
    is not taken.

    Raises ModelError, or LoraTuiError where the memory does not hold it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from engine.training.fitting import is_out_of_memory

    found = read_model_config(folder)
    if not weight_files(folder):
        raise ModelError(_("{path}: has no weights").format(path=folder), fix=_("*.safetensors files are missing."))
    options: dict[str, Any] = {"dtype": getattr(torch, hardware.precision), "trust_remote_code": False}
    if config.load_in_4bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, hardware.precision),
        )
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    whole: AbstractContextManager[dict[str, Any]] = nullcontext({})
    try:
        with parts.loading(found, hardware.precision) if parts else whole as cutting:
            model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options, **cutting)
    except Exception as error:
        # A model folder can be wrong in more ways than the library has classes of errors for.
        if is_out_of_memory(error):  # fewer rows at a time would not help
            raise LoraTuiError(
                _("the memory of the device is used up"),
                _("{path}: the model does not fit. {words}").format(
                    path=folder, words=f"{type(error).__name__}: {first_line(error)}"
                ),
                _(
                    "Close other programs, or take a smaller model. On an NVIDIA GPU, --load-in-4bit takes a quarter of the room."
                ),
            ) from error
        raise torn(folder) or ModelError(
            _("{path}: the model cannot be loaded").format(path=folder),
            f"{type(error).__name__}: {first_line(error)}",
            _("It must be a causal language model that this version of transformers knows."),
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            _("{path}: {count} of the model's tensors are not in its files").format(path=folder, count=len(missing)),
            ", ".join(missing[:5]),
            _("The weights are incomplete or of another model; fetch them again."),
        )
    unused = sorted(loading["unexpected_keys"])
    if unused:  # a config.json with fewer layers makes a smaller model of the same files without an error
        words = n_(
            "{count} tensor in the model's files is not used: {names}. Its config.json describes a model without it.",
            "{count} tensors in the model's files are not used: {names}. Its config.json describes a model without them.",
            len(unused),
        )
        names = ", ".join(unused[:NAMED]) + (", ..." if len(unused) > NAMED else "")
        tell(words.format(count=len(unused), names=names))
    if parts:
        parts.finish(model, hardware.precision)
    return model
