"""A chat template at work. It comes with a model and is foreign code: it runs in transformers' sandbox, and here within bounds.

Whoever renders one does it through this module: rows for training, samples of an export, a question of a chat, an ejected script.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from engine.data.normal import THOUGHT_BEGIN, THOUGHT_END, THOUGHTS
from engine.data.time_limit import TooLong, time_limit
from engine.errors import ModelError
from engine.i18n import _

SECONDS = 5.0
"""For one rendering; a conversation of a book's length takes a tenth of one."""
LONGEST = 64 << 20
"""Characters one rendering may give."""
_ANSWER = "\u27e6answer of lora-tui\u27e7"
"""Stands for an answer's words; printable, so that no template strips it."""
_THOUGHTFUL = (
    {"content": _ANSWER, **dict.fromkeys(THOUGHTS, "so")},
    {"content": f"{THOUGHT_BEGIN}\nso\n{THOUGHT_END}\n\n{_ANSWER}"},
)
"""Answers after a thought, kept apart and written into them."""
_RENDERING = threading.Lock()
"""transformers keeps one compiled template with its marks for all threads ("AssistantTracker should not be reused"): the wizard's
preview of one model and the run of another must take turns."""


class Endless(ModelError):
    """A template that takes too long or writes too much."""

    def __init__(self, what: str) -> None:
        super().__init__(
            _("the model's chat template does not come to an end"),
            what,
            _("Do not use this template: take the model from another source, or mend its chat_template.jinja."),
        )


def rendered(
    tokenizer: Any, turns: Sequence[dict[str, Any]], prompt: bool = False, tools: Any = None, template: str | None = None
) -> str:
    """`turns` as the tokenizer's chat template writes them, or as `template` does; `prompt`: with the header of the assistant's next
    turn. Raises Endless, and whatever the template raises."""
    with bounded():
        text = str(
            tokenizer.apply_chat_template(
                list(turns), tools=tools, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
        )
    if len(text) > LONGEST:
        raise Endless(_("It wrote {count} characters.").format(count=len(text)))
    return text


def invited(tokenizer: Any, turns: Sequence[dict[str, Any]], tools: Any = None, thinks: bool = False) -> str:
    """`turns` with the header of the assistant's next turn, as answers were trained behind it: a template may invite a thought
    (<think>) there that it writes before no answer, or another one. `thinks`: whether rows had thoughts. Raises as `rendered`."""
    prompt = rendered(tokenizer, turns, True, tools)
    for answer in (*(_THOUGHTFUL if thinks else ()), {"content": _ANSWER}):
        try:
            answered = rendered(tokenizer, [*turns, {"role": "assistant", **answer}], tools=tools)
        except Endless:
            raise
        except Exception:  # templates raise whatever they like
            answered = ""
        if answered.startswith(prompt):
            return prompt
    head, found, _behind = answered.partition(_ANSWER)
    return head if found else prompt


def writes_date(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template asks for the time, so that on another day it writes something else."""
    return "strftime_now" in str(tokenizer.chat_template or "")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """One rendering, in its turn and within its time. Raises Endless. Not nested."""
    try:
        with _RENDERING, time_limit(SECONDS):
            yield
    except TooLong:
        raise Endless(_("It ran for more than {limit:g} s.").format(limit=SECONDS)) from None
