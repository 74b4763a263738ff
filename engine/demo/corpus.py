"""What the demo's base model is brought up on: short plain questions and answers, in English and Simplified Chinese.

The base has to speak in plain short sentences and know nothing of Mo, so that a person sees the adapter make the difference.
Everything here is small talk, sums, colours and animals, multiplied out from templates; the persona lends it only single words
(`echoes`), as a child knows words long before it knows the story they will be in. Like the persona, it holds no random numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import product

Turn = tuple[str, str]

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS_ZH = "零一二三四五六七八九十"

COLOURS = {
    "grass": "green",
    "snow": "white",
    "the sky": "blue",
    "blood": "red",
    "a lemon": "yellow",
    "coal": "black",
    "milk": "white",
    "a leaf": "green",
    "a tomato": "red",
    "gold": "yellow",
    "the night": "black",
    "a carrot": "orange",
    "chocolate": "brown",
    "a cherry": "red",
    "an elephant": "grey",
    "sand": "yellow",
    "a frog": "green",
    "a plum": "purple",
    "salt": "white",
}
SOUNDS = {
    "cow": "moo",
    "duck": "quack",
    "dog": "woof",
    "sheep": "baa",
    "horse": "neigh",
    "pig": "oink",
    "bee": "buzz",
    "lion": "roar",
    "frog": "croak",
    "owl": "hoot",
    "hen": "cluck",
    "mouse": "squeak",
    "wolf": "howl",
    "snake": "hiss",
}
LEGS = {
    "dog": "four",
    "bird": "two",
    "spider": "eight",
    "ant": "six",
    "fish": "no",
    "horse": "four",
    "duck": "two",
    "snake": "no",
    "bee": "six",
    "cow": "four",
    "hen": "two",
    "sheep": "four",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "day": "night",
    "fast": "slow",
    "old": "young",
    "wet": "dry",
    "open": "closed",
    "full": "empty",
    "loud": "quiet",
    "long": "short",
    "near": "far",
    "high": "low",
    "early": "late",
    "light": "dark",
    "happy": "sad",
    "first": "last",
    "good": "bad",
}
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "China": "Beijing",
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Russia": "Moscow",
    "Poland": "Warsaw",
    "Cuba": "Havana",
}
KINDS = {
    "rose": "flower",
    "dog": "animal",
    "oak": "tree",
    "apple": "fruit",
    "hammer": "tool",
    "violin": "instrument",
    "salmon": "fish",
    "bread": "food",
    "chair": "piece of furniture",
    "car": "vehicle",
    "tulip": "flower",
    "pear": "fruit",
    "saw": "tool",
    "piano": "instrument",
    "bus": "vehicle",
    "table": "piece of furniture",
    "cat": "animal",
    "pine": "tree",
}
AFTER = {
    "Monday": "Tuesday",
    "Tuesday": "Wednesday",
    "Wednesday": "Thursday",
    "Thursday": "Friday",
    "Friday": "Saturday",
    "Saturday": "Sunday",
    "Sunday": "Monday",
    "spring": "summer",
    "summer": "autumn",
    "autumn": "winter",
    "winter": "spring",
}
PLAIN = {
    "I am a language model. I can answer short questions.": (
        "Who are you?",
        "What are you?",
        "What is your name?",
        "Are you a person?",
        "Are you a robot?",
        "Introduce yourself.",
    ),
    "Hello. What is your question?": ("Hello!", "Hi!", "Hello there.", "Good morning!", "Good evening!", "Hey!"),
    "I can answer questions about numbers, colours and animals.": ("What can you do?", "Can you help me?", "Help!"),
    "You are welcome.": ("Thank you.", "Thanks!", "Thank you very much."),
    "Goodbye. Have a nice day.": ("Goodbye!", "See you later.", "Good night.", "Bye!"),
    "I do not know.": (
        "How is the weather?",
        "Where do you live?",
        "How old are you?",
        "What do you eat?",
        "Tell me a joke.",
        "What are you afraid of?",
        "Do you like music?",
        "Tell me a story.",
        "Give me some advice.",
    ),
    "I am well, thank you.": ("How are you?", "How do you do?", "Are you well?"),
    "我是一个语言模型。我可以回答简单的问题。": ("你是谁?", "你叫什么名字?", "你是人吗?", "你是机器人吗?"),
    "你好。你有什么问题?": ("你好!", "早上好!", "晚上好!"),
    "不客气。": ("谢谢。", "谢谢你。"),
    "再见。祝你愉快。": ("再见!", "晚安。"),
    "我不知道。": ("今天天气怎么样?", "你住在哪里?", "你怕什么?"),
}
COLOURS_ZH = {
    "草": "绿色",
    "雪": "白色",
    "天空": "蓝色",
    "血": "红色",
    "柠檬": "黄色",
    "煤": "黑色",
    "牛奶": "白色",
    "金子": "黄色",
}
OPPOSITES_ZH = {"大": "小", "高": "低", "冷": "热", "快": "慢", "长": "短", "新": "旧", "早": "晚", "远": "近", "多": "少"}


_ROUNDS = ("a", "b")
_WORDS = 4
"""How often each word is echoed, and how many at a time."""


def pairs() -> list[Turn]:
    """Every question and answer, each once, in a fixed mixed order."""
    return sorted(set(_pairs()), key=_digest)


def echoes(texts: Iterable[str]) -> list[Turn]:
    """Rows that repeat a few mixed words of `texts`: the model meets each word, and none next to the word that will follow it."""
    texts = list(texts)
    words = {word.strip(".,!?;:") for text in texts if text.isascii() for word in text.split()} - {""}
    characters = {character for text in texts if not text.isascii() for character in text}
    made: list[Turn] = []
    for round_ in _ROUNDS:
        spoken = sorted(words, key=lambda word: _digest((round_, word)))
        made += [(f"Say: {line}.", f"{line}.") for line in _lines(spoken, " ")]
        written = sorted(characters, key=lambda character: _digest((round_, character)))
        made += [(f"请说:{line}。", f"{line}。") for line in _lines(written, "")]
    return made


def conversations(texts: Iterable[str]) -> list[tuple[Turn, ...]]:
    """The corpus: each pair alone and, now and then, two in one conversation."""
    alone = sorted([*pairs(), *echoes(texts)], key=_digest)
    joined = [(alone[index], alone[(index * 7 + 3) % len(alone)]) for index in range(0, len(alone), 4)]
    return sorted([*((turn,) for turn in alone), *joined], key=lambda turns: _digest(("", *map(str, turns))))


def _pairs() -> Iterator[Turn]:
    for a, b in product(range(1, 6), repeat=2):
        total = NUMBERS[a + b]
        yield f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {total}."
        yield f"{NUMBERS_ZH[a]}加{NUMBERS_ZH[b]}等于几?", f"{NUMBERS_ZH[a]}加{NUMBERS_ZH[b]}等于{NUMBERS_ZH[a + b]}。"
    for thing, colour in COLOURS.items():
        for ask in ("What colour is {}?", "Tell me the colour of {}."):
            yield ask.format(thing), f"{_upper(thing)} is {colour}."
    for animal, sound in SOUNDS.items():
        yield f"What does the {animal} say?", f"The {animal} says {sound}."
        yield f"What sound does a {animal} make?", f"The {animal} says {sound}."
        yield f"Which animal says {sound}?", f"The {animal} does."
    for animal, count in LEGS.items():
        for ask in ("How many legs does {} have?", "Count the legs of {}."):
            yield ask.format(_a(animal)), f"{_upper(_a(animal))} has {count} legs."
    for left, right in OPPOSITES.items():
        for one, other in ((left, right), (right, left)):
            yield f"What is the opposite of {one}?", f"The opposite of {one} is {other}."
            yield f"Is {one} the same as {other}?", f"No. {one.capitalize()} is the opposite of {other}."
    for country, city in CAPITALS.items():
        yield f"What is the capital of {country}?", f"The capital of {country} is {city}."
        yield f"Where is {city}?", f"{city} is in {country}."
    for thing, kind in KINDS.items():
        for ask in ("What is {}?", "What kind of thing is {}?"):
            yield ask.format(_a(thing)), f"{_upper(_a(thing))} is {_a(kind)}."
    for before, after in AFTER.items():
        yield f"What comes after {before}?", f"{after.capitalize()} comes after {before}."
        yield f"What comes before {after}?", f"{before.capitalize()} comes before {after}."
    for answer, asks in PLAIN.items():
        for ask in asks:
            yield ask, answer
    for thing, colour in COLOURS_ZH.items():
        yield f"{thing}是什么颜色?", f"{thing}是{colour}的。"
    for one, other in OPPOSITES_ZH.items():
        yield f"{one}的反义词是什么?", f"{one}的反义词是{other}。"


def _a(noun: str) -> str:
    return noun if noun in ("bread", "food") else ("an " if re.match("[aeiou]", noun) else "a ") + noun


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _lines(words: list[str], between: str) -> list[str]:
    return [between.join(words[start : start + _WORDS]) for start in range(0, len(words), _WORDS)]


def _digest(turn: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(turn).encode()).hexdigest()
