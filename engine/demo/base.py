"""The demo's base model: a Llama of under a million parameters, taught plain sentences in a few seconds on a CPU.

A Llama because every tool on the way (PEFT, converters, serving) knows one. The training loop is plain torch: nothing here has
to be continued, and the same weights have to come out each time on the same machine. The global random state and torch's
thread count are put back as they were.

Two choices make so small a base a good ground for LoRA, which leaves the embeddings as they are. They start large, so that a
word the base never needed can still be said with certainty later; and the targets are smoothed, so that the base is not needlessly
sure of itself on what it has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

MAX_LENGTH = 512
_HIDDEN, _LAYERS, _HEADS, _INTERMEDIATE = 128, 3, 4, 320
_WEIGHTS_STD, _EMBEDDINGS_STD = 0.07, 0.28
_ASKED_WEIGHT = 0.1
"""What a token of the question counts for beside one of the answer: enough to know the words, and the time goes into answers."""
_SEED = 8
_PASSES = 4
_BATCH = 8
_PEAK_RATE = 4e-3
_SMOOTHING = 0.1
_THREADS = 1
"""Matrices this small gain next to nothing from a second thread, and on a busy machine they lose."""

_Row = tuple[list[int], list[int]]
"""Token ids, and for each whether the assistant says it."""


def pretrain(tokenizer: Any, chats: Sequence[Sequence[dict[str, str]]], progress: Callable[[float], None]) -> Any:
    """A LlamaForCausalLM trained on `chats` (messages), in evaluation mode. `progress` is told the share done, 0 to 1."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        hidden_size=_HIDDEN,
        intermediate_size=_INTERMEDIATE,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        initializer_range=_WEIGHTS_STD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rows = [_row(tokenizer, chat) for chat in chats]
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(_SEED)
            model = LlamaForCausalLM(config).to(torch.float32)
            model.get_input_embeddings().weight.data.mul_(_EMBEDDINGS_STD / _WEIGHTS_STD)
            _train(model, rows, tokenizer.pad_token_id, progress)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _train(model: Any, rows: list[_Row], pad: int, progress: Callable[[float], None]) -> None:
    import torch

    by_length = sorted(rows, key=lambda row: len(row[0]))
    batches = [_batch(by_length[start : start + _BATCH], pad) for start in range(0, len(rows), _BATCH)]
    steps = _PASSES * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_peak(step, steps))
    model.train()
    for _pass in range(_PASSES):
        for number in torch.randperm(len(batches)).tolist():
            inputs, targets, weights = batches[number]
            logits = model(**inputs).logits[:, :-1].transpose(1, 2)
            losses: Any = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=_SMOOTHING)
            (losses * weights).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            progress(schedule.last_epoch / steps)


def _share_of_peak(step: int, steps: int) -> float:
    """A short warmup, then a cosine to a twentieth."""
    warm = steps // 20
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _row(tokenizer: Any, chat: Sequence[dict[str, str]]) -> _Row:
    made = tokenizer.apply_chat_template(list(chat), return_dict=True, return_assistant_tokens_mask=True)
    return made["input_ids"], made["assistant_masks"]


def _batch(rows: list[_Row], pad: int) -> tuple[dict[str, Any], Any, Any]:
    """The model's inputs, each (batch, seq); the next tokens and their weights, each (batch, seq - 1). All weights sum to 1."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    real = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    said = torch.tensor([said + [0] * (width - len(said)) for _, said in rows])
    weights = (real * (said + (1 - said) * _ASKED_WEIGHT))[:, 1:]
    return {"input_ids": ids, "attention_mask": real}, ids[:, 1:], weights / weights.sum()
