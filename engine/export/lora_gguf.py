"""The adapter as a GGUF of its own beside its base's: the base is kept once for many adapters, and each is a few megabytes.

llama.cpp knows one scale for a whole adapter, alpha / rank, and nothing but low-rank pairs. Scales of other kinds (rsLoRA,
patterns) are folded into that alpha, or into B where they differ from layer to layer; pairs of weights that lie the other way round
(GPT-2) are turned as their base is; what is no low-rank pair (DoRA, trained embeddings, modules saved whole) can only be merged, and
that is said before anything is loaded.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.export.merged import embeddings_among, scaling
from engine.export.source import ExportSource
from engine.i18n import _
from engine.models.folder import weight_files


def refuse_inseparable(source: ExportSource) -> None:
    """Raise ConfigError where the adapter holds more than low-rank pairs."""
    assert source.adapter.adapter is not None
    config = source.adapter.adapter.raw
    embeddings = embeddings_among(source.adapter.adapter.target_modules)
    why = (
        _("It is a DoRA adapter.") if config.get("use_dora")
        else _("It was trained with modules saved whole: {names}.").format(names=", ".join(config["modules_to_save"]))
        if config.get("modules_to_save")
        else _("It changes the embeddings: {names}.").format(names=", ".join(embeddings)) if embeddings
        else _("It has trained biases.") if config.get("bias", "none") != "none" or config.get("lora_bias")
        else None
    )  # fmt: skip
    if why is not None:
        raise ConfigError(
            _("{path}: llama.cpp cannot keep this adapter apart from its base").format(path=source.adapter.path), why,
            _("Leave --lora out: merged with its base it can be exported."),
        )  # fmt: skip


def plain_base(source: ExportSource, folder: Path) -> None:
    """The base model's files in `folder`, weights as links: what the converter reads, and no code."""
    for path in weight_files(source.base):
        (folder / path.name).symlink_to(path.resolve())
    for path in source.base.iterdir():
        if path.suffix in (".json", ".jinja", ".model", ".txt") and path.is_file():
            shutil.copyfile(path, folder / path.name)


def fold(copy: Path, folder: Path) -> None:
    """The adapter in `copy` with one scale for all, alpha / rank, in `folder`; its pairs give what is added to the base's weights as
    those are stored, which the converter then turns as it turns the base."""
    from safetensors.torch import save_file

    from engine.training.memory import adapter_in_file

    config: dict[str, Any] = json.loads((copy / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = adapter_in_file(copy)
    alphas: dict[str, float] = {}
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            alphas[name.replace("lora_A", "lora_B")] = scaling(config, module) * tensors[name].shape[0]
    alpha = next(iter(alphas.values()))
    if not all(math.isclose(one, alpha, rel_tol=1e-12) for one in alphas.values()):
        alpha = float(config["lora_alpha"])
        for name, one in alphas.items():
            tensors[name] = (tensors[name].double() * (one / alpha)).to(tensors[name].dtype)
    if config.get("fan_in_fan_out"):
        for name in alphas:
            other = name.replace("lora_B", "lora_A")
            tensors[name], tensors[other] = tensors[other].T, tensors[name].T
    plain = {"peft_type": "LORA", "r": config["r"], "lora_alpha": alpha, "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(plain), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
