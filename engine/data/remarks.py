"""What is noticed of a row while it becomes tokens, in words.

It is kept with the cached tokens as a code and the numbers in it, and said anew in the language of whoever reads it.
"""

from __future__ import annotations

from typing import Any, Literal

from engine.data.problems import Problem
from engine.i18n import _


def remark(code: str, row: int, **parts: Any) -> Problem:
    """The problem `code` of `row`, said with `parts`, which must be what JSON can hold. Raises KeyError for a code
    or a part that is not known."""
    words, fix = _said(code)
    severity: Literal["costs", "info"] = "info" if code in ("template_unused", "date_written", "end_added") else "costs"
    return Problem(row, code, severity, words.format(row=row, **parts), fix, parts)


def _said(code: str) -> tuple[str, str]:
    """The sentence of `code` with its gaps, and the remedy."""
    match code:
        case "truncated":
            return (
                _("row {row} has {tokens} tokens and is cut to {limit}; {lost} of its {trained} trained tokens are lost"),
                _("Raise --max-length, or split the row."),
            )
        case "nothing_to_learn":
            return (
                _("row {row} has no token to learn from and is left out"),
                _("Its answer is empty, or of weight 0; mend or remove it."),
            )
        case "stop_not_trained":
            return (
                _("row {row}: no end mark is trained behind its answer, so the model does not learn to stop"),
                _(
                    "The chat template writes none, or it is no special token; take the model's instruct version or mend its "
                    "template."
                ),
            )
        case "end_added":
            return (
                _("row {row}: the model's chat template writes nothing behind an answer; {mark} is learned as its end"),
                _("Else the model would not learn to stop. To have another end, write it into the template."),
            )
        case "template_unused":
            return (
                _("row {row}: prompt and completion are joined as they stand; the model's chat template is not used"),
                _(
                    "Chat and the Modelfile leave it out too; other programs will use it. To train conversations: --columns "
                    "instruction=PROMPT,output=COMPLETION, with the names of your columns."
                ),
            )
        case "date_written":
            return (
                _(
                    "row {row}: the model's chat template writes today's date into it; made on another day its tokens are others"
                ),
                _(
                    "A run keeps its tokens in the cache; where that is emptied, it goes on with another date. To be sure, write a "
                    "date into the template in place of strftime_now."
                ),
            )
        case "system_dropped":
            return (
                _("row {row}: the model's chat template leaves out the system turn ({words})"),
                _("Put its words into the first user turn, or take a model that knows system turns."),
            )
        case "tools_dropped":
            return (
                _("row {row}: the model's chat template leaves out the tools ({names})"),
                _("The model learns these rows as if no tool were offered. Take a model or a template that knows tools."),
            )
        case "words_dropped":
            return (
                _("row {row}: the model's chat template leaves out words of the {role} ({words})"),
                _(
                    "Some write no words beside a call: give them a turn of their own. Those of models for pictures may know words "
                    "only in parts, as no row has them here: take a model for text."
                ),
            )
        case "thoughts_dropped":
            return (
                _(
                    "row {row}: the model's chat template leaves out what was thought before an answer ({words}); it is not learned"
                ),
                _(
                    "Many templates write the thoughts of the last answer only: give each answer a row of its own. Some read them "
                    "under one name only, reasoning_content or thinking; others know none."
                ),
            )
    raise KeyError(code)
