"""What Ollama is told of a run, held against how the run was trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.export.modelfile import Serving, serving
from engine.export.samples import MAX_TOKENS, Samples, take_samples
from engine.models.folder import load_tokenizer
from tests.conftest import chats, write_jsonl


def sampled(rows: list[dict[str, Any]], model: Path, tmp_path: Path) -> tuple[Any, Any, Samples]:
    """(source, tokenizer, what is taken of `rows`)"""
    source: Any = SimpleNamespace(config=RunConfig(dataset=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
    tokenizer = load_tokenizer(model)
    return source, tokenizer, take_samples(source, tokenizer)


def served(rows: list[dict[str, Any]], model: Path, tmp_path: Path) -> Serving:
    source, tokenizer, samples = sampled(rows, model, tmp_path)
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
    assert (samples.of_dataset, samples.long, samples.system) == (False, True, "Be brief.")
