"""A base model of which each of several processes holds a part.

Both ways leave the adapter alone: it is put on afterwards, stays whole in every process and is kept the same by the trainer
(sft.py), so that checkpoints, digests and proofs are those of any run. What differs is who cuts the layers and brings them
together while they are computed:

- *fsdp2*: PyTorch's, as transformers loads models. Each process reads its part only; the model needs a plan of transformers.
- *deepspeed*: ZeRO-3's partitioning, without its engine and optimizer, which would shard the adapter too. Any model will do; rank 0
  reads all of it and sends the others their parts.

This module imports torch at its top: import it only where training starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch.distributed.fsdp import FSDPModule

from engine.errors import ModelError
from engine.i18n import _


@dataclass(frozen=True)
class Parts:
    """How the base model is cut. The processes must have met."""

    way: Literal["fsdp2", "deepspeed"]
    count: int
    """Processes, each of which holds one part."""

    @contextmanager
    def loading(self, model_config: Mapping[str, Any], precision: str) -> Iterator[dict[str, Any]]:
        """Inside, `from_pretrained` cuts the model up as it loads, given the options that this yields. `model_config`: config.json."""
        if self.way == "fsdp2":
            from transformers.distributed import DistributedConfig

            # The output layer by itself: in one group with the norm before it, it could only be called once for each call of the norm.
            apart = {} if model_config.get("tie_word_embeddings", True) else {"lm_head": "free_full_weight"}
            yield {"distributed_config": DistributedConfig(fsdp_size=self.count, fsdp_plan=apart)}
            return
        # Else its logger writes to standard output, which is this program's own.
        os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
        import deepspeed
        from transformers.integrations import HfDeepSpeedConfig

        deepspeed.init_distributed(verbose=False)
        # transformers asks whether one is alive, and must not while the adapter is put on: it is not ZeRO's.
        alive = HfDeepSpeedConfig(_zero3(precision))
        try:
            yield {}
        finally:
            del alive

    def finish(self, model: Any, precision: str) -> None:
        """Have the layers of the loaded `model` brought together while they are computed. Raises ModelError where none was cut."""
        if self.way == "fsdp2":
            _need_parts(model)
            head = model.get_output_embeddings()
            if isinstance(
                head, FSDPModule
            ):  # called once for each piece of the logits: whole until the backward pass is through it
                head.set_reshard_after_forward(False)
            return
        from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
        from deepspeed.utils.timer import NoopTimer

        # By default a billion parameters stay whole from one use to the next, which is all of a smaller model.
        at_once = {"max_reuse_distance": 0, "max_live_parameters": 0, "prefetch_bucket_size": 0}
        DeepSpeedZeRoOffload(
            model,
            timers=NoopTimer(),
            ds_config=_zero3(precision),
            overlap_comm=False,
            param_persistence_threshold=0,
            **at_once,
        )


def _zero3(precision: str) -> dict[str, Any]:
    """A DeepSpeed configuration that asks for nothing but parts. Its own linear function stands in for torch's in the whole process,
    since torch's keeps a view of each weight for the backward pass, and with it every layer whole."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # it must be there; no engine reads it
        "bf16": {"enabled": precision == "bfloat16"},
        "fp16": {"enabled": precision == "float16"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "memory_efficient_linear": True},
    }


def _need_parts(model: Any) -> None:
    if not any(
        isinstance(module, FSDPModule) for name, module in model.named_modules() if name.rpartition(".")[2].isdigit()
    ):
        raise ModelError(
            _("--parallel fsdp2: this model cannot be cut into parts"),
            _("transformers has no plan that fits its layers."),
            _("Use --parallel deepspeed, which needs none, or --parallel ddp."),
        )
