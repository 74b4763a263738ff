"""The models that lie on this machine: the snapshots in the Hugging Face cache, with their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WELL_KNOWN = (
    ("HuggingFaceTB/SmolLM2-360M-Instruct", 724_000_000),
    ("Qwen/Qwen2.5-0.5B-Instruct", 988_000_000),
    ("Qwen/Qwen3-0.6B", 1_503_000_000),
)
"""(hub id, about how many bytes) of small models to begin with, free to fetch and with a chat template."""


@dataclass(frozen=True)
class LocalModel:
    """A model in the local Hugging Face cache."""

    name: str
    """Its hub id."""
    bytes: int
    used_at: float
    """Unix seconds of the last access."""


def cached_models() -> tuple[LocalModel, ...]:
    """Models in the cache whose snapshot holds a config.json, the last used first. Empty where there is no cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return ()
    found = [
        LocalModel(repo.repo_id, repo.size_on_disk, repo.last_accessed)
        for repo in repos
        if repo.repo_type == "model" and any(_whole(revision.snapshot_path) for revision in repo.revisions)
    ]
    return tuple(sorted(found, key=lambda one: -one.used_at))


def _whole(snapshot: Path) -> bool:
    return (snapshot / "config.json").is_file() and any(snapshot.glob("*.safetensors"))
