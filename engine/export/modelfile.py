"""What Ollama must know beside the weights: template, end marks, system prompt, context length. As data, and as a Modelfile.

Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.data.rendering import invited, writes_date
from engine.export.samples import Samples
from engine.export.source import ExportSource
from engine.export.turns import Messages, agrees, find_turns
from engine.models.report import ModelReport

LEAST_CONTEXT, MOST_CONTEXT = 4096, 32768
"""Ollama reserves the memory of num_ctx tokens; a base's 128k would not fit where the model does."""


@dataclass(frozen=True)
class Serving:
    """How an exported model is to be served."""

    template: str | None
    """In Go. None: the chat template cannot be said in it; Ollama then falls back on what it knows of the file."""
    stops: tuple[str, ...]
    system: str | None
    context: int | None
    conversations: int
    """How many contexts of real rows and of made ones the template was held against."""
    plain: bool = False
    """Whether the model has a chat template that it was not trained with, and is served without it therefore."""
    tools: bool = False
    """Whether it was trained with tools, which the template knows nothing of."""

    dated: bool = False
    """Whether the template holds the date of the export, where the chat template writes that of the day."""

    def modelfile(self, weights: str, adapter: str | None = None) -> str:
        """The text of a Modelfile beside the file `weights`."""
        lines = [f"FROM ./{weights}", *([f"ADAPTER ./{adapter}"] if adapter else [])]
        if self.plain:
            lines.append(
                "# Trained on plain text, without the model's chat template: what is asked is continued as it stands."
            )
        if self.tools and self.template is not None:
            lines.append("# Trained with tools. This template writes turns only: it offers no tools, and reads no calls.")
        if self.dated and self.template is not None:
            lines.append("# The model's chat template writes the date of the day. This one keeps that of the export.")
        if self.template is not None:
            lines.append(f"TEMPLATE {_quoted(self.template)}")
        if self.system:
            cannot = (
                "# The system prompt holds three quotes in a row, which a Modelfile cannot say: type it with /set system"
            )
            lines.append(cannot if '"""' in self.system else f"SYSTEM {_quoted(self.system)}")
        lines += [f"PARAMETER stop {_quoted(stop)}" for stop in self.stops]
        if self.context:
            lines.append(f"PARAMETER num_ctx {self.context}")
        return "\n".join([*lines, ""])

    def parameters(self) -> dict[str, Any]:
        """For Ollama's create."""
        return {**({"stop": list(self.stops)} if self.stops else {}), **({"num_ctx": self.context} if self.context else {})}


def serving(source: ExportSource, tokenizer: Any, samples: Samples, model: ModelReport, adds_bos: bool) -> Serving:
    """How the result of `source` is to be served. `adds_bos`: whether the exported file's tokenizer puts BOS in front by itself, so
    that a template must not."""
    wanted = min(max(LEAST_CONTEXT, source.config.max_length), MOST_CONTEXT)
    context = None if model.context is None else min(model.context, wanted)
    if samples.manner.plain or tokenizer.chat_template is None:
        # Ollama wraps a prompt by its template; this one continues it, as the model was trained.
        unused = tokenizer.chat_template is not None
        return Serving("{{ .Prompt }}", _ends(tokenizer, ""), None, context, 0, unused)
    bos = tokenizer.bos_token if adds_bos and tokenizer.bos_token else ""

    def render(messages: Messages) -> str:
        return invited(tokenizer, messages, thinks=samples.manner.thinks).removeprefix(bos)

    marks = [*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values())]
    turns = find_turns(render, marks)
    contexts = [context for row in samples.rows for context in _contexts(row.messages)]
    # Many templates strip contents, which Go cannot; what people type has no white space around it.
    if turns is None or not (agrees(turns, render, contexts) or agrees(turns, render, list(map(_stripped, contexts)))):
        return Serving(None, _ends(tokenizer, ""), samples.manner.system, context, 0)
    # Where the next turn's beginning ends an answer (Qwen 2.5, Llama 3.1), that is what stands behind it.
    ends, dated = _ends(tokenizer, turns.assistant.after + turns.user.before), writes_date(tokenizer)
    return Serving(
        turns.go_template(), ends, samples.manner.system, context, len(contexts), tools=samples.tools, dated=dated
    )


def _contexts(messages: Messages | None) -> list[Messages]:
    """The parts of a conversation that an answer was asked for."""
    if messages is None or any(message["role"] not in ("system", "user", "assistant") for message in messages):
        return []
    return [messages[: place + 1] for place, message in enumerate(messages) if message["role"] == "user"]


def _stripped(messages: Messages) -> Messages:
    return [{**message, "content": message["content"].strip()} for message in messages]


def _ends(tokenizer: Any, after_answer: str) -> tuple[str, ...]:
    marks: Sequence[str] = [
        *tokenizer.all_special_tokens,
        *(str(token) for token in tokenizer.added_tokens_decoder.values()),
    ]
    behind = [mark for mark in marks if mark and after_answer.startswith(mark)]
    return tuple(dict.fromkeys([*sorted(behind, key=len)[-1:], *([tokenizer.eos_token] if tokenizer.eos_token else [])]))


def _quoted(text: str) -> str:
    """A Modelfile string. It has no escapes: three quotes in `text` are for the caller to avoid."""
    return f'"""{text}"""'
