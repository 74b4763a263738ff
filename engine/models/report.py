"""What a model is, before it is loaded: architecture, size, context, chat template, what LoRA would train of it.

Everything is read from the headers of its files, so a model of 100 GB is described in milliseconds and without torch. What a
folder does not tell is None; what makes it unusable is the error that a run would end with.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoints.files import Unsound, count
from engine.checkpoints.safetensors_header import Tensor, read_header
from engine.errors import LoraTuiError, ModelError
from engine.i18n import _
from engine.models.folder import TEMPLATES, WHOLE, is_hub_id, loaded_weights, model_folder, named_by_index, read_model_config
from engine.models.templates import TEMPLATE_FILE

NOT_LINEAR = ("embed", "lm_head", "wte", "wpe", "norm", "output_layer")
"""Parts of the names of two-dimensional weights that `all-linear` leaves alone (PEFT excludes the output layer)."""


@dataclass(frozen=True)
class ModelReport:
    """One model folder."""

    model: str
    """As it was named: a folder or a hub id."""
    folder: Path | None
    architecture: str | None
    parameters: int | None
    dtype: str | None
    """Number format on the disk."""
    bytes: int
    """Of its weight files."""
    layers: int | None
    hidden: int | None
    intermediate: int | None
    vocabulary: int | None
    context: int | None
    """Tokens it was made for."""
    chat_template: bool
    linear: tuple[tuple[int, int], ...]
    """(out, in) of each linear layer that `all-linear` puts an adapter on."""
    stopped: LoraTuiError | None
    """What a run with this model would end with; None where nothing is known against it."""

    def trainable(self, rank: int) -> int:
        """Parameters of a LoRA of `rank` on all linear layers: rank x (in + out) each (Hu et al. 2021, arXiv 2106.09685)."""
        return sum(rank * (out + inside) for out, inside in self.linear)

    def to_json(self, rank: int) -> dict[str, Any]:
        """What `data --json` says of it, with a LoRA of `rank`."""
        stopped = self.stopped
        return {
            "model": self.model,
            "folder": str(self.folder) if self.folder is not None else None,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "context": self.context,
            "chat_template": self.chat_template,
            "trainable": self.trainable(rank) if self.linear else None,
            "problem": {"message": stopped.title, "fix": stopped.fix} if stopped is not None else None,
        }


def model_report(model: str) -> ModelReport:
    """Describe `model`. Never raises for what is wrong with it: that is in `stopped`. A hub id that is not here is not fetched."""
    empty = ModelReport(model, None, None, None, None, 0, None, None, None, None, None, False, (), None)
    try:
        folder = cached_snapshot(model) or model_folder_here(model)
        config = read_model_config(folder)
    except LoraTuiError as error:
        return replace(empty, stopped=error)
    nested = config.get("text_config")
    text: dict[str, Any] = nested if isinstance(nested, dict) else config
    known = replace(
        empty,
        folder=folder,
        architecture=_word(config.get("architectures")) or str(config["model_type"]),
        layers=_count(text, "num_hidden_layers", "n_layer"),
        hidden=_count(text, "hidden_size", "n_embd"),
        intermediate=_count(text, "intermediate_size", "n_inner"),
        vocabulary=_count(text, "vocab_size"),
        context=_count(text, "max_position_embeddings", "n_positions"),
        chat_template=_has_template(folder),
    )
    try:
        if not is_hub_id(model):  # else what is not here yet is fetched when the run begins
            _need_shards(folder)
        return _with_weights(known, folder)
    except (OSError, Unsound) as error:
        return replace(known, stopped=_torn(folder, error))


def to_be_fetched(report: ModelReport) -> bool:
    """Whether it is a hub id that is not here yet: the run will fetch it."""
    return report.folder is None and is_hub_id(report.model)


def model_folder_here(model: str) -> Path:
    """The folder of `model` on this machine. Raises ModelError where it is not here; asks no network."""
    if is_hub_id(model):
        raise ModelError(
            _("{model}: is not on this machine").format(model=model),
            _("It will be fetched from the hub when the run starts."),
            _("Or give a folder with config.json."),
        )
    return model_folder(model)


def cached_snapshot(model: str) -> Path | None:
    """The snapshot of a hub id in the local cache; None where there is none."""
    if not is_hub_id(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not a name that the hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def _with_weights(known: ModelReport, folder: Path) -> ModelReport:
    files = [path for path in loaded_weights(folder) if path.is_file()]
    tensors = weight_headers(folder)
    total = sum(path.stat().st_size for path in files)
    if not files:
        error = ModelError(_("{path}: has no weights").format(path=folder), fix=_("*.safetensors files are missing."))
        return replace(known, stopped=error)
    if not tensors:  # pytorch_model.bin is not opened to look at it
        return replace(known, bytes=total)
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    linear = tuple(
        (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name.endswith("weight") and not any(part in name for part in NOT_LINEAR)
    )
    return replace(
        known, bytes=total, parameters=sum(sizes.values()), dtype=max(sizes, key=lambda one: sizes[one]), linear=linear
    )


def weight_headers(folder: Path) -> dict[str, Tensor]:
    """The tensors of the *.safetensors in `folder` that are loaded, by name, without their numbers. Raises OSError, Unsound."""
    found: dict[str, Tensor] = {}
    for path in (path for path in loaded_weights(folder) if path.suffix == ".safetensors" and path.is_file()):
        with open(path, "rb") as file:
            found.update(read_header(file, path.name))
    return found


def _need_shards(folder: Path) -> None:
    """Raise Unsound where a file of weights that the index names is not there: a copy or a download that was cut short."""
    if (folder / WHOLE).is_file():  # beside it transformers looks at no index
        return
    if missing := sorted(name for name in named_by_index(folder) if not (folder / name).is_file()):
        raise Unsound("weights_missing", _("{name} is missing.").format(name=", ".join(missing[:5])))


def torn(folder: Path) -> ModelError | None:
    """What is wrong with the *.safetensors in `folder` by their headers and sizes; None where nothing is. What a library says of
    a torn file does not name it."""
    try:
        _need_shards(folder)
        weight_headers(folder)
    except (OSError, Unsound) as error:
        return _torn(folder, error)
    return None


def _torn(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        _("{path}: the model cannot be loaded").format(path=folder),
        str(error),
        _("Copy or fetch the model's files again: lora-tui reads them and never writes to them."),
    )


def _has_template(folder: Path) -> bool:
    if (folder / TEMPLATE_FILE).is_file() or any((folder / TEMPLATES).glob("*.jinja")):
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _word(value: Any) -> str | None:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], str) else None


def _count(config: dict[str, Any], *names: str) -> int | None:
    """The first of `names` that is a whole number above 0; None where none is."""
    return next((found for name in names if (found := count(config.get(name)))), None)
