"""--chat-template: turns written otherwise than by the model's own template, or for a model that has none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.eject import eject
from engine.errors import ConfigError, ModelError
from engine.export.card import model_card
from engine.export.source import find_source
from engine.models.folder import load_tokenizer
from engine.models.templates import MAX_BYTES, NAMED, template_source
from tests.conftest import chats, write_jsonl
from tests.engine.runs import adapter_bytes, plan, train

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "max_length": 64, "save_steps": 2, "learning_rate": 1e-3}


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """A model without a template."""
    folder = shutil.copytree(tiny_model, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", chats(8))


def pieces(rows: Path, base: Path, template: str) -> list[tuple[str, bool]]:
    """The first row as it is trained on: (text, whether it is learned)."""
    report = dataset_report(str(rows), Reading(), load_tokenizer(base, template), "auto", 256)
    assert report.stopped is None
    return list(report.preview[0].pieces)


def test_what_to_do_about_a_model_without_a_template_is_said(base: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template") as caught:
        train(dataset=rows, model=base, output=tmp_path / "run", **SETTINGS)
    assert "--chat-template plain" in caught.value.fix


def test_plain_ends_an_answer_with_the_models_own_end_token(base: Path, rows: Path) -> None:
    head, answer, tail = pieces(rows, base, "plain")
    assert head == ("### User:\nquestion 0\n\n### Assistant:\n", False)
    assert answer == (chats(1)[0]["messages"][1]["content"] + "<|im_end|>", True)
    assert tail == ("\n\n", False)


def test_a_token_that_begins_every_text_begins_a_conversation_once(base: Path, rows: Path) -> None:
    from tokenizers import processors

    tokenizer = load_tokenizer(base)
    begin = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    tokenizer.save_pretrained(base)
    assert pieces(rows, base, "plain")[0][0].count("<|endoftext|>") == 1


def test_a_token_that_ends_every_text_begins_no_conversation(base: Path, rows: Path) -> None:
    from tokenizers import processors

    tokenizer = load_tokenizer(base)
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(base)
    assert pieces(rows, base, "plain")[0][0].startswith("### User:")


def test_a_template_whose_tokens_the_model_has_not_is_refused(base: Path, rows: Path) -> None:
    tokenizer = (base / "tokenizer.json").read_text(encoding="utf-8").replace("<|im_start|>", "<|begin|>")
    (base / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    with pytest.raises(ModelError, match=r"has no <\|im_start\|>") as caught:
        load_tokenizer(base, "chatml")
    assert "plain" in caught.value.fix


def test_a_run_is_continued_with_the_template_it_was_begun_with(base: Path, rows: Path, tmp_path: Path) -> None:
    asked = {"dataset": rows, "model": base, **SETTINGS}
    train(**asked, output=tmp_path / "whole", chat_template="plain")
    train(**asked, output=tmp_path / "run", chat_template="plain", stop_at=2)
    train(output=tmp_path / "run")
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(tmp_path / "whole")


def test_the_template_is_saved_with_the_adapter(base: Path, rows: Path, tmp_path: Path) -> None:
    train(dataset=rows, model=base, output=tmp_path / "run", chat_template="plain", **SETTINGS)
    assert load_tokenizer(tmp_path / "run" / "final").chat_template == NAMED["plain"]


def test_a_template_of_a_file_holds_from_any_folder_and_one_that_was_edited_is_told(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.jinja").write_text(NAMED["chatml"], encoding="utf-8")
    train(dataset=rows, model=base, output=tmp_path / "run", chat_template="own.jinja", stop_at=2, **SETTINGS)
    monkeypatch.chdir("/")
    assert not [one for one in plan(output=tmp_path / "run").differences if one.item == "chat_template"]
    (tmp_path / "own.jinja").write_text(NAMED["chatml"].replace("assistant", "bot"), encoding="utf-8")
    (told,) = [one for one in plan(output=tmp_path / "run").differences if one.item == "chat_template"]
    assert told.winner == "neither" and "--accept chat_template" in told.reason


def test_who_lost_the_file_is_told_where_the_checkpoint_has_it(base: Path, rows: Path, tmp_path: Path) -> None:
    own, run = tmp_path / "own.jinja", tmp_path / "run"
    own.write_text(NAMED["chatml"], encoding="utf-8")
    train(dataset=rows, model=base, output=run, chat_template=own, stop_at=2, **SETTINGS)
    own.unlink()
    with pytest.raises(ConfigError, match=r"own\.jinja") as caught:
        plan(output=run)
    kept = run / "checkpoint-2" / "chat_template.jinja"
    assert str(kept) in caught.value.fix
    shutil.copy(kept, own)
    assert not [one for one in plan(output=run).differences if one.item == "chat_template"]


@pytest.mark.parametrize("fault", ["{% for", "{{ message | shout }}"])
def test_a_file_that_jinja_cannot_read_is_no_fault_of_a_row(fault: str, base: Path, rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{# messages #}\n" + fault, encoding="utf-8")
    report = dataset_report(str(rows), Reading(), load_tokenizer(base, str(file)), "auto", 256)
    assert isinstance(report.stopped, ModelError) and "Line 2: " in report.stopped.detail


def test_the_card_of_an_export_names_the_template_and_no_folder_of_this_machine(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(NAMED["chatml"], encoding="utf-8")
    train(dataset=rows, model=base, output=tmp_path / "run", chat_template=own, **{**SETTINGS, "max_steps": 1})
    card = model_card(find_source(tmp_path / "run"), merged=False)
    assert "| chat_template | own.jinja |" in card and str(tmp_path) not in card


WRONG: dict[str, bytes | None] = {
    "not there": None,
    "no text": b"\xff\xfe messages",
    "no template": b"Hello, world.",
    "endless": b"messages" + b" " * MAX_BYTES,
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_file_that_is_no_template_ends_the_run_before_it_begins(
    fault: str, base: Path, rows: Path, tmp_path: Path
) -> None:
    file, content = tmp_path / "own.jinja", WRONG[fault]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.jinja"):
        template_source(str(file))
    with pytest.raises(ConfigError, match=r"own\.jinja"):
        plan(dataset=rows, model=base, output=tmp_path / "run", chat_template=file)


def test_the_template_goes_along_when_the_run_is_ejected(base: Path, rows: Path, tmp_path: Path) -> None:
    train(dataset=rows, model=base, output=tmp_path / "run", chat_template="plain", **{**SETTINGS, "max_steps": 1})
    assert "tokenizer.chat_template = " in eject(tmp_path / "run", "script")  # which compares its tokens with the run's
    assert "register one that does" in eject(tmp_path / "run", "llamafactory")
    settings = yaml.safe_load(eject(tmp_path / "run", "axolotl"))
    assert (settings["chat_template"], settings["chat_template_jinja"]) == ("jinja", NAMED["plain"])
