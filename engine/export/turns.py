"""A chat template as what it writes around each turn, found by rendering it, so that it can be said in another language.

Ollama takes templates in Go. Which one belongs to a model is not told by the model's name: the chat template is asked, with marks for
contents, what it writes before and after each turn. What is found is then held against the template itself on conversations of
every shape and on rows of the dataset; a template that does more than write around turns is told, and no Go template is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Messages = Sequence[dict[str, Any]]
Render = Callable[[Messages], str]
"""The chat template, with the generation prompt. Raises what the template raises."""

_MARKS = {role: f"<<{role}>>" for role in ("system", "user", "assistant")}


@dataclass(frozen=True)
class Around:
    """What is written before and after a content."""

    before: str
    after: str


@dataclass(frozen=True)
class Turns:
    """What a template writes around turns."""

    start: str
    """Before everything."""
    user: Around
    assistant: Around
    system: Around | None
    """None: the template knows no system turn of its own."""
    unasked: str
    """What stands in place of a system turn where there is none: some templates have a default."""
    prompt: str
    """What invites the answer."""
    joined: bool = False
    """Whether the user's turn behind a system turn goes on in that one, as Gemma 3 and Llama 2 write it: nothing stands before it."""

    def render(self, messages: Messages) -> str:
        """As the template would, with the generation prompt."""
        written = [self.start]
        if not messages or messages[0]["role"] != "system":
            written.append(self.unasked)
        before = ""
        for message in messages:
            role = message["role"]
            around = getattr(self, role, None)
            if not isinstance(around, Around):
                raise ValueError(role)
            goes_on = self.joined and (before, role) == ("system", "user")
            written += ["" if goes_on else around.before, message["content"], around.after]
            before = role
        return "".join([*written, self.prompt])

    def go_template(self) -> str:
        """For Ollama's TEMPLATE (text/template of Go, with .Messages)."""
        parts = [_go(self.start)]
        if self.unasked:
            parts.append("{{ if not .System }}" + _go(self.unasked) + "{{ end }}")
        roles = [("user", self.user), ("assistant", self.assistant)] + ([("system", self.system)] if self.system else [])
        parts.append("{{ $joined := false }}{{ range .Messages }}" if self.joined else "{{ range .Messages }}")
        for number, (role, around) in enumerate(roles):
            word, before, after = "if" if number == 0 else "else if", _go(around.before), _go(around.after)
            if self.joined and role == "user":
                before = "{{ if not $joined }}" + before + "{{ end }}{{ $joined = false }}"
            elif self.joined and role == "system":
                after += "{{ $joined = true }}"
            parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
        return "".join([*parts, "{{ end }}{{ end }}", _go(self.prompt)])


def find_turns(render: Render, marks: Sequence[str] = ()) -> Turns | None:
    """What the template behind `render` writes around turns; `marks`, the special tokens, are not cut through. None where it is no
    template of that kind."""
    try:
        return _found(render, marks)
    except Exception:  # templates raise whatever they like
        return None


def agrees(turns: Turns, render: Render, conversations: Sequence[Messages]) -> bool:
    """Whether `turns` write each of `conversations` as the template does."""
    try:
        return all(turns.render(messages) == render(messages) for messages in conversations)
    except Exception:  # as above
        return False


def _found(render: Render, marks: Sequence[str]) -> Turns | None:
    user, assistant, system = (_turn(role) for role in ("user", "assistant", "system"))
    one, two = render([user]), render([user, assistant, user])
    head, _mark, tail = one.partition(_MARKS["user"])
    between_ua, between_au = two.split(_MARKS["user"])[1].split(_MARKS["assistant"])
    before_user = _common_start(head[::-1], between_au[::-1], [mark[::-1] for mark in marks])[::-1]
    start, after_assistant = head[: len(head) - len(before_user)], between_au[: len(between_au) - len(before_user)]
    # What follows a user's turn ends it and invites the answer. Where turns end alike, the seam is known; else it does not matter.
    ends_alike = after_assistant and tail.startswith(after_assistant) and between_ua.startswith(after_assistant)
    after_user = after_assistant if ends_alike else _common_start(tail, between_ua, marks)
    prompt, before_assistant = tail[len(after_user) :], between_ua[len(after_user) :]
    plain = Turns(start, Around(before_user, after_user), Around(before_assistant, after_assistant), None, "", prompt)
    shapes = [[user], [user, assistant, user], [user, assistant, user, assistant, user]]
    found = _with_system(plain, render, marks)
    if found is not None and agrees(found, render, [_spoken(one) for shape in shapes for one in (shape, [system, *shape])]):
        return found
    return plain if agrees(plain, render, [_spoken(shape) for shape in shapes]) else None


def _with_system(turns: Turns, render: Render, marks: Sequence[str]) -> Turns | None:
    """`turns`, with what is written around a system turn and in place of one; None where the template refuses or ignores it."""
    try:
        text = render([_turn("system"), _turn("user")])
        before, after = text.partition(_MARKS["user"])[0].split(_MARKS["system"])
    except Exception:  # many templates refuse a system turn
        return None
    joined = not after.endswith(turns.user.before)
    shared = _common_start(turns.start, before, marks)
    around = Around(before[len(shared) :], after if joined else after[: len(after) - len(turns.user.before)])
    return replace(turns, start=shared, unasked=turns.start[len(shared) :], system=around, joined=joined)


def _turn(role: str) -> dict[str, str]:
    return {"role": role, "content": _MARKS[role]}


def _spoken(shape: Messages) -> list[dict[str, str]]:
    """The same shape with contents that are all different."""
    return [{"role": turn["role"], "content": f"words {number}"} for number, turn in enumerate(shape)]


def _common_start(one: str, other: str, marks: Sequence[str]) -> str:
    """The longest start of both that ends within none of `marks`."""
    length = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    cut = [
        place
        for text in (one, other)
        for mark in marks
        for place in range(max(0, length - len(mark) + 1), length)
        if text.startswith(mark, place) and place + len(mark) > length
    ]
    return one[: min([length, *cut])]


def _go(text: str) -> str:
    """`text` as it stands in a Go template, and in a Modelfile's string, which three quotes would end."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')
