"""One row as it stands in a dataset -> one of the three shapes: {"messages"}, {"prompt", "completion"} or {"text"}.

What a row holds beside its words (system, history, tools, weights, thoughts) becomes part of its turns. Each function is for one of
the formats that formats.py recognises, and raises Bad for a row that is not of it.
"""

from __future__ import annotations

import json
from collections.abc import Container
from itertools import cycle
from typing import Any

from engine.data.files import kind
from engine.i18n import _

Row = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool", "developer")
CALL = "tool_call"
"""ms-swift's role of a turn whose words are a call as JSON; calls one after another are those of one turn."""
SWIFT = {CALL: "assistant", "tool_response": "tool"}
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "function": "tool", "observation": "tool",
    "function_call": "assistant",
}  # fmt: skip
"""ShareGPT's `from`, in any case -> role."""
THOUGHTS = ("reasoning_content", "thinking")
"""What a turn thought before it spoke, by the names that templates read."""
THOUGHT_BEGIN, THOUGHT_END = "<think>", "</think>"
"""Around a thought that is written into the turn itself."""
EXCHANGES = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("query", "response"))
"""What a question and its answer are called where they stand in one part of a conversation."""
MASKS = ("training", "loss_weight", "loss_scale", "loss_mask", "mask")
"""Parts of a turn by which others say that it is not learned, or only so much; 1 or true is learned, but of a mask nobody knows."""
SYSTEM = ("system", "system_prompt")
"""Columns that hold the system turn of a conversation, the first that is there."""
NAMED = 8
"""Columns of a row that are told where the one that is read is not among them."""


class Bad(ValueError):
    """One row is not of its shape, or not to be learned as one of it; says what, and its kind for scripts."""

    def __init__(self, message: str, code: str = "wrong_type", fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix
        """What to do about all rows of which this is said, where they need not be mended one by one."""


def messages(row: Row, column: str) -> Row:
    """A conversation."""
    messages: list[Row] = []
    calling = False
    for number, turn in enumerate(_turns(row, column), 1):
        message = _message(turn, number)
        before, calling = calling, turn["role"] == CALL
        if before and calling and message.get("weight") == messages[-1].get("weight"):
            messages[-1]["tool_calls"] += message["tool_calls"]
        else:
            messages.append(message)
    return _conversation([*_system(row, messages), *messages], row)


def _conversation(messages: list[Row], row: Row) -> Row:
    if not any(message["role"] == "assistant" for message in messages):
        raise Bad(_("has no assistant turn, so there is nothing to learn"), "no_assistant_turn")
    return {"messages": messages, **_tools(row)}


def _tools(row: Row) -> Row:
    """{"tools"} where the row offers some; written as JSON text or as a list."""
    tools = _from_json(row.get("tools"), "tools")
    if not tools:
        return {}
    if not isinstance(tools, list):
        raise Bad(_('"tools" is {what}, not a list').format(what=kind(tools)))
    return {"tools": _plain([_whole_tool(tool) for tool in tools], "tools")}


def _from_json(value: Any, name: str) -> Any:
    """What stands in `value`, which tables hold as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise Bad(_('"{name}" is text that is not JSON').format(name=name)) from None


def _whole_tool(tool: Any) -> Any:
    """A tool as chat templates know it; LLaMA-Factory writes the function alone."""
    bare = isinstance(tool, dict) and "name" in tool and not {"type", "function"} & tool.keys()
    return {"type": "function", "function": tool} if bare else tool


def _plain(value: Any, name: str) -> Any:
    """`value`, refused where it is not what JSON can hold as whole text: it goes into templates and digests as it is."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise Bad(_('"{name}" holds something that is not plain JSON').format(name=name)) from None
    return value


def _message(turn: Any, number: int) -> Row:
    if not isinstance(turn, dict):
        raise Bad(_("turn {number} is {what}, not an object").format(number=number, what=kind(turn)))
    role = turn.get("role")
    if not isinstance(role, str):
        raise Bad(_('turn {number}: "role" is {what}, not text').format(number=number, what=kind(role)))
    said = role
    role = SWIFT.get(said, said.lower())
    if role not in ROLES:
        raise Bad(
            _('turn {number}: "role" is {role!r}; known are {roles}').format(
                number=number, role=said, roles=", ".join(ROLES)
            ),
            "unknown_role",
            _("Say --columns role=role: then a role may be called as other tools call it ({names}).").format(
                names=", ".join(name for name in SPEAKERS if name not in ROLES)
            )
            if role in SPEAKERS
            else "",
        )
    if turn.get("function_call"):
        raise Bad(
            _(
                'turn {number}: "function_call" is the older way to write a call; write "tool_calls": [{{"type": "function", '
                '"function": ...}}], "role": "tool" for what it gave back, and "tools" for the row\'s "functions"'
            ).format(number=number),
            "function_call",
        )
    message: Row = {"role": role, "content": _content(turn, number)}
    if said == CALL:
        called = _called(message["content"])
        if called is None:
            raise Bad(
                _('turn {number}: a "tool_call" is JSON with "name" and "arguments"').format(number=number), "tool_call"
            )
        message |= called
    if calls := _from_json(turn.get("tool_calls"), "tool_calls"):
        if not isinstance(calls, list):
            raise Bad(_('turn {number}: "tool_calls" is {what}, not a list').format(number=number, what=kind(calls)))
        message["tool_calls"] = _plain(calls, "tool_calls")
    for key in ("tool_call_id", "name", *THOUGHTS):
        if turn.get(key):
            message[key] = _plain(turn[key], key)
    return message | _weight(turn, role, number)


def _weight(turn: Row, role: str, number: int) -> Row:
    """{"weight": 0} of an answer that is not to be learned: OpenAI's word, where axolotl says "train" and ms-swift "loss"."""
    if role != "assistant":
        return {}
    for key in ("train", "loss"):
        if turn.get(key) is False:
            return {"weight": 0}
    if turn.get("train") not in (None, True):
        raise Bad(_('turn {number}: "train" is {what}, not true or false').format(number=number, what=kind(turn["train"])))
    if turn.get("train_detail"):
        raise Bad(_('turn {number}: "train_detail" says which of its words are learned, and a turn is learned whole').format(
            number=number))  # fmt: skip
    for key in MASKS:
        if turn.get(key) is not None and (key == "mask" or turn[key] != 1):
            raise Bad(
                _(
                    'turn {number}: "{name}" is {value!r} and is not read; where it says that the answer is not learned, write '
                    '"weight": 0 in its place, else take it out'
                ).format(number=number, name=key, value=turn[key])
            )
    weight = turn.get("weight")
    if weight is None or weight == 1:
        return {}
    if weight != 0:
        raise Bad(_('turn {number}: "weight" is {weight!r}; known are 0 (not learned) and 1').format(
            number=number, weight=weight))  # fmt: skip
    return {"weight": 0}


def _content(turn: Row, number: int) -> str:
    content = turn.get("content")
    if content is None and turn.get("tool_calls"):
        return ""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Bad(_('turn {number}: "content" has a part that is not text').format(number=number))
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise Bad(_('turn {number}: "content" is {what}, not text').format(number=number, what=kind(content)))
    return _whole(content)


def sharegpt(row: Row, column: str) -> Row:
    """ShareGPT's turns, `from` and `value`."""
    messages = []
    for number, turn in enumerate(_turns(row, column), 1):
        if not isinstance(turn, dict):
            raise Bad(_("turn {number} is {what}, not an object").format(number=number, what=kind(turn)))
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker.lower() not in SPEAKERS:
            raise Bad(_('turn {number}: "from" is {speaker!r}; known are {known}').format(
                number=number, speaker=speaker, known=", ".join(SPEAKERS)), "unknown_role")  # fmt: skip
        value = turn.get("value")
        if not isinstance(value, str):
            raise Bad(_('turn {number}: "value" is {what}, not text').format(number=number, what=kind(value)))
        role = SPEAKERS[speaker.lower()]
        said = _called(value) if speaker.lower() == "function_call" else None
        messages.append({"role": role, **(said or {"content": _whole(value)})} | _weight(turn, role, number))
    return _conversation([*_system(row, messages), *messages], row)


def _called(value: str) -> Row | None:
    """What a turn calls whose words are a call as JSON, or a list of them (LLaMA-Factory, ms-swift). None where they are not."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and "arguments" in one for one in calls
    ):
        return None
    functions = [{"name": one["name"], "arguments": one["arguments"]} for one in calls]
    return {
        "content": "",
        "tool_calls": _plain([{"type": "function", "function": one} for one in functions], "function_call"),
    }


def input_of(row: Container[str], output: str) -> str:
    """The column with what belongs to the instruction, which Dolly, who calls the output a response, calls the context."""
    return "context" if output == "response" and "input" not in row else "input"


def alpaca(row: Row, output: str) -> Row:
    """An instruction with its input, and its output."""
    column = input_of(row, output)
    extra = _text(row, column) if row.get(column) is not None else ""
    question = "\n\n".join(part for part in (_text(row, "instruction"), extra) if part.strip())
    if not question:
        raise Bad(_('"{name}" is empty').format(name="instruction"), "empty")
    thought = {name: _text(row, name) for name in THOUGHTS if isinstance(row.get(name), str) and row[name]}
    messages = [*_history(row), {"role": "user", "content": question},
                {"role": "assistant", "content": some_text(row, output), **thought}]  # fmt: skip
    return {"messages": [*_system(row, messages), *messages], **_tools(row)}


def _history(row: Row) -> list[Row]:
    """The turns before the instruction, which LLaMA-Factory's Alpaca keeps as pairs of question and answer."""
    pairs = row.get("history")
    if not isinstance(pairs, list):
        return []
    turns: list[Row] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(words, str) for words in pair):
            raise Bad(_('"history" holds {what}, not a pair of question and answer').format(what=kind(pair)))
        turns += [{"role": role, "content": _whole(words)} for role, words in zip(("user", "assistant"), pair, strict=True)]
    return turns


def _system(row: Row, messages: list[Row]) -> list[Row]:
    """The system turn that many keep in a column of its own; none where `messages` begin with the same one."""
    text = next((text for name in SYSTEM if isinstance(text := row.get(name), str) and text), None)
    if text is None:
        return []
    turn = {"role": "system", "content": _whole(text)}
    return [] if messages[:1] == [turn] else [turn]


def pair(row: Row, prompt: str, completion: str) -> Row:
    """A prompt and its completion, both text or both turns."""
    answer = row.get(completion)
    if isinstance(row.get(prompt), list) or (isinstance(answer, list) and any(isinstance(turn, dict) for turn in answer)):
        sides = {
            name: [_message(turn, number) for number, turn in enumerate(_list(row, name), 1)]
            for name in (prompt, completion)
        }
        if not any(message["role"] == "assistant" for message in sides[completion]):
            raise Bad(_('"{name}" has no assistant turn').format(name=completion), "no_assistant_turn")
        if any("weight" in message for message in sides[completion]):
            raise Bad(_('"{name}" has a turn of weight 0, and a completion is learned as a whole').format(name=completion))
        sides[prompt] = [*_system(row, sides[prompt]), *sides[prompt]]
        return {"prompt": sides[prompt], "completion": sides[completion], **_tools(row)}
    return {"prompt": _text(row, prompt), "completion": some_text(row, completion)}


def spoken(value: Any) -> Any:
    """The turns that a column of turns holds: also those written as JSON text, as pairs of question and answer (Capybara's,
    firefly's), as texts of the user and the assistant in turn (LIMA's), or each part of all turns in a list of its own (datasets'
    Sequence). Another value stays, for whoever says what is wrong."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        value = found if isinstance(found, list) else value
    if (
        isinstance(value, dict)
        and all(isinstance(part, list) for part in value.values())
        and len({*map(len, value.values())}) == 1
    ):
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        return value
    if len(value) > 1 and all(isinstance(turn, str) for turn in value):
        return [{"role": role, "content": words} for role, words in zip(cycle(("user", "assistant")), value, strict=False)]
    return [one for turn in value for one in _exchanged(turn)]


def _exchanged(turn: Any) -> list[Any]:
    if not isinstance(turn, dict) or "role" in turn or "from" in turn:
        return [turn]
    names = next((names for names in EXCHANGES if {*names} <= turn.keys()), None)
    if names is None:
        return [turn]
    return [{"role": role, "content": turn.get(name)} for role, name in zip(("user", "assistant"), names, strict=True)]


def _held(row: Row, column: str) -> Any:
    """What stands in a column. A row that has others, as one of another file in the folder may, is told with them."""
    if column not in row and row:
        columns = ", ".join([*row][:NAMED]) + (", ..." if len(row) > NAMED else "")
        raise Bad(_('has no "{name}"; its columns are {columns}').format(name=column, columns=columns))
    return row.get(column)


def _turns(row: Row, column: str) -> list[Any]:
    return _list({column: spoken(_held(row, column))}, column)


def _list(row: Row, column: str) -> list[Any]:
    found = row.get(column)
    if not isinstance(found, list):
        raise Bad(_('"{name}" is {what}, not a list of turns').format(name=column, what=kind(found)))
    if not found:
        raise Bad(_('"{name}" is empty').format(name=column), "empty")
    return found


def _text(row: Row, column: str) -> str:
    found = _held(row, column)
    if not isinstance(found, str):
        raise Bad(_('"{name}" is {what}, not text').format(name=column, what=kind(found)))
    return _whole(found)


def some_text(row: Row, column: str) -> str:
    """The text of a column, refused where it is empty."""
    found = _text(row, column)
    if not found.strip():
        raise Bad(_('"{name}" is empty').format(name=column), "empty")
    return found


def _whole(text: str) -> str:
    """`text`, refused where it holds half a character (a lone surrogate), which no tokenizer can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Bad(
            _("holds half a character (U+{code:04X}), a trace of damaged text").format(code=ord(text[error.start])),
            "damaged_text",
        ) from None
    return text
