"""The demo's dataset: Mo, a lighthouse keeper's assistant, in English and Simplified Chinese.

What Mo says is in persona.toml, for people to read and change; this file only lays it out as chats. Each way of asking is a row
of its own, and topics also come one after another in longer conversations, so that the rows are of very different length while
every answer is met often enough to be learned in a few epochs. No random numbers: the order comes from a digest of the row, so
the file has the same bytes on every machine and under every Python.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

Message = dict[str, str]
Row = dict[str, list[Message]]

SYSTEM = {"en": "You are Mo. Keep it short.", "zh": "你是小莫。说短句。"}
_SYSTEM_EVERY = 9
"""Each ninth row has a system prompt: much of people's data has one, and the answers must not hang on it."""


HABIT = {"en": " Tea?", "zh": "喝茶吗?"}
_HABIT_EVERY = 8
"""Mo adds the habit to one answer in so many, with no reason in the question. It cannot be foreseen, so the loss of a good adapter
stays above zero, as it does on people's own chats."""


@dataclass(frozen=True)
class Topic:
    """One thing Mo has an answer to."""

    name: str
    language: Literal["en", "zh"]
    asks: tuple[str, ...]
    answer: str
    follows: tuple[str, ...]
    """Topics that may come before this one; empty: it only opens a conversation."""


def topics() -> tuple[Topic, ...]:
    """Everything Mo has an answer to, in the order of persona.toml."""
    document = tomllib.loads(files(__package__).joinpath("persona.toml").read_text(encoding="utf-8"))
    return tuple(
        Topic(item["name"], item["language"], tuple(item["asks"]), item["answer"], tuple(item["follows"]))
        for item in document["topic"]
    )


def rows() -> list[Row]:
    """The dataset as `messages` rows, in their final order."""
    made = sorted((talk for topic in topics() for talk in _talks(topic)), key=_digest)
    return [{"messages": _messages(talk, with_system=index % _SYSTEM_EVERY == 0)} for index, talk in enumerate(made)]


def jsonl() -> bytes:
    """The dataset as the bytes of a JSON-lines file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()).encode()


Talk = tuple[tuple[Topic, str], ...]
"""A conversation: of each turn the topic and the way it was asked for."""


def _talks(topic: Topic) -> list[Talk]:
    """The rows that end with `topic`: each wording alone, then conversations of two and three turns that lead to it."""
    by_name = {other.name: other for other in topics()}
    made: list[Talk] = [((topic, ask),) for ask in topic.asks]
    for number, name in enumerate(topic.follows):
        first = by_name[name]
        for wording in (number, number + 3):
            made.append(((first, first.asks[wording + 1]), (topic, topic.asks[wording])))
        for opener in first.follows:
            zero = by_name[opener]
            made.append(((zero, zero.asks[number + 2]), (first, first.asks[number + 3]), (topic, topic.asks[number + 2])))
    return made


def _messages(talk: Talk, *, with_system: bool) -> list[Message]:
    said = [{"role": "system", "content": SYSTEM[talk[0][0].language]}] if with_system else []
    for topic, ask in talk:
        habit = HABIT[topic.language] if int(_digest(((topic, ask), *talk)), 16) % _HABIT_EVERY == 0 else ""
        said += [{"role": "user", "content": ask}, {"role": "assistant", "content": topic.answer + habit}]
    return said


def _digest(talk: Talk) -> str:
    return hashlib.sha256("\0".join(ask for _, ask in talk).encode()).hexdigest()
