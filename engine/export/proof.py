"""Does the exported model behave as the trained one? A few rows through both, token by token and logit by logit.

The trained side is base and adapter in float32, in PEFT; the exported side is the GGUF file in llama.cpp, by llama-cpp-python. The
tokens must be the same, since a tokenizer that differs is the commonest way for an export to be wrong and still to talk. The logits
may differ by what the file's number format explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.tokens import IGNORED
from engine.export.samples import Sample

POSITIONS = 32
"""Trained positions of a row whose logits are held against each other; its loss takes them all."""
LOGITS_BAND = {"f32": 1e-2, "f16": 2e-2, "bf16": 8e-2, "q8_0": 0.25}
"""Largest difference of a logit, in units of the spread of that position's logits (their standard deviation). The demo's is 2e-6,
3e-3, 2e-2 and 1e-1; a small model rounds coarsely, since little averages out. Gemma's are 3e-3 in f32: llama.cpp looks its GELU up
in a table of half precision."""
LOSS_BAND = {"f32": 1e-4, "f16": 5e-3, "bf16": 2e-2, "q8_0": 3e-2}
"""Largest difference of the mean loss in nats a token, relative to a loss above 1. The demo's is 1e-7, 1e-4, 2e-3 and 1e-5."""
F32 = 0
"""GGML_TYPE_F32, for the cache of keys and values: its usual half precision would hide what the file itself loses."""
LOSSY = 0.5
"""The same for kinds of six bits and less: what they cost depends on the model, so it is told rather than judged; above this the
file is not the trained model any more."""


@dataclass(frozen=True)
class Expected:
    """What the trained model says to one row."""

    sample: Sample
    places: Sequence[int]
    """Positions whose logits are kept; each predicts the token behind it."""
    logits: Any
    """(places, vocabulary) float32 numpy array"""
    loss: float
    """Sum over the trained tokens, in nats."""
    trained: int


@dataclass(frozen=True)
class Proof:
    """What llama.cpp made of the file."""

    rows: int
    rows_of_same_tokens: int
    logits_differ: float
    """Largest difference, in standard deviations of the logits of its position."""
    loss_trained: float
    """Mean over the trained tokens of the rows, in nats."""
    loss_exported: float
    judged: bool
    """Whether the logits were held against a band. False: a kind of few bits, whose cost is told and left to a person."""
    proven: bool
    """The tokens are the same, and the rest is within what was asked."""

    @property
    def tokens_agree(self) -> bool:
        """Whether every row became the same tokens."""
        return self.rows_of_same_tokens == self.rows


def expect(model: Any, samples: Sequence[Sample]) -> list[Expected]:
    """What the trained `model` (PEFT, evaluation mode) says to each row."""
    import torch

    found = []
    with torch.no_grad():
        for sample in samples:
            logits = model(input_ids=torch.tensor([list(sample.input_ids)], device=model.device)).logits[0].float()
            places, loss, trained = _looked_at(sample), 0.0, 0
            for place in _trained(sample):
                loss -= float(torch.log_softmax(logits[place], 0)[sample.labels[place + 1]])
                trained += 1
            found.append(Expected(sample, places, logits[places].cpu().numpy(), loss, trained))
    return found


def prove(model: Path, expected: Sequence[Expected], kind: str, adapter: Path | None = None) -> Proof:
    """Run `model` (with `adapter`, a LoRA GGUF) over the rows. `kind`: its number format. Needs llama-cpp-python."""
    import numpy as np
    from llama_cpp import Llama

    longest = max(len(one.sample.input_ids) for one in expected)
    llama = Llama(str(model), lora_path=str(adapter) if adapter else None, n_ctx=max(longest + 1, 32), n_batch=longest + 1,
                  logits_all=True, n_gpu_layers=0, type_k=F32, type_v=F32, verbose=False)  # fmt: skip
    same = trained = 0
    differ = ours = theirs = 0.0
    for one in expected:
        sample = one.sample
        ids = llama.tokenize(sample.text.encode(), add_bos=sample.add_special_tokens, special=True)
        same += ids[: len(sample.input_ids)] == list(sample.input_ids)
        llama.reset()
        llama.eval(list(sample.input_ids))
        logits = np.array(llama.scores[: len(sample.input_ids)], dtype=np.float32)
        found = logits[list(one.places), : one.logits.shape[1]]
        differ = max(differ, float((np.abs(found - one.logits).max(1) / one.logits.std(1)).max()))
        for place in _trained(sample):
            row = logits[place].astype(np.float64)
            theirs += float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[sample.labels[place + 1]])
        ours, trained = ours + one.loss, trained + one.trained
    ours, theirs = ours / trained, theirs / trained
    lost = abs(theirs - ours) / max(1.0, ours)
    close = (differ <= LOGITS_BAND[kind] and lost <= LOSS_BAND[kind]) if kind in LOGITS_BAND else lost <= LOSSY
    return Proof(len(expected), same, differ, ours, theirs, kind in LOGITS_BAND, close and same == len(expected))


def _trained(sample: Sample) -> list[int]:
    return [place for place in range(len(sample.input_ids) - 1) if sample.labels[place + 1] != IGNORED]


def _looked_at(sample: Sample) -> list[int]:
    trained = _trained(sample)
    return (
        [trained[index * len(trained) // POSITIONS] for index in range(POSITIONS)] if len(trained) > POSITIONS else trained
    )
