"""A model's folder: found or fetched, read, its tokenizer loaded; and the digests that say whether it is the same as before.

Nothing here runs code that comes with a model: trust_remote_code is never set, and a configuration that asks for it is refused
in words. A hub id is turned into a local folder first, so that what is identified is what is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from engine.durable import open_plain_file
from engine.errors import ModelError, first_line
from engine.hub import hub
from engine.i18n import _, n_
from engine.models.templates import MODELS_OWN, put_template
from engine.paths import is_folder, is_there, lost_link, path_of

WEIGHTS = (".safetensors", ".bin")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The file of all weights, or which of several files has which, as transformers looks for them."""
MAX_CONFIG_BYTES = 16 * 2**20
TEMPLATES = "additional_chat_templates"
"""Where transformers keeps the chat templates of a model that has several, all but the default (its CHAT_TEMPLATE_DIR)."""
TOKENIZER_FILES = ("tokenizer*.json", "tokenizer*.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
                   "spiece.model", "sentencepiece*.model", "chat_template*", f"{TEMPLATES}/*.jinja")  # fmt: skip
_BLOCK = 1 << 16
_BLOCKS = 64
_WHOLE = 16 << 20


def is_hub_id(model: str) -> bool:
    """Whether `model` can only be meant as the hub's owner/name: nothing of that name is here, and it is not written as a path."""
    path = path_of(model)
    here = is_there(path) or lost_link(path)
    return not here and not path.is_absolute() and not model.startswith((".", "~", "$")) and model.count("/") == 1


def model_folder(model: str) -> Path:
    """The local folder of `model`: itself, or the snapshot of a hub id, fetched where it is not there yet.

    Raises ModelError with what is missing.
    """
    path = path_of(model)
    if is_folder(path):
        if not (path / "config.json").is_file():
            raise _no_model(path)
        return path
    if is_there(path):
        raise ModelError(
            _("{path}: is a file, not a model folder").format(path=path),
            fix=_("Give the folder that holds config.json. GGUF files cannot be trained."),
        )
    if not is_hub_id(model):
        raise ModelError(
            _("{path}: there is no such model folder").format(path=model),
            lost_link(path),
            _("Give a folder with config.json, or a hub id such as Qwen/Qwen3-0.6B."),
        )
    return _snapshot(model)


def _no_model(folder: Path) -> ModelError:
    """The error of a folder without a config.json; one that lies in it, as the hub's cache has them, is named."""
    title = _("{path}: is no model folder, it has no config.json").format(path=folder)
    if (folder / "adapter_config.json").is_file():
        detail = _("It holds an adapter, not a whole model.")
        return ModelError(title, detail, _("Give the base model it was made for as --model."))
    inside = sorted(path.parent for depth in ("*", "snapshots/*") for path in folder.glob(f"{depth}/config.json"))
    if inside:
        detail = n_("A model lies in a folder of it.", "{count} models lie in folders of it.", len(inside))
        return ModelError(title, detail.format(count=len(inside)), _("Name it: {path}").format(path=inside[0]))
    return ModelError(title, fix=_("A model folder holds config.json, *.safetensors and the tokenizer's files."))


def _snapshot(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "tokenizer*"]
    silent = None
    try:
        with hub() as silent:
            return Path(snapshot_download(repo, allow_patterns=wanted, etag_timeout=5))
    except GatedRepoError as error:
        raise ModelError(
            _("{repo}: this model is gated").format(repo=repo),
            first_line(error),
            _("Accept its terms on its page, then run: hf auth login"),
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            _("{repo}: there is no such folder here, and no such model on the hub").format(repo=repo),
            fix=_("Check the spelling; private models need: hf auth login"),
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            _("{repo}: there is no such folder here, and the hub cannot be reached").format(repo=repo),
            silent or first_line(error),
            _("Check the path, or the network; HF_ENDPOINT names a mirror."),
        ) from None


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError where it is no JSON object or no causal language model."""
    try:
        # In the Hugging Face cache it is a link; what it must not be is a pipe, which would never end.
        with os.fdopen(open_plain_file(folder / "config.json", os.O_RDONLY, follow=True), "rb") as file:
            found = json.loads(file.read(MAX_CONFIG_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(_("{path}: cannot be read").format(path=folder / "config.json"), str(error)) from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ModelError(
            _("{path}: names no model_type").format(path=folder / "config.json"),
            fix=_("Is this the config.json of a transformers model?"),
        )
    if "auto_map" in found:
        raise ModelError(
            _("{path}: this model brings its own code").format(path=folder),
            _("Code from a model folder is never run (trust_remote_code stays off)."),
            _("Use a model that transformers itself knows."),
        )
    if foreign := _foreign_kernel(found):
        raise ModelError(
            _("{path}: this model asks for code from elsewhere").format(path=folder),
            _("Its config.json names {name} as an implementation, which transformers would fetch and run.").format(
                name=foreign
            ),
            _("Take that key out of config.json; the computation is the same without it."),
        )
    return found


def _foreign_kernel(config: Any) -> str | None:
    """The name of a kernel of the hub that a config.json asks for, at any depth: `attn_implementation`, `_attn_implementation`,
    `experts_implementation` ... with a repository's name (transformers/integrations/hub_kernels.py)."""
    if isinstance(config, dict):
        for key, value in config.items():
            if "implementation" in str(key) and "/" in json.dumps(value):
                return json.dumps(value)[:80]
            if inner := _foreign_kernel(value):
                return inner
    return None


def need_tokenizer_files(folder: Path) -> None:
    """Raise ModelError where `folder` has nothing that a tokenizer could be loaded from."""
    if not any(path for pattern in TOKENIZER_FILES if not pattern.startswith("chat") for path in folder.glob(pattern)):
        raise _no_tokenizer(folder, _("None of a tokenizer's files is there."))


def _no_tokenizer(folder: Path, why: str) -> ModelError:
    return ModelError(
        _("{path}: the tokenizer cannot be loaded").format(path=folder),
        why,
        _("The folder needs tokenizer.json and tokenizer_config.json of this model."),
    )


def load_tokenizer(folder: Path, chat_template: str = MODELS_OWN) -> Any:
    """The tokenizer of a model folder, with a pad token, writing turns as --chat-template says. Raises ModelError, or ConfigError for
    a template that cannot be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # Asked for with every row, and endless where its unknown token is none of its tokens.
        _ids = tokenizer.all_special_ids
    except Exception as error:
        # transformers raises anything here, from OSError to KeyError, for a folder with a damaged or missing tokenizer.
        raise _no_tokenizer(folder, f"{type(error).__name__}: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            _("{path}: the tokenizer has no end token").format(path=folder),
            fix=_("Set eos_token in its tokenizer_config.json."),
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    put_template(tokenizer, chat_template)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write `tokenizer` into `folder` as transformers would, but always as plain files: several chat templates go into
    tokenizer_config.json, from where they are loaded as they were, and not into a folder of their own. Raises OSError."""
    tokenizer.save_pretrained(folder, save_jinja_files=not isinstance(tokenizer.chat_template, dict))


def weight_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold weights, by name. Raises OSError."""
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS and path.name != "training_args.bin")


def loaded_weights(folder: Path) -> list[Path]:
    """Those of `weight_files` that transformers loads. The same weights often lie there a second time: as pytorch_model.bin, or in
    their makers' own layout (Mistral's consolidated.safetensors). Raises OSError."""
    files = weight_files(folder)
    named = {WHOLE} if (folder / WHOLE).is_file() else named_by_index(folder)
    return [path for path in files if path.name in named] or files


def named_by_index(folder: Path) -> set[str]:
    """The files that the index of a model folder says its weights are in; none where there is no index, or one that cannot be read,
    which whoever loads it tells."""
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()
    return {name for name in named if isinstance(name, str)}


def base_digests(folder: Path) -> tuple[str, str]:
    """(config, weights): SHA-256 that tell a base model from another of equal shape, in well under a second.

    The weights' digest takes, of every weight file, its name, its size and 64 evenly spaced blocks of 64 KiB (files up to
    16 MiB whole): a different or a retrained model differs everywhere, so a sample shows it; single flipped bits are
    what the probe loss is for.
    """
    config = hashlib.sha256(json.dumps(read_model_config(folder), sort_keys=True).encode()).hexdigest()
    weights = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        weights.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            if size <= _WHOLE:
                weights.update(file.read())
                continue
            for index in range(_BLOCKS):
                file.seek((size - _BLOCK) * index // (_BLOCKS - 1))
                weights.update(file.read(_BLOCK))
    return config, weights.hexdigest()


def tokenizer_files_digest(folder: Path) -> str:
    """SHA-256 over the files of a model folder that tokenizer and chat template are made from, by name. Two tokenizers whose files
    differ may still be the same (`tokenizer_digest` decides); two with the same files are."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}):
        content = path.read_bytes()
        found.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()
