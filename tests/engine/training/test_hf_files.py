"""What we write of a checkpoint ourselves is what the libraries would have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.data.identity import template_digest
from engine.errors import ConfigError
from engine.export.adapter import export_adapter
from engine.export.merged import export_merged
from engine.export.source import find_source
from engine.models.folder import TEMPLATES, tokenizer_files_digest
from engine.training.hf_files import Copies, constant_files, make_readable, write_adapter
from engine.training.memory import adapter_in_memory
from engine.training.peft_config import need_plain
from tests.conftest import CHATML, build_tiny_model, chats, write_jsonl
from tests.engine.runs import receipt, train


@pytest.mark.parametrize(
    "shape", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"q_proj": 4}}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_is_byte_for_byte_what_peft_writes(tiny_model: Path, tmp_path: Path, shape: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    targets = ["q_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", **shape))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    model.peft_config["default"].target_modules = sorted(targets)  # in whatever order a set has in this process
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "theirs")
    constants = constant_files(SimpleNamespace(model=model, processing_class=tokenizer))  # type: ignore[arg-type]
    write_adapter(tmp_path / "ours", constants, Copies().adapter(adapter_in_memory(model)))
    theirs, ours = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("theirs", "ours"))
    assert ours == theirs


def test_layers_are_named_in_the_same_order_by_each_process(tiny_model: Path) -> None:
    """PEFT has them in a set: the adapter of a run that was gone on with would differ from the same run's that was not."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    base, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=list(names), task_type="CAUSAL_LM"))
    constants = constant_files(SimpleNamespace(model=model, processing_class=tokenizer))  # type: ignore[arg-type]
    assert json.loads(constants["adapter_config.json"])["target_modules"] == sorted(names)
    assert model.peft_config["default"].target_modules == names


def test_a_run_on_a_model_with_several_chat_templates_is_continued_and_exported(tmp_path: Path) -> None:
    """transformers keeps them in a folder inside the model's; what is written by a run holds plain files only, and loads the same."""
    from transformers import AutoTokenizer

    model, templates = (
        build_tiny_model(tmp_path / "model"),
        {"default": CHATML, "tool_use": "{{ tools }}" + CHATML, "rag": "{{ 1 }}"},
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(model)
    data = write_jsonl(tmp_path / "data.jsonl", chats(8))
    options = {"model": model, "dataset": data, "batch_size": 2, "save_steps": 1, "lora_r": 2, "output": tmp_path / "out"}
    train(**options, max_steps=1)
    _outcome, events = train(**options, max_steps=2, resume="auto")
    assert set(receipt(events).values()) <= {"ok", "changed"}
    written = [tmp_path / "out" / "checkpoint-2", tmp_path / "out" / "final"]
    source = find_source(tmp_path / "out")
    written += [export_adapter(source, tmp_path / "to"), export_merged(source, tmp_path / "to").path]
    for folder in written:
        assert all(path.is_file() for path in folder.iterdir())
        assert AutoTokenizer.from_pretrained(folder).chat_template == templates


def test_the_order_of_several_chat_templates_is_not_part_of_them() -> None:
    forth, back = ({name: name for name in names} for names in (("default", "rag"), ("rag", "default")))
    assert template_digest(SimpleNamespace(chat_template=forth)) == template_digest(SimpleNamespace(chat_template=back))


def test_a_changed_template_among_several_is_seen_in_the_files(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / TEMPLATES).mkdir()
    (model / TEMPLATES / "rag.jinja").write_text("a")
    before = tokenizer_files_digest(model)
    (model / TEMPLATES / "rag.jinja").write_text("b")
    assert tokenizer_files_digest(model) != before


def test_templates_lie_where_transformers_looks_for_them() -> None:
    from transformers.utils import CHAT_TEMPLATE_DIR

    assert TEMPLATES == CHAT_TEMPLATE_DIR


@pytest.mark.parametrize("shape", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_needs_whole_base_weights_is_not_trained_on_a_model_in_parts(shape: dict[str, Any]) -> None:
    from peft import LoraConfig

    need_plain(LoraConfig(target_modules=["q_proj"]), "fsdp2")
    with pytest.raises(ConfigError, match="fsdp2"):
        need_plain(LoraConfig(target_modules=["q_proj"], **shape), "fsdp2")


@pytest.mark.parametrize(
    ("name", "value"),
    [("stateful_callbacks", -1), ("stateful_callbacks", ["x"]), ("total_flos", "x"), ("num_input_tokens_seen", [1]),
     ("best_metric", {}), ("best_model_checkpoint", 7), ("train_batch_size", 0)],
)  # fmt: skip
def test_what_trainer_cannot_compute_with_is_not_taken_up(name: str, value: Any, tmp_path: Path) -> None:
    from transformers import TrainerState

    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 4, "epoch": 0.5, name: value}))
    make_readable(tmp_path, 2)
    found = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert (found.global_step, found.epoch) == (4, 0.5)
    expected = TrainerState(train_batch_size=2)
    assert getattr(found, name) == getattr(expected, name)


def test_a_copy_is_not_changed_by_the_next_step() -> None:
    import torch

    tensor = torch.ones(3)
    kept = Copies().adapter({"a": tensor})
    tensor.mul_(2)
    assert kept["a"].tolist() == [1, 1, 1]


def test_the_memory_of_a_copy_is_used_again() -> None:
    import torch

    copies = Copies()
    tensor = torch.arange(6.0).view(2, 3).t()
    first = copies.adapter({"a": tensor})["a"]
    second = copies.adapter({"a": tensor + 1})["a"]
    assert second.data_ptr() == first.data_ptr()
    assert second.is_contiguous()
    assert second.tolist() == (tensor + 1).tolist()
    assert copies.adapter({"a": tensor[:2]})["a"].tolist() == tensor[:2].tolist()
