"""The mask of every template family that TRL knows, found by us in the model's own template, against TRL's masks of its patched one.

TRL keeps two versions of many templates: the one models ship, and a "training" one with {% generation %} markers. The plain one is
masked by rendering (engine/data/turns.py), the other by transformers. Two ways that share no line must find the same tokens.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.tokens import IGNORED, tokenize
from tests.engine.data.families import CHAT, CHATS, FAMILIES, TEMPLATES, family, kept, learned, sayings, tokenizer_of


def known(name: str, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """The same as TRL sees it, with its training template."""
    found = family(name, training=True).apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    return found["input_ids"], [bool(one) for one in found["assistant_masks"]]


# What TRL's markers take in although the template writes it, not the model: line breaks at the ends, DeepSeek's own header.
SCAFFOLDING = re.compile(r"^(<｜Assistant｜>|\n)|\n$")


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", FAMILIES)
def test_mask_is_the_one_of_trls_markers_without_the_templates_own_scaffolding(name: str, chat: str) -> None:
    if (name, chat) == ("gemma", "system"):
        pytest.skip("its template refuses a system turn")
    if name == "qwen3" and chat != "one turn":
        pytest.skip("TRL's training template writes another text there than the model's own")
    ids, trained = learned(CHATS[chat], family(name))
    wanted_ids, wanted = known(name, CHATS[chat])
    assert ids == wanted_ids
    tokenizer = family(name)
    said = sayings(tokenizer, wanted_ids, wanted)
    if name != "glm4moe":  # its header has no line break: the model writes it
        said = [SCAFFOLDING.sub("", words) for words in said]
    assert sayings(tokenizer, ids, trained) == said


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_is_learned_with_the_mark_that_ends_it_and_no_header(name: str) -> None:
    tokenizer = family(name)
    said = sayings(tokenizer, *learned(CHAT, tokenizer))
    ends = {"phi3": "<|end|>", "phi3_5": "<|end|>"}.get(name, FAMILIES[name][-1])
    for words, turn in zip(said, [CHAT[1], CHAT[3]], strict=True):
        assert turn["content"] + ends in words
        assert not re.search(r"assistant|user|model", words.split(turn["content"])[0])


def test_markers_of_the_template_itself_are_believed() -> None:
    for name in ("llama3", "qwen3_instruct_2507"):
        tokenizer = family(name, training=True)
        assert learned(CHAT, tokenizer) == known(name, CHAT)


def test_reasoning_is_learned_where_the_template_keeps_it_and_only_there() -> None:
    tokenizer = family("qwen3")
    thought = [{**turn, "reasoning_content": "hm"} if turn["role"] == "assistant" else turn for turn in CHAT]
    said = sayings(tokenizer, *learned(thought, tokenizer))
    assert said == ["It comes at night.<|im_end|>", "<think>\nhm\n</think>\n\nburns until morning, 直到天亮<|im_end|>"]


def test_completion_learns_only_the_last_answer() -> None:
    tokenizer = family("llama3")
    row = tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "completion", 1 << 20).row(0)
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said == ["burns until morning, 直到天亮<|eot_id|>"]


def test_all_learns_every_token_but_the_first_which_nothing_predicts() -> None:
    table = tokenize(enumerate([{"messages": CHAT}], 1), family("llama3"), "all", 1 << 20)
    assert int(table.trained[0]) == int(table.lengths[0]) - 1


@pytest.mark.parametrize("name", ["llama3", "llama3_training"])
@pytest.mark.parametrize("train_on", ["auto", "completion"])
def test_an_answer_of_weight_0_is_not_learned(name: str, train_on: str) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama3"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    chat = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    row = tokenize(enumerate([{"messages": chat}], 1), tokenizer, train_on, 1 << 20).row(0)
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert [words.strip() for words in said] == ["burns until morning, 直到天亮<|eot_id|>"]


def test_thoughts_are_learned_under_the_name_that_the_template_reads() -> None:
    marks = ["<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]
    tokenizer = tokenizer_of(marks, (TEMPLATES / "gptoss.jinja").read_text(encoding="utf-8"))
    said = sayings(tokenizer, *learned([CHAT[0], {**CHAT[1], "thinking": "by the tide"}], tokenizer))
    assert "by the tide" in "".join(said)


def test_the_same_words_twice_are_masked_each_in_its_place() -> None:
    tokenizer = family("qwen2_5")
    echo = [{"role": role, "content": "the lamp"} for role in ("user", "assistant", "user", "assistant")]
    _ids, trained = learned(echo, tokenizer)
    assert sayings(tokenizer, _ids, trained) == ["the lamp<|im_end|>"] * 2
    assert not any(trained[: trained.index(True)])


PIECES = st.text(st.sampled_from("abc é中\n"), min_size=1, max_size=12).filter(lambda words: words.strip() == words)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=3), st.sampled_from(["llama3", "gemma3", "qwen2_5", "phi3"]))
def test_any_words_are_learned_whole_and_nothing_of_the_user(turns: list[tuple[str, str]], name: str) -> None:
    tokenizer = kept(name)
    chat = [
        {"role": role, "content": words} for pair in turns for role, words in zip(("user", "assistant"), pair, strict=True)
    ]
    said = sayings(tokenizer, *learned(chat, tokenizer))
    assert [re.split(r"<", words)[0] for words in said] == [answer for _question, answer in turns]


def test_an_empty_answer_takes_nothing_from_the_others() -> None:
    tokenizer = family("qwen2_5")
    said = sayings(tokenizer, *learned([CHAT[0], {"role": "assistant", "content": " "}, *CHAT[2:]], tokenizer))
    assert said[-1] == "burns until morning, 直到天亮<|im_end|>"
