"""Calls of tools, in the form that a chat template takes them.

Rows hold the arguments of a call as an object (transformers' form) or as JSON text (OpenAI's). Most templates write an object as JSON
or go through its parts: text would be quoted a second time, or refused. Some put the text into their own and refuse an object
(DeepSeek's), or print it in Python's notation. No template says which it wants, so the calls of each row are written in both forms,
under names of their own and with arguments of these names, until they are there whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.data.turns import Messages

Function = dict[str, Any]


def as_taken(
    messages: Messages, turns: Sequence[int], attempt: Callable[[Messages], str | None]
) -> tuple[Messages, str | None]:
    """(`messages` with their calls as the template takes them, the name of a call that it does not write in any form).

    `turns`: those whose calls must be there; where none of them calls, those of all turns choose the form. `attempt`: a conversation
    as the template writes it, None where it refuses. One that refuses such names is believed; one that refuses the row in every form
    is left to refuse it as it stands.
    """
    calling = [index for index, message in enumerate(messages) if message.get("tool_calls")]
    if not calling:
        return messages, None
    next_best = None
    for form in _forms(messages):
        marked, names = _marked(form, [index for index in calling if index in turns] or calling)
        written = attempt(marked)
        if written is None:
            if attempt(form) is not None:
                return form, None
            continue
        missing = next((name for mark, name in names.items() if mark not in written), None)
        if missing is None and not any(_quoted(mark, written) for mark in names):
            return form, None
        next_best = next_best or (form, missing)
    return next_best or (messages, None)


def _forms(messages: Messages) -> Iterator[Messages]:
    """What a template may want, the commonest first."""
    for change in (_with_object, _with_text):
        yield [_changed(message, change) if message.get("tool_calls") else message for message in messages]


def _changed(message: dict[str, Any], change: Callable[[Function], Function]) -> dict[str, Any]:
    """`message` with its calls' functions changed; a call may be a function itself."""
    calls = [
        {**call, "function": change(call["function"])}
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
        else change(call) if isinstance(call, dict) and "function" not in call else call
        for call in message["tool_calls"]
    ]  # fmt: skip
    return {**message, "tool_calls": calls}


def _with_object(function: Function) -> Function:
    return {**function, "arguments": _parsed(function["arguments"])} if "arguments" in function else function


def _with_text(function: Function) -> Function:
    arguments = function.get("arguments")
    return {**function, "arguments": json.dumps(arguments, ensure_ascii=False)} if isinstance(arguments, dict) else function


def _parsed(arguments: Any) -> Any:
    """The object that `arguments` are as JSON text; what is no such text, or would be other text when it is written again, stays."""
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        found = json.loads(arguments, object_pairs_hook=_unique)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def _marked(messages: Messages, turns: Sequence[int]) -> tuple[Messages, dict[str, str]]:
    """(`messages` with each call of `turns` under a name of its own and with an argument of that name, the names they had)."""
    names: dict[str, str] = {}

    def mark(function: Function) -> Function:
        if not isinstance(function.get("name"), str):
            return function
        name = f"call_{len(names)}_of_lora_tui"
        names[name] = function["name"]
        arguments = function.get("arguments")
        if isinstance(known := _parsed(arguments), dict):
            known = {**known, name: name}
            arguments = json.dumps(known, ensure_ascii=False) if isinstance(arguments, str) else known
            return {**function, "name": name, "arguments": arguments}
        return {**function, "name": name}

    return [_changed(message, mark) if index in turns else message for index, message in enumerate(messages)], names


def _quoted(mark: str, written: str) -> bool:
    """Whether the argument `mark` stands there as no template means it: quoted twice, or in Python's notation."""
    return f'\\"{mark}\\"' in written or f"'{mark}': '" in written
