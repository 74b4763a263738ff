"""Where a turn of the assistant stands in a rendered conversation, for templates that do not say so.

The conversation up to the turn, with the generation prompt, ends where the turn begins; with the turn, where it ends. That is exact
wherever a template only appends. Many rewrite earlier turns (reasoning models drop old thoughts, others end the last turn with
another mark). There the turn is replaced by a marker: what stands before and behind the marker must stand in the real text too,
and what lies between is the turn. Where neither holds the row is refused: a mask that is wrong trains the model on the user's
words, and nothing later would show it.

Whether a mark behind the words ends this turn or opens the next is told by what stands there when the turn is the last one. A few
families (GLM-4) write nothing there: their models stop by opening the user's turn, and that mark is learned. Where a template has no
such mark either, the tokenizer's end token is learned, as behind plain text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from engine.data.rendering import Endless, rendered
from engine.errors import DatasetError, ModelError, first_line
from engine.i18n import _
from engine.models.templates import no_jinja

Span = tuple[int, int]
"""Characters from the first, included, to the second, excluded."""
Messages = Sequence[dict[str, Any]]

_MARKER = "\u27e6lora-tui\u27e7"
"""Stands for a turn's words; printable, so that no template strips it."""
_WORDS = "\u27e6words of lora-tui\u27e7"
"""Stands for those of another."""
_ASKED, _ANSWERED = {"role": "user", "content": _WORDS}, {"role": "assistant", "content": _MARKER}


@dataclass(frozen=True)
class Writer:
    """The tokenizer's chat template, at work on one row."""

    tokenizer: Any
    tools: Any
    number: int
    """The row, from 1, for messages."""

    @cached_property
    def template(self) -> str:
        """The template's source, of several the one that fits. Raises ModelError where the tokenizer has none."""
        if not self.tokenizer.chat_template:
            raise without_template()
        try:
            return str(self.tokenizer.get_chat_template(None, self.tools))
        except ValueError as error:
            raise ModelError(_("this model has several chat templates and none is the default"), first_line(error)) from None

    @cached_property
    def closing(self) -> tuple[str, bool]:
        """`closing_mark` of the template. Raises ModelError as `write`."""
        try:
            return closing_mark(self.tokenizer, self.template)
        except Endless as error:
            raise runaway(self.number, error) from None

    def write(self, turns: Messages, prompt: bool = False) -> str:
        """`turns` as the template writes them; `prompt`: with the header of the assistant's next turn. Raises DatasetError.

        Raises ModelError where the template takes too long or writes too much.
        """
        template = self.template
        try:
            return rendered(self.tokenizer, turns, prompt, self.tools, template)
        except Endless as error:
            raise runaway(self.number, error) from None
        except Exception as error:
            from jinja2 import TemplateSyntaxError  # which is imported by now, as it raised this

            if isinstance(error, TemplateSyntaxError):
                raise no_jinja(error) from None
            # A template may raise anything: jinja's errors, its own raise_exception, or a TypeError over an odd message.
            raise DatasetError(
                _("row {row}: the model's chat template refuses it").format(row=self.number),
                first_line(error),
                _("Often a system turn, or two turns of one side in a row, that this model does not know. Change the row."),
            ) from None

    def attempt(self, turns: Messages, prompt: bool = False) -> str | None:
        """As `write`; None where the template refuses: a part of a conversation need not be one."""
        try:
            return self.write(turns, prompt)
        except DatasetError:
            return None


def without_template() -> ModelError:
    """The error of conversations for a model that has no chat template."""
    return ModelError(
        _("this model's tokenizer has no chat template, and the dataset is conversations"),
        _("Without it nobody knows how turns are to be written for this model."),
        _("Take its instruct or chat version, or have turns written as plain text: --chat-template plain."),
    )


def runaway(number: int, endless: Endless) -> ModelError:
    """The error of a template without an end, with the row at which it was seen."""
    title = _("row {row}: the model's chat template does not come to an end").format(row=number)
    return ModelError(title, endless.detail, endless.fix)


def turn_span(messages: Messages, index: int, writer: Writer, text: str) -> Span:
    """Where turn `index` of the assistant stands in `text`, the whole conversation: its words and the mark that ends them.

    Raises DatasetError where it cannot be told.
    """
    head = writer.attempt(messages[:index], prompt=True)
    upto = text if index == len(messages) - 1 else writer.attempt(messages[: index + 1])
    if head and upto and text.startswith(upto) and upto.startswith(head):
        begin, end = len(head), max(len(head), _without_tail(upto, writer.tokenizer))
    else:
        begin, end = _by_marker(messages, index, writer, text)
        # What the generation prompt leaves to the model is the turn, its scaffolding before the words included.
        begin = len(head) if head and len(head) <= begin and text.startswith(head) else begin
    follows = messages[index + 1]["role"] if index + 1 < len(messages) else ""
    closing, opens = writer.closing
    if closing and text.startswith(closing, end):  # some write the end of every turn but the last
        end += len(closing)
    elif opens and follows in ("user", "tool") and (mark := _marks(writer.tokenizer)[0].match(text, end)):
        end = mark.end()
    return begin, end


def behind_answer(tokenizer: Any, template: str | None = None) -> str:
    """What stands behind an answer, its end mark first; empty where that cannot be told. Raises Endless."""
    return (_tail(tokenizer, template, [_ASKED, _ANSWERED]) or "") + closing_mark(tokenizer, template)[0]


@lru_cache(maxsize=4)
def closing_mark(tokenizer: Any, template: str | None = None) -> tuple[str, bool]:
    """(mark, opens): what ends an answer behind which the template writes nothing. Either the mark that then opens the user's turn
    (`opens`) and not the assistant's too, for that would end nothing, or else the tokenizer's end token. Empty where an answer has an
    end of its own. Raises Endless."""
    alone = _tail(tokenizer, template, [_ASKED, _ANSWERED])
    if alone is None or alone.strip():
        return "", False
    opening = _marks(tokenizer)[0]
    following = _tail(tokenizer, template, [_ASKED, _ANSWERED, _ASKED]) or ""
    header = _tail(tokenizer, template, [_ASKED, _ANSWERED, _ASKED, _ANSWERED], _WORDS) or ""
    user, assistant = opening.match(following.lstrip()), opening.match(header.lstrip())
    if user is not None and assistant is not None and user[0] != assistant[0]:
        return user[0], True
    return tokenizer.eos_token or "", False


def _tail(tokenizer: Any, template: str | None, turns: Messages, words: str = _MARKER) -> str | None:
    """What the template writes behind the last of `words` in `turns`; None where it refuses them. Raises Endless."""
    try:
        return rendered(tokenizer, turns, template=template).rpartition(words)[2]
    except Endless:
        raise
    except Exception:  # templates raise whatever they like
        return None


def unmaskable(number: int) -> DatasetError:
    """Row `number` cannot be masked with this template."""
    return DatasetError(
        _("row {row}: it cannot be told which of its tokens are the assistant's").format(row=number),
        _("The model's chat template changes earlier turns in a way that hides where they are."),
        _("Give rows with one answer each, or learn from everything with --train-on all."),
    )


def _by_marker(messages: Messages, index: int, writer: Writer, text: str) -> Span:
    words = {key: value for key, value in messages[index].items() if key != "tool_calls"} | {"content": _MARKER}
    other = writer.attempt([*messages[:index], words, *messages[index + 1 :]])
    if other is None or other.count(_MARKER) != 1:
        raise unmaskable(writer.number)
    before, behind = other.split(_MARKER)
    begin, end = len(before), len(text) - len(behind)
    if not text.startswith(before) or not text.endswith(behind) or end < begin or _takes_in(messages, index, writer):
        raise unmaskable(writer.number)
    last = writer.attempt([*messages[:index], words])
    own = last.split(_MARKER)[-1].lstrip() if last is not None else behind.lstrip()
    opening, _ends = _marks(writer.tokenizer)
    if opening.match(own) and (mark := opening.match(behind.lstrip())):
        end += len(behind) - len(behind.lstrip()) + mark.end()
    return begin, end


def _takes_in(messages: Messages, index: int, writer: Writer) -> bool:
    """Whether the template writes what the calls of turn `index` gave back before that turn's own words, as Gemma 4's does."""
    given = [place for place, message in enumerate(messages) if place > index and message["role"] == "tool"]
    if not messages[index].get("tool_calls") or not given:
        return False
    marked = [{**message, "content": _MARKER} if place in given else message for place, message in enumerate(messages)]
    words = [{**message, "content": _WORDS} if place == index else message for place, message in enumerate(marked)]
    text = writer.attempt(words)
    return text is not None and _WORDS in text and _MARKER in text[: text.index(_WORDS)]


def _without_tail(upto: str, tokenizer: Any) -> int:
    """Where a turn's last learned character ends: white space behind the end mark belongs to the template."""
    stripped = upto.rstrip()
    return len(stripped) if stripped.endswith(_marks(tokenizer)[1]) else len(upto)


@lru_cache(maxsize=4)
def _marks(tokenizer: Any) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """(pattern, texts) of the tokens that are marks rather than words. Not only the named special ones: many an end mark is
    merely added to the vocabulary."""
    added = (str(token.content) for token in tokenizer.added_tokens_decoder.values())
    texts = sorted({text for text in (*added, *tokenizer.all_special_tokens) if text.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)"), tuple(texts)
