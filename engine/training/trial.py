"""How long an epoch takes on this machine: a few real steps of the real model, timed.

Steps cost as their tokens do, padding included, so three batches from the short, the middle and the long end of the rows are done
twice each (the first time pays for warming up), and the time for each padded token is taken to the whole epoch.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.config import RunConfig
from engine.data.order import row_order
from engine.data.token_table import TokenTable
from engine.hardware import Hardware, choose_hardware, free_memory, load_libraries
from engine.models.folder import model_folder
from engine.models.report import model_report
from engine.training.estimate import fit_batch
from engine.training.model import load_base


@dataclass(frozen=True)
class Trial:
    """What was measured."""

    batch_size: int
    seconds_per_epoch: float
    tokens_per_second: float
    """Padding not counted."""
    device: str


def measure_epoch(config: RunConfig, table: TokenTable) -> Trial:
    """Load the model with a fresh adapter and time it on rows of `table`. Raises ModelError, ConfigError."""
    load_libraries()
    import torch
    from peft import get_peft_model

    from engine.training.lora_kernel import choose_kernel, fuse
    from engine.training.loss import choose_logits
    from engine.training.peft_config import lora_config

    assert config.model is not None
    folder = model_folder(config.model)
    report = model_report(str(folder))
    hardware = choose_hardware(config, report)
    longest = int(table.lengths.max())
    fitted = fit_batch(report, config, hardware, len(table), longest, free_memory(hardware.device)[0], None)
    model = get_peft_model(load_base(folder, hardware, config), lora_config(config))
    model.to(hardware.device)
    model.train()
    if choose_kernel(config, hardware, {})[0]:
        fuse(model)
    at_labels = _as_it_trains(model, choose_logits(config, hardware, 0, 1)[0], fitted.checkpointing)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-6, fused=True)
    order = row_order(config.seed, 0, table.lengths)
    batches = [order[at : at + fitted.batch_size] for at in range(0, len(order), fitted.batch_size)]
    padded = [int(table.lengths[batch].max()) * len(batch) for batch in batches]
    by_size = np.argsort(padded)
    chosen = sorted({int(by_size[round(share * (len(batches) - 1))]) for share in (0.25, 0.5, 0.9)})
    seconds = sum(_timed(model, optimizer, table, batches[place], hardware, at_labels) for place in chosen)
    each = seconds / sum(padded[place] for place in chosen)
    epoch = each * sum(padded)
    return Trial(fitted.batch_size, epoch, float(table.lengths.sum()) / epoch, hardware.device)


def _as_it_trains(model: Any, at_labels: bool, checkpointing: bool) -> bool:
    """Set `model` up as a run would, whose time is asked for; whether its loss is computed at labels only."""
    from engine.training.loss import LossAtLabels

    if at_labels and (found := LossAtLabels(model.get_base_model())).differs() is not None:
        found.detach()
        at_labels = False
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return at_labels


def _timed(model: Any, optimizer: Any, table: TokenTable, batch: Any, hardware: Hardware, at_labels: bool) -> float:
    """Seconds of one optimizer step over the rows of `batch`, the second time it is done."""
    import torch

    device = hardware.device
    mixed = device == "cuda" and hardware.precision != "float32"  # as training_arguments says it to Trainer
    rows = [table.row(int(index)) for index in batch]
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows], device=device)
    labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row["labels"]) + [0] * (width - len(row["labels"])) for row in rows], device=device)
    elapsed = 0.0
    for _time in range(2):
        started = time.perf_counter()
        with torch.autocast(device, getattr(torch, hardware.precision)) if mixed else nullcontext():
            if at_labels:
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, label_loss=True)
            else:
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait_for(device)
        elapsed = time.perf_counter() - started
    return elapsed


def _wait_for(device: str) -> None:
    """Until a GPU has done what it was given: it works on while Python goes ahead."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
