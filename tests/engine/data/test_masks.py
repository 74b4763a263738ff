"""The mask of every template family that TRL knows, found by us in the model's own template, against TRL's masks of its patched one.

TRL keeps two versions of many templates: the one models ship, and a "training" one with {% generation %} markers. The plain one is
masked by rendering (engine/data/turns.py), the other by transformers. Two ways that share no line must find the same tokens.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.tokens import IGNORED, tokenize
from engine.errors import DatasetError, ModelError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
FAMILIES = {
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2_5": ["<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "qwen3_instruct_2507": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<bos>", "<start_of_turn>", "<end_of_turn>"],
    "gemma3": ["<bos>", "<start_of_turn>", "<end_of_turn>"],
    "phi3": ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
    "phi3_5": ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
    "glm4moe": ["[gMASK]", "<sop>", "<|system|>", "<|assistant|>", "<|observation|>", "<|endoftext|>", "<|user|>"],
    "deepseekv3": ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"],
}
CHAT = [
    {"role": "user", "content": "when does the fog come"},
    {"role": "assistant", "content": "It comes at night."},
    {"role": "user", "content": "and the lamp"},
    {"role": "assistant", "content": "burns until morning, 直到天亮"},
]
CHATS = {"one turn": CHAT[:2], "two turns": CHAT, "system": [{"role": "system", "content": "Be brief."}, *CHAT]}


def tokenizer_of(marks: list[str], template: str) -> Any:
    """A byte-level tokenizer with `marks` as special tokens; the first ends nothing, the last ends a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["when does the fog come over the bay, it comes at night and the lamp burns until morning"],
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<pad>", *marks],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=marks[-1],
        pad_token="<pad>",
        bos_token=marks[0],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def family(name: str, training: bool = False) -> Any:
    template = (TEMPLATES / f"{name}{'_training' if training else ''}.jinja").read_text(encoding="utf-8")
    return tokenizer_of(FAMILIES[name], template)


def learned(messages: list[dict[str, Any]], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """(ids, trained) of one chat."""
    row = tokenize(enumerate([{"messages": messages}], 1), tokenizer, "auto", 1 << 20).row(0)
    return row["input_ids"], [label != IGNORED for label in row["labels"]]


def known(name: str, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """The same as TRL sees it, with its training template."""
    found = family(name, training=True).apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    return found["input_ids"], [bool(one) for one in found["assistant_masks"]]


def sayings(tokenizer: Any, ids: list[int], trained: list[bool]) -> list[str]:
    """The trained tokens, each span as text."""
    return [
        tokenizer.decode([number for number, _one in run])
        for wanted, run in groupby(zip(ids, trained, strict=True), key=itemgetter(1))
        if wanted
    ]


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


def test_a_system_turn_that_the_template_refuses_is_told_with_its_row() -> None:
    with pytest.raises(DatasetError, match="row 2: the model's chat template refuses it"):
        tokenize(enumerate([{"messages": CHAT}, {"messages": CHATS["system"]}], 1), family("gemma"), "auto", 1 << 20)


def test_a_template_that_drops_the_turn_is_refused_rather_than_masked_wrongly() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], "{{ messages | length }} turns")
    with pytest.raises(DatasetError, match="row 1: it cannot be told which of its tokens are the assistant's"):
        tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20)


@pytest.mark.parametrize("name", ["llama3", "llama3_training"])
@pytest.mark.parametrize("train_on", ["auto", "completion"])
def test_an_answer_of_weight_0_is_not_learned(name: str, train_on: str) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama3"], (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    chat = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    row = tokenize(enumerate([{"messages": chat}], 1), tokenizer, train_on, 1 << 20).row(0)
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert [words.strip() for words in said] == ["burns until morning, 直到天亮<|eot_id|>"]


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


def test_what_a_call_gave_back_is_never_learned_where_the_template_writes_it_into_the_turn() -> None:
    """Gemma 4's does, before the words of the turn that called."""
    tokenizer = tokenizer_of(["<bos>", "<|im_end|>"], (TEMPLATES / "gemma4_v5.jinja").read_text(encoding="utf-8"))
    chat = [CHAT[0], CALLING, {"role": "tool", "name": "lamp", "content": "burning"}, CHAT[3]]
    with pytest.raises(DatasetError, match="row 1: it cannot be told which of its tokens are the assistant's"):
        tokenize(enumerate([{"messages": chat}], 1), tokenizer, "auto", 1 << 20)
    chat[1] = {**CALLING, "content": ""}
    assert "burning" not in "".join(sayings(tokenizer, *learned(chat, tokenizer)))


def test_thoughts_are_learned_under_the_name_that_the_template_reads() -> None:
    marks = ["<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]
    tokenizer = tokenizer_of(marks, (TEMPLATES / "gptoss.jinja").read_text(encoding="utf-8"))
    said = sayings(tokenizer, *learned([CHAT[0], {**CHAT[1], "thinking": "by the tide"}], tokenizer))
    assert "by the tide" in "".join(said)


WITH_MARKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLING = {
    "role": "assistant",
    "content": "I look at the lamp.",
    "tool_calls": [{"function": {"name": "lamp", "arguments": {}}}],
}


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


def test_conversations_without_a_template_name_the_ways_on() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2_5"], "x")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20)


def test_the_same_words_twice_are_masked_each_in_its_place() -> None:
    tokenizer = family("qwen2_5")
    echo = [{"role": role, "content": "the lamp"} for role in ("user", "assistant", "user", "assistant")]
    _ids, trained = learned(echo, tokenizer)
    assert sayings(tokenizer, _ids, trained) == ["the lamp<|im_end|>"] * 2
    assert not any(trained[: trained.index(True)])


def test_a_pair_learns_its_completion_and_the_end_token() -> None:
    tokenizer = family("llama3")
    row = tokenize(enumerate([{"prompt": "when?", "completion": " at night"}], 1), tokenizer, "auto", 1 << 20).row(0)
    said = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said == [" at night<|eot_id|>"]


PIECES = st.text(st.sampled_from("abc é中\n"), min_size=1, max_size=12).filter(lambda words: words.strip() == words)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=3), st.sampled_from(["llama3", "gemma3", "qwen2_5", "phi3"]))
def test_any_words_are_learned_whole_and_nothing_of_the_user(turns: list[tuple[str, str]], name: str) -> None:
    tokenizer = TOKENIZERS.setdefault(name, family(name))
    chat = [
        {"role": role, "content": words} for pair in turns for role, words in zip(("user", "assistant"), pair, strict=True)
    ]
    said = sayings(tokenizer, *learned(chat, tokenizer))
    assert [re.split(r"<", words)[0] for words in said] == [answer for _question, answer in turns]


TOKENIZERS: dict[str, Any] = {}


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.sampled_from(["auto", "all"]))
def test_a_row_that_is_cut_keeps_something_to_learn_or_is_left_out_and_told(limit: int, train_on: str) -> None:
    tokenizer = TOKENIZERS.setdefault("llama3", family("llama3"))
    rows = [{"messages": CHAT}, {"messages": CHATS["system"]}, {"text": "the lamp burns"}]
    rows.append({"messages": [CHAT[0], {"role": "assistant", "content": " "}]})
    try:
        table = tokenize(enumerate(rows, 1), tokenizer, train_on, limit)
    except DatasetError:
        return
    assert (table.trained > 0).all()
    assert (table.lengths <= limit).all()
    left_out = {problem.row for problem in table.problems if problem.code == "nothing_to_learn"}
    assert left_out == {1, 2, 3, 4} - set(table.source_row.tolist())


def test_a_begin_token_that_the_tokenizer_never_adds_belongs_to_the_text() -> None:
    """SmolLM2 calls the mark of each turn so."""
    tokenizer = tokenizer_of(["<|im_start|>", "<|im_end|>"], "")
    row = tokenize(enumerate([{"text": "<|im_start|>the lamp<|im_end|>"}], 1), tokenizer, "auto", 1 << 20).row(0)
    assert tokenizer.decode(row["input_ids"]) == "<|im_start|>the lamp<|im_end|>"


def begins_and_ends(marks: list[str]) -> Any:
    """A tokenizer that puts its begin token before every text by itself, and its end token behind."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizer_of(marks, "")
    special = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in (marks[0], marks[-1])]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{marks[0]} $A {marks[-1]}", special_tokens=special
    )
    return tokenizer


@pytest.mark.parametrize(
    "row",
    [{"text": "the lamp"}, {"text": "<s>the lamp</s>"}, {"prompt": "the", "completion": " lamp"},
     {"prompt": "<s>the", "completion": " lamp</s>"}],
)  # fmt: skip
@pytest.mark.parametrize("train_on", ["auto", "all"])
def test_a_text_begins_and_ends_once_whoever_writes_the_marks(row: dict[str, str], train_on: str) -> None:
    tokenizer = begins_and_ends(["<s>", "</s>"])
    made = tokenize(enumerate([row], 1), tokenizer, train_on, 1 << 20).row(0)
    assert tokenizer.decode(made["input_ids"]) == "<s>the lamp</s>"
    learned = sayings(tokenizer, made["input_ids"], [label != IGNORED for label in made["labels"]])
    assert learned == ["the lamp</s>" if "text" in row or train_on == "all" else " lamp</s>"]


def test_an_empty_answer_takes_nothing_from_the_others() -> None:
    tokenizer = family("qwen2_5")
    said = sayings(tokenizer, *learned([CHAT[0], {"role": "assistant", "content": " "}, *CHAT[2:]], tokenizer))
    assert said[-1] == "burns until morning, 直到天亮<|im_end|>"


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


@pytest.mark.parametrize("train_on", ["auto", "all"])
def test_a_completion_of_turns_is_learned_from_its_first_word_to_the_end(train_on: str) -> None:
    tokenizer = family("qwen2_5")
    row = tokenize(enumerate([{"prompt": CHAT[:1], "completion": CHAT[1:]}], 1), tokenizer, train_on, 1 << 20).row(0)
    (said,) = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said.startswith("It comes at night.<|im_end|>") == (train_on == "auto")
    assert said.rstrip().endswith("直到天亮<|im_end|>") and "when does" in tokenizer.decode(row["input_ids"])


def test_a_completion_that_begins_with_another_side_is_learned_with_it() -> None:
    tokenizer = family("qwen2_5")
    row = tokenize(enumerate([{"prompt": CHAT[:2], "completion": CHAT[2:]}], 1), tokenizer, "auto", 1 << 20).row(0)
    (said,) = sayings(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
    assert said.startswith("<|im_start|>user\nand the lamp") and said.rstrip().endswith("直到天亮<|im_end|>")


class Slow:
    """A tokenizer that cannot say where a token stands."""

    is_fast = False

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)

    def __call__(self, *texts: Any) -> Any:
        return self.fast(*texts)


@pytest.mark.parametrize(
    "row",
    [{"messages": CHAT}, {"prompt": "when?", "completion": " at night"}, {"text": "the lamp"}],
    ids=["chat", "pair", "text"],
)
@pytest.mark.parametrize("adds", [False, True])
def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_gives_the_same(row: dict[str, Any], adds: bool) -> None:
    fast = begins_and_ends(FAMILIES["qwen2_5"]) if adds else family("qwen2_5")
    fast.chat_template = family("qwen2_5").chat_template
    tables = [tokenize(enumerate([row], 1), tokenizer, "auto", 1 << 20).row(0) for tokenizer in (fast, Slow(fast))]
    assert tables[0]["input_ids"] == tables[1]["input_ids"]
    assert tables[0]["labels"][1:] == tables[1]["labels"][1:], "nothing predicts the first"


def test_a_row_that_is_cut_keeps_its_beginning_or_else_the_end_of_what_is_learned() -> None:
    tokenizer = family("llama3")
    full = tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20).row(0)
    first = next(at for at, label in enumerate(full["labels"]) if label != IGNORED)
    last = max(at for at, label in enumerate(full["labels"]) if label != IGNORED)
    for limit, begin in ((first + 1, 0), (first, last + 1 - first), (len(full["labels"]) - 1, 0)):
        table = tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", limit)
        assert table.row(0)["input_ids"] == full["input_ids"][begin : begin + limit]
        assert table.row(0)["labels"] == full["labels"][begin : begin + limit]
        assert (table.notes.counts["truncated"], table.lengths[0]) == (1, limit)


def test_a_row_as_long_as_may_be_is_not_cut() -> None:
    tokenizer = family("llama3")
    length = len(tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", 1 << 20).row(0)["labels"])
    assert "truncated" not in tokenize(enumerate([{"messages": CHAT}], 1), tokenizer, "auto", length).notes.counts
