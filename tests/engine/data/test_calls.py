"""Calls of tools: learned as the template writes them, refused where it leaves them out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from engine.data.tokens import IGNORED, tokenize
from engine.errors import DatasetError
from tests.engine.data.families import CALLING, CHAT, FAMILIES, TEMPLATES, family, learned, sayings, tokenizer_of


def test_what_a_call_gave_back_is_never_learned_where_the_template_writes_it_into_the_turn() -> None:
    """Gemma 4's does, before the words of the turn that called."""
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / "gemma4_v5.jinja").read_text(encoding="utf-8"))
    chat = [CHAT[0], CALLING, {"role": "tool", "name": "lamp", "content": "burning"}, CHAT[3]]
    with pytest.raises(DatasetError, match="row 1: it cannot be told which of its tokens are the assistant's"):
        tokenize(enumerate([{"messages": chat}], 1), tokenizer, "auto", 1 << 20)
    chat[1] = {**CALLING, "content": ""}
    assert "burning" not in "".join(sayings(tokenizer, *learned(chat, tokenizer)))


WITH_MARKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("train_on", ["auto", "completion", "all"])
@pytest.mark.parametrize("template", [WITH_MARKS, re.sub(r"{% (end)?generation %}", "", WITH_MARKS)])
@pytest.mark.parametrize("row", [{"messages": [CHAT[0], CALLING]}, {"prompt": CHAT[:1], "completion": [CALLING]}])
def test_a_template_that_leaves_out_a_call_is_refused_whatever_says_what_is_trained_on(
    row: dict[str, Any], template: str, train_on: str
) -> None:
    """Also where the call's name stands among the words."""
    with pytest.raises(DatasetError, match="row 1: the model's chat template does not write the call of lamp"):
        tokenize(enumerate([row], 1), tokenizer_of(FAMILIES["qwen2_5"], template), train_on, 1 << 20)


def test_what_to_do_about_several_refused_rows_is_said_as_of_one() -> None:
    rows = [{"messages": [CHAT[0], CALLING]}] * 3
    with pytest.raises(DatasetError) as caught:
        tokenize(enumerate(rows, 1), tokenizer_of(FAMILIES["qwen2_5"], WITH_MARKS), "auto", 1 << 20)
    assert caught.value.fix == "Take a model that knows tools, or rows without tool_calls."


def test_a_call_that_the_template_writes_is_learned() -> None:
    tokenizer = family("qwen3")
    ids, trained = learned([CHAT[0], CALLING], tokenizer)
    assert '"name": "lamp"' in "".join(sayings(tokenizer, ids, trained))


WITH_CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls %}"
    "<call>{{ call.function.name }} ARGUMENTS</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ARGUMENTS = {
    "written as JSON": "{{ call.function.arguments | tojson }}",
    "gone through": "{% for key, value in call.function.arguments | items %}{{ key }}: {{ value }} {% endfor %}",
    "as it is where it is text": "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
    "{{ call.function.arguments | tojson }}{% endif %}",
    "printed": "{{ call.function.arguments }}",
    "put behind other text": "{{ 'with ' + call.function.arguments }}",
}


def called(template: str, arguments: Any, asked: str = "when?") -> str:
    """What is learned of one call with `arguments`, between its marks."""
    call = {"type": "function", "function": {"name": "lamp", "arguments": arguments}}
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], WITH_CALLS.replace("ARGUMENTS", template))
    (said,) = sayings(tokenizer, *learned(chat, tokenizer))
    return said.removeprefix("<call>lamp ").removesuffix("</call><|im_end|>").removeprefix("with ")


@pytest.mark.parametrize("arguments", [{"at": "昨夜"}, '{"at": "昨夜"}'])
@pytest.mark.parametrize("template", ARGUMENTS)
def test_arguments_are_learned_alike_as_an_object_and_as_json_text(template: str, arguments: Any) -> None:
    wanted = "at: 昨夜 " if template == "gone through" else '{"at": "昨夜"}'
    assert called(ARGUMENTS[template], arguments) == wanted


def test_a_call_in_pythons_notation_among_the_users_words_does_not_change_how_arguments_are_written() -> None:
    assert called(ARGUMENTS["written as JSON"], {"at": "six"}, asked="lamp {'at': 'six'}") == '{"at": "six"}'


def test_no_text_of_arguments_is_the_empty_object() -> None:
    assert called(ARGUMENTS["written as JSON"], "") == "{}"


@pytest.mark.parametrize(
    "text", ["at six", "[1]", '{"at": 1', '{"at": 1, "at": 2}', '{"at": NaN}', '{"at": 1e999}', '{"at": "\\ud83d"}']
)
def test_text_of_arguments_that_is_no_object_or_would_lose_something_stays(text: str) -> None:
    assert called(ARGUMENTS["printed"], text) == text
    assert json.loads(called(ARGUMENTS["written as JSON"], text)) == text


@pytest.mark.parametrize("name", ["qwen3_5_think", "glm4moe", "deepseekv3", "gptoss", "llama3_1", "lfm2_v2"])
def test_templates_that_models_ship_write_calls_from_rows_of_either_form(name: str) -> None:
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    for arguments in ({"at": "昨夜"}, '{"at": "昨夜"}'):
        call = {"type": "function", "function": {"name": "lamp", "arguments": arguments}}
        said = sayings(tokenizer, *learned([CHAT[0], {**CALLING, "content": "", "tool_calls": [call]}], tokenizer))
        assert "lamp" in said[0] and "昨夜" in said[0] and "\\" not in said[0]


@pytest.mark.parametrize("weights", [(0, None), (None, None)])
def test_a_call_that_the_template_leaves_out_of_a_turn_that_is_not_learned_is_no_fault(
    weights: tuple[int | None, ...],
) -> None:
    calling = {**CALLING, "weight": 0} if weights[0] == 0 else CALLING
    chat = [CHAT[0], calling, *CHAT[2:]]
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], re.sub(r"{% (end)?generation %}", "", WITH_MARKS))
    row = tokenize(enumerate([{"messages": chat}], 1), tokenizer, "auto" if weights[0] == 0 else "completion", 1 << 20).row(
        0
    )
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said == ["burns until morning, 直到天亮<|im_end|>"]
