"""What Ollama is told of a run, held against how the run was trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.export.modelfile import Serving, serving
from engine.export.samples import take_samples
from engine.models.folder import load_tokenizer
from tests.conftest import chats, write_jsonl


def served(rows: list[dict[str, Any]], model: Path, tmp_path: Path) -> Serving:
    source: Any = SimpleNamespace(config=RunConfig(dataset=str(write_jsonl(tmp_path / "rows.jsonl", rows))))
    tokenizer = load_tokenizer(model)
    report: Any = SimpleNamespace(context=256)
    return serving(source, tokenizer, take_samples(source, tokenizer), report, False)


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
