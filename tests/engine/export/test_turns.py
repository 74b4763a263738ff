"""Chat templates said again in Go: found by rendering, and the same text comes out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engine.export.turns import Messages, agrees, find_turns

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
THINKING = (  # as Qwen3: past answers without an empty thought, the last one with it
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA3 = (  # a system turn opens the user's
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '') + m.content }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LAST_ONLY = (  # as Mistral 7B v0.3: the system turn goes into the last question, which no range over turns can say
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (first if loop.last else '') + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}"
    "{% endfor %}"
)
QUOTES = CHATML.replace("<|im_end|>", '\\"\\"\\"{{')
COUNTS = "{% for m in messages %}{{ loop.index ~ m.content }}{% endfor %}"
TRIMS = CHATML.replace("m.content", "m.content.strip()")

KNOWN = {"chatml": CHATML, "default system": DEFAULT_SYSTEM, "llama 3": LLAMA3, "gemma": GEMMA, "gemma 3": GEMMA3, "mistral": MISTRAL,
         "last only": LAST_ONLY, "thinking": THINKING, "quotes": QUOTES}  # fmt: skip
MARKS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]
LONG = [("system", "be\nbrief"), ("user", "a"), ("assistant", "b"), ("user", "c {{ .Content }}")]


def renderer(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment().from_string(template)

    def render(messages: Messages) -> str:
        return str(made.render(messages=messages, add_generation_prompt=True, bos_token="<s>", raise_exception=refuse))

    return render


def go(template: str, messages: Messages) -> str:
    """The few words of Go's text/template that are used, read on their own: https://pkg.go.dev/text/template."""
    tokens = re.split(r"(\{\{.*?\}\}(?!\"))", template)
    system = next((m["content"] for m in messages if m["role"] == "system"), "")
    variables: dict[str, bool] = {}

    def run(place: int, message: dict[str, Any], write: bool, out: list[str]) -> int:
        """Until this block's end or else; the place of that."""
        while place < len(tokens):
            token = tokens[place]
            word = token[2:-2].strip() if token.startswith("{{") else None
            if word is None:
                out += [token] if write else []
            elif word.startswith('"'):
                out += [word[1:-1].replace('\\"', '"')] if write else []
            elif word == ".Content":
                out += [message["content"]] if write else []
            elif assigned := re.fullmatch(r"(\$\w+) (:?)= (true|false)", word):
                assert assigned[2] or assigned[1] in variables  # := declares, = sets what is declared
                if write:
                    variables[assigned[1]] = assigned[3] == "true"
            elif word == "range .Messages":
                for each in messages:
                    end = run(place + 1, each, write, out)
                place = end
            elif word.startswith(("if ", "else if ")) and not word.startswith("else"):
                place = branches(place, message, write, out)
            else:
                assert word == "end" or word.startswith("else"), word
                return place
            place += 1
        return place

    def holds(word: str, message: dict[str, Any]) -> bool:
        if word.endswith("not .System"):
            return not system
        if negated := re.fullmatch(r"if not (\$\w+)", word):
            return not variables[negated[1]]
        found = re.fullmatch(r'(else )?if eq \.Role "(\w+)"', word)
        assert found, word
        return bool(message["role"] == found[2])

    def branches(place: int, message: dict[str, Any], write: bool, out: list[str]) -> int:
        taken = False
        while (word := tokens[place][2:-2].strip()) != "end":
            now = not taken and holds(word, message)
            taken = taken or now
            place = run(place + 1, message, write and now, out)
        return place

    out: list[str] = []
    run(0, {}, True, out)
    return "".join(out)


@pytest.mark.parametrize("name", KNOWN)
def test_the_go_template_writes_what_the_chat_template_writes(name: str) -> None:
    render = renderer(KNOWN[name])
    turns = find_turns(render, MARKS)
    assert turns is not None
    messages = [{"role": role, "content": text} for role, text in LONG]
    for conversation in (messages[1:2], messages[1:], *([messages[:2], messages] if turns.system else [])):
        assert go(turns.go_template(), conversation) == turns.render(conversation) == render(conversation)
    assert (turns.system is None) == (name in ("gemma", "mistral", "last only"))


def test_what_ends_an_answer_is_found_whole() -> None:
    turns = find_turns(renderer(MISTRAL), MARKS)
    assert turns is not None and turns.assistant.after == "</s>" and turns.start == "<s>"


def test_a_template_that_does_more_is_told_and_not_imitated() -> None:
    assert find_turns(renderer(COUNTS), MARKS) is None
    turns = find_turns(renderer(TRIMS), MARKS)
    assert turns is not None
    spaced: Messages = [{"role": "user", "content": " a "}]
    assert not agrees(turns, renderer(TRIMS), [spaced])


def test_what_the_template_refuses_nobody_agrees_on() -> None:
    refuses = renderer(GEMMA)
    turns = find_turns(refuses, MARKS)
    assert turns is not None
    assert agrees(turns, refuses, [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]]) is False
