"""Which characters of a row the model should learn to say.

A chat template writes headers, turns and end marks; only the assistant's words and the mark that ends them are to be learned. Where
a template says so itself ({% generation %}), it is believed. Most do not; then each assistant turn is found by rendering
(turns.py). Spans are of characters and not of tokens, so that chats, pairs and plain texts share one tokenisation, and what is
trained on is the text that the model will see, never pieces of it put together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engine.data.calls import as_taken
from engine.data.normal import THOUGHTS
from engine.data.rendering import Endless, bounded
from engine.data.turns import Messages, Span, Writer, runaway, turn_span, unmaskable
from engine.errors import ConfigError, DatasetError, ModelError
from engine.i18n import _

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A row as text, with the spans that are trained on."""

    text: str
    spans: tuple[Span, ...]
    """In order, none overlapping."""
    add_special_tokens: bool
    """Whether the tokenizer adds its own (BOS): to plain texts yes, to templates no, they write theirs themselves."""
    closing: str = ""
    """The mark that was put behind the last answer, where the template writes none."""


def render(row: dict[str, Any], tokenizer: Any, train_on: str, number: int) -> Rendered:
    """`row` as text with its trained spans. Raises DatasetError naming row `number`, ModelError without a template, or ConfigError
    where `train_on` does not fit rows of this kind."""
    if "text" in row:
        _only("all", train_on)
        text = _ended(begun(row["text"], tokenizer), tokenizer)
        return Rendered(text, ((0, len(text)),), True)
    if "messages" in row:
        return _chat(row["messages"], row.get("tools"), tokenizer, train_on, number)
    _only("completion", train_on)
    if isinstance(row["prompt"], str):
        prompt = begun(row["prompt"], tokenizer)
        text = _ended(prompt + row["completion"], tokenizer)
        return Rendered(text, ((0 if train_on == "all" else len(prompt), len(text)),), True)
    return _prompted(row, tokenizer, train_on, number)


def _only(own: str, train_on: str) -> None:
    if train_on not in ("auto", "all", own):
        raise ConfigError(
            _("--train-on {train_on} does not fit this dataset").format(train_on=train_on),
            _("Its rows are plain text.")
            if own == "all"
            else _("Its rows say what their completion is, and that is learned."),
            _("Use --train-on auto."),
        )


def begun(text: str, tokenizer: Any) -> str:
    """`text` without a begin token that is written out in it where the tokenizer puts one there: two would be one too many. One that
    adds none may call the mark of each turn its begin token, and then it belongs to the text."""
    if not tokenizer.bos_token or not text.startswith(tokenizer.bos_token):
        return text
    return text.removeprefix(tokenizer.bos_token) if begins_itself(tokenizer) else text


def begins_itself(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its begin token before every text by itself."""
    return list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]


def ends_itself(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its end token behind every text by itself: one too many where it is written out, and wrong behind
    what is to be continued."""
    return tokenizer.eos_token_id is not None and list(tokenizer("a")["input_ids"])[-1] == tokenizer.eos_token_id


def _ended(text: str, tokenizer: Any) -> str:
    """`text` with the end token behind it, so that the model learns to stop."""
    if not tokenizer.eos_token:
        raise ModelError(
            _("this model's tokenizer names no end token"),
            _("Without one a model that learns from plain text never learns to stop."),
            _("Name it in tokenizer_config.json as eos_token."),
        )
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _chat(messages: Messages, tools: Any, tokenizer: Any, train_on: str, number: int) -> Rendered:
    turns = learned_turns(messages, train_on)
    unlearned = any("weight" in message for message in messages)
    if unlearned:  # no word of the conversation, so none for the template
        messages = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    writer = Writer(tokenizer, tools, number)
    says_something = any(_says_something(messages[index]) for index in turns)
    messages = _with_calls(messages, turns, writer)
    text = writer.write(messages)
    if train_on == "all":
        return _closed(messages, writer, text, ((0, len(text)),))
    if not says_something:
        return Rendered(text, (), False)
    spans = _marked(messages, writer, text) if train_on != "completion" and not unlearned else ()
    if not spans:
        spans = tuple(turn_span(messages, index, writer, text) for index in turns)
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        raise unmaskable(number)
    return _closed(messages, writer, text, spans)


def learned_turns(messages: Messages, train_on: str) -> list[int]:
    """Which of `messages` are answers to learn from: the assistant's (`completion`: its last), but for those of weight 0."""
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "completion":
        turns = turns[-1:]
    return [index for index in turns if messages[index].get("weight") != 0]


def _says_something(message: dict[str, Any]) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls") or any(message.get(name) for name in THOUGHTS))


def _with_calls(messages: Messages, turns: Sequence[int], writer: Writer) -> Messages:
    """`messages` with their calls as the template takes them.

    Refuses a template that leaves out what one of `turns` calls: the model would learn to say nothing there.
    """
    taken, missing = as_taken(messages, turns, writer.attempt)
    if missing is not None and any(messages[index].get("tool_calls") for index in turns):
        raise DatasetError(
            _("row {row}: the model's chat template does not write the call of {name}").format(
                row=writer.number, name=missing
            ),
            _("This model knows no tool calls, so there would be nothing to learn in that turn."),
            _("Take a model that knows tools, or rows without tool_calls."),
        )
    return taken


def _prompted(row: dict[str, Any], tokenizer: Any, train_on: str, number: int) -> Rendered:
    """Prompt and completion as messages: all of the completion is learned, to the end of the text, as TRL does."""
    turns: Messages = [*row["prompt"], *row["completion"]]
    first = len(row["prompt"])
    writer = Writer(tokenizer, row.get("tools"), number)
    turns = _with_calls(turns, [index for index in range(first, len(turns)) if turns[index]["role"] == "assistant"], writer)
    text = writer.write(turns)
    if train_on == "all":
        return _closed(turns, writer, text, ((0, len(text)),))
    if turns[first]["role"] != "assistant":
        head = writer.write(turns[:first])
        if not text.startswith(head):
            raise unmaskable(number)
        return _closed(turns, writer, text, ((len(head), len(text)),))
    return _closed(turns, writer, text, ((turn_span(turns, first, writer, text)[0], len(text)),))


def _closed(messages: Messages, writer: Writer, text: str, spans: tuple[Span, ...]) -> Rendered:
    """The row, with the end that its last answer has where others follow, as text with its end token (`_ended`): none would be learned
    else. A call is ended by what a tool says, and another mark."""
    last = messages[-1]
    if last["role"] != "assistant" or last.get("tool_calls") or not spans or spans[-1][1] < len(text):
        return Rendered(text, spans, False)
    closing, _opens = writer.closing
    whole = text + closing
    return Rendered(whole, (*spans[:-1], (spans[-1][0], len(whole))), False, closing)


def _marked(messages: Messages, writer: Writer, text: str) -> tuple[Span, ...]:
    """The spans that the template itself marks as generated; none where it marks nothing."""
    template = writer.template
    if not _GENERATION.search(template):
        return ()
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        with bounded():
            written, spans = render_jinja_template(
                conversations=[list(messages)], tools=writer.tools, chat_template=template, return_assistant_tokens_mask=True,
                **writer.tokenizer.special_tokens_map,
            )  # fmt: skip
    except Endless as error:
        raise runaway(writer.number, error) from None
    return tuple((int(low), int(high)) for low, high in spans[0]) if written[0] == text else ()
