"""What we write of a checkpoint ourselves is what the libraries would have written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.resume.memory import adapter_in_memory
from engine.training.hf_files import Copies, constant_files, write_adapter
from engine.training.peft_config import need_plain


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
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "theirs")
    constants = constant_files(SimpleNamespace(model=model, processing_class=tokenizer))  # type: ignore[arg-type]
    write_adapter(tmp_path / "ours", constants, Copies().adapter(adapter_in_memory(model)))
    theirs, ours = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("theirs", "ours"))
    assert ours == theirs


@pytest.mark.parametrize("shape", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_needs_whole_base_weights_is_not_trained_on_a_model_in_parts(shape: dict[str, Any]) -> None:
    from peft import LoraConfig

    need_plain(LoraConfig(target_modules=["q_proj"]), "fsdp2")
    with pytest.raises(ConfigError, match="fsdp2"):
        need_plain(LoraConfig(target_modules=["q_proj"], **shape), "fsdp2")


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
