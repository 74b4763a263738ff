"""What all processes of a run must have alike before the first step, for ranks.agree. Name -> value, both as a person reads them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from engine.config import flag
from engine.resume.plan import ResumePlan
from engine.training.material import Material

OF_A_NODE = ("node_rank",)
"""Settings that differ between the nodes of one run."""


def facts_of_plan(plan: ResumePlan) -> dict[str, str]:
    """Code, libraries, settings and where the run begins: known before the rows are."""
    settings = plan.config.model_dump(mode="json", exclude=set(OF_A_NODE))
    begins = f"{plan.mode} {plan.checkpoint.name if plan.checkpoint is not None else ''}".strip()
    return {
        **versions(),
        "code": _code(),
        **{flag(name): str(value) for name, value in settings.items()},
        "start": begins,
    }


def facts_of_material(material: Material) -> dict[str, str]:
    """Base model, tokenizer and rows, by their digests."""
    found = material.identities
    return {
        "model": f"{found.base_config[:12]} {found.base_weights[:12]}",
        "tokenizer": found.tokenizer[:12],
        "chat_template": found.chat_template[:12],
        "dataset": f"{len(material.train)} rows {found.dataset.ordered[:12]}",
    }


@cache
def versions() -> dict[str, str]:
    """The libraries whose change may change the numbers."""
    import platform
    from importlib.metadata import version

    import engine

    names = ("torch", "transformers", "peft", "trl", "accelerate")
    return {"lora-tui": engine.__version__, "python": platform.python_version(), **{name: version(name) for name in names}}


@cache
def _code() -> str:
    """Digest of this program's own engine: a version number may stand still while its code does not."""
    digest = hashlib.sha256()
    folders = [files("engine")]
    while folders:
        for entry in sorted(folders.pop().iterdir(), key=lambda one: one.name):
            if entry.is_dir():
                folders.append(entry)
            elif entry.name.endswith(".py"):
                digest.update(entry.name.encode() + entry.read_bytes())
    return digest.hexdigest()[:12]
