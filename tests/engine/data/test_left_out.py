"""What a chat template leaves out of a row, or refuses: told with the row, never masked wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from engine.data.tokens import tokenize
from engine.errors import DatasetError, ModelError
from tests.engine.data.families import CALLING, CHAT, CHATS, FAMILIES, TEMPLATES, family, tokenizer_of


def test_a_system_turn_that_the_template_refuses_is_told_with_its_row() -> None:
    with pytest.raises(DatasetError, match="row 2: the model's chat template refuses it"):
        tokenize(enumerate([{"messages": CHAT}, {"messages": CHATS["system"]}], 1), family("gemma"), "auto", 1 << 20)


def test_a_template_that_drops_the_turn_is_refused_rather_than_masked_wrongly() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], "{{ messages | length }} turns")
    with pytest.raises(DatasetError, match="row 1: it cannot be told which of its tokens are the assistant's"):
        tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20)


@pytest.mark.parametrize(("name", "told"), [("llama3", False), ("qwen2_5", True)])
def test_a_developers_turn_that_the_template_leaves_out_is_told(name: str, told: bool) -> None:
    chat = [{"role": "developer", "content": "Be brief."}, *CHAT]
    table = tokenize(enumerate([{"messages": chat}], 1), family(name), "auto", 1 << 20)
    assert ("system_dropped" in table.notes.counts) == told


@pytest.mark.parametrize(("name", "told"), [("qwen3", False), ("deepseek_r1_distill", True)])
def test_tools_that_the_template_leaves_out_are_told(name: str, told: bool) -> None:
    weather = {"type": "function", "function": {"name": "weather_at", "parameters": {"type": "object", "properties": {}}}}
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    table = tokenize(enumerate([{"messages": CHAT, "tools": [weather]}], 1), tokenizer, "auto", 1 << 20)
    assert ("tools_dropped" in table.notes.counts) == told


@pytest.mark.parametrize(("name", "told"), [("qwen3", False), ("qwen2_5", True)])
def test_thoughts_that_the_template_leaves_out_are_told(name: str, told: bool) -> None:
    chat = [CHAT[0], {**CHAT[1], "reasoning_content": "hm"}]
    table = tokenize(enumerate([{"messages": chat}], 1), family(name), "auto", 1 << 20)
    assert ("thoughts_dropped" in table.notes.counts) == told


@pytest.mark.parametrize(("name", "chat", "told"), [
    ("deepseek_r1_distill", CHAT[:2], True), ("qwen3", CHAT[:2], False), ("qwen3", CHAT, True), ("llama3", CHAT, False),
])  # fmt: skip
def test_thoughts_within_an_answer_that_the_template_leaves_out_are_told(
    name: str, chat: list[dict[str, Any]], told: bool
) -> None:
    """As in rows that were made with R1."""
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    thought = [{**turn, "content": f"<think>\nhm, {at}\n</think>\n\n{turn['content']}"} if turn["role"] == "assistant" else turn
               for at, turn in enumerate(chat)]  # fmt: skip
    table = tokenize(enumerate([{"messages": thought}], 1), tokenizer, "auto", 1 << 20)
    assert ("thoughts_dropped" in table.notes.counts, "words_dropped" in table.notes.counts) == (told, False)


@pytest.mark.parametrize(("name", "role"), [("llama3_1", "assistant"), ("smolvlm", "user"), ("qwen2_5", None)])
def test_words_of_a_turn_that_the_template_leaves_out_are_told(name: str, role: str | None) -> None:
    """Llama's beside a call, SmolVLM's wherever they are not in parts."""
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    chat = CHAT if name == "smolvlm" else [CHAT[0], {**CALLING, "content": " I look. "}]
    found = tokenize(enumerate([{"messages": chat}], 1), tokenizer, "auto", 1 << 20).problems
    assert [problem.parts["role"] for problem in found if problem.code == "words_dropped"] == ([role] if role else [])


def test_conversations_without_a_template_name_the_ways_on() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], "x")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20)
