"""The loss where labels are, and nowhere else.

A fine-tuned chat learns from its answers, often half of the tokens or less, yet a model's own forward computes a row of logits for
every one: at a vocabulary of 152,000 that is most of a step's time and memory. Here the model runs up to its last hidden states,
those that predict a trained token are picked, and only they go through the output layer, a bounded number of rows at a time.
A piece's gradient is computed while its logits are there, so nothing is computed twice and no more than one piece is ever alive.

What the output layer does (tied or biased weights, Granite's and Cohere's scales, Gemma's soft cap) is not rebuilt
from a list of names: the model's own forward is called with its backbone standing still on the hidden states that are there.
Before it is trusted it must give, for a few tokens, the logits the model gives by itself; one that does not is trained the stock way.

This module imports torch at its top: import it only where training starts.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from engine.config import RunConfig
from engine.data.tokens import IGNORED
from engine.hardware import Hardware
from engine.i18n import _
from engine.training.estimate import logit_rows

TRIED = 8
"""Tokens of the trial that a model must pass."""

Head = Callable[[torch.Tensor], torch.Tensor]
"""(rows, width) hidden states -> (rows, vocabulary) logits."""


class LossAtLabels:
    """A causal language model, called for its summed loss at labelled positions only.

    `model(label_loss=True, input_ids=..., labels=..., ...)`, through whatever wraps it, gives the sum over the trained tokens in
    nats; without that word the model's forward is what it was.
    """

    def __init__(self, causal: Any) -> None:
        """`causal`: the transformers model itself, without PEFT's wrapper around it (its layers may be PEFT's)."""
        self.causal, self.backbone, self.stock = causal, causal.base_model, causal.forward

        self.trained = self._trained()
        self.rows = logit_rows(
            int(causal.config.get_text_config().vocab_size), causal.get_input_embeddings().weight.device.type
        )
        """Of logits that may be alive at a time."""

        @functools.wraps(self.stock)  # generate() looks at the signature for what it may pass
        def forward(
            *args: Any, label_loss: bool = False, head_of: torch.Tensor | None = None, labels: Any = None, **options: Any
        ) -> Any:
            if head_of is not None:
                return self.head(head_of)
            if label_loss:
                return self.summed(labels, **options)
            return self.stock(*args, **options) if labels is None else self.stock(*args, labels=labels, **options)

        causal.forward = forward
        causal.at_labels = self

    def summed(self, labels: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """The loss summed over `labels` (batch, seq) that are not IGNORED; the label at i is predicted at i - 1, as always."""
        predicted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        at = (predicted != IGNORED).nonzero().flatten()  # asked once: a GPU is waited for until it has counted them
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        return summed_at(hidden.flatten(0, 1).index_select(0, at), predicted[at], self.head, self.rows, self.trained)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of hidden states (rows, width): the model's own forward from its backbone on."""
        with self._standing_still(hidden):
            logits: torch.Tensor = self.stock(use_cache=False).logits
        return logits[0]

    def differs(self) -> str | None:
        """Why the model is not one whose loss can be computed here; None where it passes the trial."""
        device = self.causal.get_input_embeddings().weight.device
        ids = torch.arange(TRIED, device=device)[None]
        seen: list[Any] = []
        was = self.causal.training
        hook = self.backbone.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        self.causal.eval()
        try:
            with torch.no_grad():
                wanted = self.causal(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
                hook.remove()
                self._standing = type(seen[-1])
                found = self.causal(head_of=seen[-1].last_hidden_state[0])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            return _("its output layer cannot be called by itself ({kind})").format(kind=type(error).__name__)
        finally:
            hook.remove()
            self.causal.train(was)
        close = found.shape == wanted.shape and torch.allclose(found.float(), wanted.float(), rtol=1e-3, atol=1e-4)
        return None if close else _("its output layer gives other numbers when called by itself")

    def detach(self) -> None:
        """Give the model its own forward back."""
        self.causal.forward = self.stock
        del self.causal.at_labels

    @contextlib.contextmanager
    def _standing_still(self, hidden: torch.Tensor) -> Iterator[None]:
        backbone = self.backbone
        own = backbone.__dict__.get("forward")
        backbone.forward = lambda *_args, **_options: self._standing(last_hidden_state=hidden[None])
        try:
            yield
        finally:
            if own is None:
                del backbone.forward
            else:
                backbone.forward = own

    def _trained(self) -> tuple[torch.nn.Parameter, ...]:
        """The trained parameters behind the hidden states: a copy of the output layer that is trained and saved whole."""
        inside = {id(parameter) for parameter in self.backbone.parameters()}
        beyond = [parameter for parameter in self.causal.parameters() if id(parameter) not in inside]
        found = {id(parameter): parameter for parameter in (*beyond, *self.causal.get_output_embeddings().parameters())}
        return tuple(parameter for parameter in found.values() if parameter.requires_grad)


def choose_logits(config: RunConfig, hardware: Hardware, trained: int, tokens: int) -> tuple[bool, str]:
    """Whether to compute logits at labels only, and the choice with its reason. `trained` of `tokens` of the dataset are labels."""
    if config.logits == "all":
        return False, _("all · as set")
    if hardware.precision == "float16":
        return False, _("all · float16 needs the loss scaled before its gradient is taken")
    return True, _("labels · the loss counts {share:.0%} of the tokens").format(share=trained / max(tokens, 1))


def total_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Summed loss, in nats, of `labels` (batch, seq) given `ids` (batch, seq), no gradient: at labels only where `model` can."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if isinstance(getattr(model.get_base_model(), "at_labels", None), LossAtLabels):
        return float(model(label_loss=True, labels=labels, **inputs))
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"))


def summed_at(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    rows: int,
    trained: tuple[torch.nn.Parameter, ...] = (),
) -> torch.Tensor:
    """Summed cross-entropy, in nats and float32, of `targets` (n,) given `hidden` (n, width), `rows` of logits at a time.

    `trained`: what `head` uses that needs a gradient. No targets give a zero that can still be differentiated.
    """
    loss: torch.Tensor = _AtLabels.apply(hidden, targets, head, rows, *trained)  # type: ignore[no-untyped-call]
    return loss


class _AtLabels(torch.autograd.Function):
    """Value and gradient piece by piece: softmax less the target, taken back through the head at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, rows: int, *trained: torch.Tensor
    ) -> torch.Tensor:
        sought = any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.zeros_like(hidden) if sought else None
        of_trained = [torch.zeros_like(parameter) for parameter in trained] if sought else []
        for begin in range(0, len(targets), rows):
            piece, labels = hidden[begin : begin + rows].detach().requires_grad_(sought), targets[begin : begin + rows, None]
            with torch.set_grad_enabled(sought):
                logits = head(piece)
            surely = torch.log_softmax(logits.detach().float(), dim=-1)
            total -= surely.gather(1, labels).sum()
            if of_hidden is not None:
                gradient = surely.exp_()
                gradient.scatter_add_(1, labels, gradient.new_full(labels.shape, -1.0))
                parts = torch.autograd.grad(logits, (piece, *trained), gradient.to(logits.dtype), allow_unused=True)
                of_hidden[begin : begin + rows] = parts[0]
                for whole, part in zip(of_trained, parts[1:], strict=True):
                    if part is not None:
                        whole += part
        ctx.save_for_backward(*(() if of_hidden is None else (of_hidden, *of_trained)))
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        of_hidden, *of_trained = ctx.saved_tensors
        return (
            of_hidden * scale.to(of_hidden.dtype),
            None,
            None,
            None,
            *(part * scale.to(part.dtype) for part in of_trained),
        )
