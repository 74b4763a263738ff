"""What Ollama is told of a run, held against how the run was trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.export.modelfile import Serving, serving
from engine.export.samples import MAX_TOKENS, Manner, Samples, take_samples
from engine.models.folder import load_tokenizer
from engine.models.templates import NAMED
from tests.conftest import chats, write_jsonl


def sampled(
    rows: list[dict[str, Any]], model: Path, tmp_path: Path, template: str | None = None
) -> tuple[Any, Any, Samples]:
    """(source, tokenizer, with `template` as its chat template where one is given; what is taken of `rows`)"""
    source: Any = SimpleNamespace(config=RunConfig(dataset=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = template or tokenizer.chat_template
    return source, tokenizer, take_samples(source, tokenizer)


def served(rows: list[dict[str, Any]], model: Path, tmp_path: Path, template: str | None = None) -> Serving:
    source, tokenizer, samples = sampled(rows, model, tmp_path, template)
    report: Any = SimpleNamespace(context=256)
    return serving(source, tokenizer, samples, report, False)


@pytest.mark.parametrize(
    "row", [{"prompt": "Question:", "completion": " answer"}, {"text": "Question: answer"}], ids=["pairs", "texts"]
)
def test_a_run_on_plain_text_is_served_without_the_chat_template_and_the_file_says_why(
    row: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    found = served([row] * 3, tiny_model, tmp_path)
    told = found.modelfile("model.gguf")
    assert 'TEMPLATE """{{ .Prompt }}"""\nPARAMETER stop """<|im_end|>"""\n' in told
    assert "# Trained on plain text" in told


def test_a_run_on_conversations_is_served_in_the_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    found = served(chats(3), tiny_model, tmp_path)
    assert found.template is not None and ".Messages" in found.template
    assert "plain text" not in found.modelfile("model.gguf")


def test_a_run_with_tools_says_that_its_template_has_none(tiny_model: Path, tmp_path: Path) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    found = served([row | {"tools": [weather]} for row in chats(3)], tiny_model, tmp_path)
    assert "it offers no tools" in found.modelfile("model.gguf")
    assert "tools" not in served(chats(3), tiny_model, tmp_path).modelfile("model.gguf")


def test_rows_too_long_to_be_looked_at_are_told_and_what_they_share_is_still_known(tiny_model: Path, tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    row = chats(1)[0]["messages"]
    long = {"messages": [system, {"role": "user", "content": "why " * MAX_TOKENS}, row[1]]}
    _source, _tokenizer, samples = sampled([long] * 2, tiny_model, tmp_path)
    assert (samples.of_dataset, samples.long, samples.manner.system) == (False, True, "Be brief.")


QWEN2_5 = (  # its default system prompt hides where a turn ends: the next turn's beginning and its end are found as one
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}{% for m in messages %}{% if m.role != 'system' %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (  # as DeepSeek-R1's distilled models: a thought is invited, and written before no answer of a row
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def test_what_ends_an_answer_stops_it_though_the_tokenizer_calls_another_mark_its_end(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As with a base model that was trained on conversations."""
    source, tokenizer, samples = sampled(chats(3), tiny_model, tmp_path, QWEN2_5)
    tokenizer.eos_token = "<|endoftext|>"
    report: Any = SimpleNamespace(context=256)
    assert serving(source, tokenizer, samples, report, False).stops == ("<|im_end|>", "<|endoftext|>")


def test_no_thought_is_invited_where_no_row_has_one(tiny_model: Path, tmp_path: Path) -> None:
    found = served(chats(3), tiny_model, tmp_path, R1)
    assert found.template is not None and found.template.endswith("<|im_start|>assistant\n")


def test_a_thought_is_invited_where_rows_have_one(tiny_model: Path, tmp_path: Path) -> None:
    rows = chats(3)
    for row in rows:
        row["messages"][-1]["content"] = "<think>\nwell\n</think>\n\nso"
    found = served(rows, tiny_model, tmp_path, R1.replace(".split('</think>')[-1]", ""))
    assert found.template is not None and found.template.endswith("<|im_start|>assistant\n<think>\n")


def test_white_space_around_contents_that_a_template_strips_costs_no_template(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f" why {number}\n"}, {"role": "assistant", "content": "so"}]}
            for number in range(3)]  # fmt: skip
    assert served(rows, tiny_model, tmp_path, QWEN2_5.replace("m.content", "m.content.strip()")).template is not None


def test_a_date_that_stays_that_of_the_export_is_told(tiny_model: Path, tmp_path: Path) -> None:
    dated = QWEN2_5.replace("You are Qwen.", "Today is ' + strftime_now('%d %b %Y') + '")
    assert "keeps that of the export" in served(chats(3), tiny_model, tmp_path, dated).modelfile("model.gguf")
    assert "of the export" not in served(chats(3), tiny_model, tmp_path, QWEN2_5).modelfile("model.gguf")


@pytest.mark.parametrize(
    ("model", "trained", "context"), [(None, 1024, None), (256, 1024, 256), (131_072, 1024, 4096), (131_072, 9000, 9000),
                                      (131_072, 100_000, 32_768), (16_384, 100_000, 16_384)],
)  # fmt: skip
def test_the_context_is_as_long_as_rows_were_but_no_longer_than_the_model_s_or_than_memory_has_room_for(
    model: int | None, trained: int, context: int | None
) -> None:
    source: Any = SimpleNamespace(config=RunConfig(max_length=trained))
    tokenizer: Any = SimpleNamespace(chat_template=None, eos_token=None, all_special_tokens=[], added_tokens_decoder={})
    samples = Samples((), False, Manner(plain=True))
    report: Any = SimpleNamespace(context=model)
    assert serving(source, tokenizer, samples, report, False).context == context


def test_a_modelfile_holds_what_is_known_and_nothing_else() -> None:
    whole = Serving("{{ .Prompt }}", ("<|a|>", "<|b|>"), "Be brief.", 4096, 3)
    assert whole.modelfile("m.gguf", "a.gguf") == (
        'FROM ./m.gguf\nADAPTER ./a.gguf\nTEMPLATE """{{ .Prompt }}"""\nSYSTEM """Be brief."""\nPARAMETER stop """<|a|>"""\n'
        'PARAMETER stop """<|b|>"""\nPARAMETER num_ctx 4096\n'
    )
    assert whole.parameters() == {"stop": ["<|a|>", "<|b|>"], "num_ctx": 4096}
    bare = Serving(None, (), None, None, 0, tools=True, dated=True)
    assert bare.modelfile("m.gguf") == "FROM ./m.gguf\n" and bare.parameters() == {}


def test_a_system_prompt_that_a_modelfile_cannot_say_is_told_and_left_out() -> None:
    told = Serving(None, (), 'Say """.', None, 0).modelfile("m.gguf")
    assert "SYSTEM" not in told and "/set system" in told


@pytest.mark.parametrize("name", NAMED)
def test_a_template_of_ours_is_one_that_ollama_can_have(name: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *row["messages"]]} for row in chats(3)]
    found = served(rows, tiny_model, tmp_path, NAMED[name])
    assert found.template is not None and "<|im_end|>" in found.stops
