"""Which characters of a row the model should learn to say.

A chat template writes headers, turns and end marks; only the assistant's words and the mark that ends them are to be learned. Where a
template says so itself ({% generation %}), it is believed. Most do not. Then each assistant turn is found by rendering: the
conversation up to the turn, with the generation prompt, ends where the turn begins; with the turn, where it ends. That is
exact wherever a template only appends. Templates that rewrite earlier turns (reasoning models drop old thoughts) break it; there
the turn's content is replaced by a marker and looked for. What can be found neither way is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import DatasetError, ModelError
from engine.i18n import _

Span = tuple[int, int]
"""Characters from the first, included, to the second, excluded."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKER = "\u27e6lora-tui\u27e7"
"""Stands for a turn's content; printable, so that no template strips it."""


@dataclass(frozen=True)
class Rendered:
    """A row as text, with the spans that are trained on."""

    text: str
    spans: tuple[Span, ...]
    add_special_tokens: bool
    """Whether the tokenizer adds its own (BOS): to plain texts yes, to templates no, they write theirs themselves."""


def render(row: dict[str, Any], tokenizer: Any, train_on: str, number: int) -> Rendered:
    """`row` as text with its trained spans. Raises DatasetError naming row `number`, or ModelError without a template."""
    if "text" in row:
        _only("all", train_on, number)
        text = _ended(row["text"], tokenizer)
        return Rendered(text, ((0, len(text)),), True)
    if "messages" in row:
        return _chat(row["messages"], row.get("tools"), tokenizer, train_on, number)
    if isinstance(row["prompt"], str):
        _only("completion", train_on, number)
        text = _ended(row["prompt"] + row["completion"], tokenizer)
        return Rendered(text, ((0 if train_on == "all" else len(row["prompt"]), len(text)),), True)
    return _prompted(row, tokenizer, train_on, number)


def _only(own: str, train_on: str, number: int) -> None:
    if train_on not in ("auto", "all", own):
        raise DatasetError(
            _("row {row}: --train-on {train_on} does not fit this dataset").format(row=number, train_on=train_on),
            _("Its rows have no turns of an assistant.") if train_on == "assistant" else _("Its rows are plain text."),
            _("Use --train-on auto."),
        )


def _ended(text: str, tokenizer: Any) -> str:
    """`text` with the end token behind it, so that the model learns to stop."""
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _chat(messages: Sequence[dict[str, Any]], tools: Any, tokenizer: Any, train_on: str, number: int) -> Rendered:
    def write(turns: Sequence[dict[str, Any]], prompt: bool = False) -> str:
        return _templated(turns, tools, tokenizer, number, prompt)

    text = write(messages)
    if train_on == "all":
        return Rendered(text, ((0, len(text)),), False)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "completion":
        turns = turns[-1:]
    elif marked := _marked(messages, tools, tokenizer, text):
        return Rendered(text, marked, False)
    spans = []
    for index in turns:
        head, upto = write(messages[:index], True), write(messages[: index + 1])
        if text.startswith(upto) and upto.startswith(head):
            spans.append((len(head), _without_tail(upto, tokenizer)))
        else:
            spans.append(_by_marker(messages, index, write, text, tokenizer, number))
    return Rendered(text, tuple(spans), False)


def _prompted(row: dict[str, Any], tokenizer: Any, train_on: str, number: int) -> Rendered:
    """Prompt and completion as messages: all of the completion is learned, as TRL does."""
    _only("completion", train_on, number)
    turns, tools = [*row["prompt"], *row["completion"]], row.get("tools")
    text = _templated(turns, tools, tokenizer, number, False)
    if train_on == "all":
        return Rendered(text, ((0, len(text)),), False)
    head = _templated(row["prompt"], tools, tokenizer, number, row["prompt"][-1]["role"] != "assistant")
    if not text.startswith(head):
        raise _unmaskable(number)
    return Rendered(text, ((len(head), len(text)),), False)


def _templated(turns: Sequence[dict[str, Any]], tools: Any, tokenizer: Any, number: int, prompt: bool) -> str:
    if not turns:
        return ""
    if not tokenizer.chat_template:
        raise ModelError(
            _("this model's tokenizer has no chat template, and the dataset is conversations"),
            _("Without it nobody knows how turns are to be written for this model."),
            _("Take its instruct or chat version, or give prompt/completion or text rows."),
        )
    try:
        return str(tokenizer.apply_chat_template(list(turns), tools=tools, tokenize=False, add_generation_prompt=prompt))
    except Exception as error:
        # A template may raise anything: jinja's errors, its own raise_exception, or a TypeError over an odd message.
        raise DatasetError(
            _("row {row}: the model's chat template refuses it").format(row=number),
            str(error).splitlines()[0] if str(error) else type(error).__name__,
            _("Often a system turn, or two turns of one side in a row, that this model does not know. Change the row."),
        ) from None


def _marked(messages: Sequence[dict[str, Any]], tools: Any, tokenizer: Any, text: str) -> tuple[Span, ...]:
    """The spans that the template itself marks as generated; none where it marks nothing."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or not _GENERATION.search(template):
        return ()
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, spans = render_jinja_template(
        conversations=[list(messages)], tools=tools, chat_template=template, return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )  # fmt: skip
    return tuple((int(low), int(high)) for low, high in spans[0]) if rendered[0] == text else ()


def _without_tail(upto: str, tokenizer: Any) -> int:
    """Where a turn's last learned character ends: white space behind the end mark belongs to the template."""
    stripped = upto.rstrip()
    return len(stripped) if stripped.endswith(tuple(tokenizer.all_special_tokens)) else len(upto)


def _by_marker(messages: Sequence[dict[str, Any]], index: int, write: Any, text: str, tokenizer: Any, number: int) -> Span:
    """The span of one turn's content, found by what stays equal around a marker in its place; its end mark included."""
    changed = [*messages[:index], {**messages[index], "content": _MARKER}, *messages[index + 1 :]]
    other = write(changed)
    begin = other.find(_MARKER)
    behind = other[begin + len(_MARKER) :]
    if begin < 0 or other.count(_MARKER) != 1 or text[:begin] != other[:begin] or not text.endswith(behind):
        raise _unmaskable(number)
    end = len(text) - len(behind)
    if end < begin:
        raise _unmaskable(number)
    lead = behind[: len(behind) - len(behind.lstrip())]
    mark = next((token for token in sorted(tokenizer.all_special_tokens, key=len, reverse=True)
                 if behind.lstrip().startswith(token)), "")  # fmt: skip
    return begin, end + (len(lead) + len(mark) if mark else 0)


def _unmaskable(number: int) -> DatasetError:
    return DatasetError(
        _("row {row}: it cannot be told which of its tokens are the assistant's").format(row=number),
        _("The model's chat template changes earlier turns in a way that hides where they are."),
        _("Give rows with one answer each, or learn from everything with --train-on all."),
    )
