"""Whether an adapter fits a base model, told from the headers of their files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoints.checkpoint import AdapterShape
from engine.config import RunConfig
from engine.errors import CannotContinue, ModelError
from engine.resume.contradictions import _model_name, contradiction
from engine.resume.layers import need_layers, other_model
from tests.conftest import build_tiny_model, chats, write_jsonl
from tests.engine.resume.test_logged import checkpoint
from tests.engine.runs import plan

WIDTHS = [48, 96]


def model(kind: str, width: int, folder: Path) -> Path:
    """A real model: Llama's linear layers, GPT-2's Conv1D, or GPT-NeoX's queries, keys and values in one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "llama": {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4},
        "gpt2": {"n_embd": width, "n_layer": 2, "n_head": 4},
        "gpt_neox": {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    torch.manual_seed(width)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=300, **sizes[kind])).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_an_adapter_fits_its_own_base_and_not_one_of_another_width(kind: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    small, wide = (model(kind, width, tmp_path / str(width)) for width in WIDTHS)
    base = AutoModelForCausalLM.from_pretrained(small)
    get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=kind == "gpt2")).save_pretrained(
        tmp_path / "adapter"
    )
    assert other_model(tmp_path / "adapter", small) is None
    why = other_model(tmp_path / "adapter", wide)
    assert why is not None and str(wide) in why


def test_another_tools_adapter_on_another_base_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for place, width in zip(("here", "there"), WIDTHS, strict=True):
        model("llama", width, tmp_path / place / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "here" / "base")
    tuned = get_peft_model(
        base, LoraConfig(r=RunConfig().lora_r, lora_alpha=RunConfig().lora_alpha, target_modules=["q_proj"])
    )
    tuned.save_pretrained(tmp_path / "adapter")
    shutil.copy(build_tiny_model(tmp_path / "tokens") / "tokenizer.json", tmp_path / "there" / "base")
    with pytest.raises(CannotContinue, match="q_proj"):
        plan(dataset=write_jsonl(tmp_path / "data.jsonl", chats(8)), model=tmp_path / "there" / "base",
             init_from=tmp_path / "adapter", output=tmp_path / "out", target_modules="q_proj")  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("as_anybody")
@pytest.mark.parametrize("mode", [0, 0o100])
def test_a_base_in_a_folder_that_may_not_be_looked_into_is_another_one(mode: int, tmp_path: Path, tiny_model: Path) -> None:
    locked = Path(shutil.copytree(tiny_model, tmp_path / "locked" / "base"))
    shape = AdapterShape("LORA", None, None, (), str(locked), {})
    locked.chmod(mode)
    try:
        why = contradiction(replace(checkpoint({}, None), adapter=shape), RunConfig(model=str(tiny_model)))
    finally:
        locked.chmod(0o700)
    assert why is not None and str(locked) in why


@pytest.mark.parametrize(
    "path",
    [
        "Qwen/Qwen2.5-0.5B",
        "models/qwen2.5-0.5b",
        "hub/models/Qwen/Qwen2___5-0___5B",
        "hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b",
    ],
)
def test_one_model_has_one_name_wherever_it_is_kept(path: str) -> None:
    assert _model_name(Path(path)) == "qwen2.5-0.5b"


def test_named_layers_are_looked_for_as_peft_does_and_nothing_is_said_of_experts(tiny_model: Path, tmp_path: Path) -> None:
    for names in ("all-linear", "q_proj,mlp.up_proj", "layers.0.self_attn.k_proj"):
        need_layers(names, tiny_model)
    with pytest.raises(ModelError, match="nope,proj: this model has no such layers") as refused:
        need_layers("nope,q_proj,proj", tiny_model)
    assert "q_proj" in refused.value.detail and "lm_head" not in refused.value.detail
    mixture = tmp_path / "mixture"
    mixture.mkdir()
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"model.layers.0.mlp.experts.0.w1.weight": zeros(2, 2)}, mixture / "model.safetensors")
    need_layers("gate_up_proj", mixture)
