"""Tiny models of the families that are exported, each real in every respect but size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import WORDS, build_tiny_model

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")


def build(folder: Path, family: str, sentencepiece: bool = False, **changed: Any) -> Path:
    """A model of `family` with random weights in `folder`, with the tokenizer of the tiny Llama, or with one that converters know."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    build_tiny_model(folder)
    if sentencepiece:
        from engine.demo.tokenizer import train_tokenizer

        for file in folder.glob("*token*"):
            file.unlink()
        texts = [" ".join(WORDS), "user assistant system question 0123456789 你好 吗\n"] * 3
        _as_llama_cpp_takes_it(train_tokenizer(texts, 256), family).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(1)
    if family.startswith("gemma"):  # as in the models that were released; others scale attention by another size
        changed.setdefault("query_pre_attn_scalar", changed.get("head_dim", 8))
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                                  pad_token_id=tokenizer.pad_token_id, **{**SIZES, "head_dim": 8, **changed})  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _as_llama_cpp_takes_it(tokenizer: Any, family: str) -> Any:
    """`tokenizer`, with a space put in front of each text between marks where the converter of `family` cannot say that there is
    none. In the world these families have byte-level tokenizers, or (Phi-3) the one Llama 2 had, which does that."""
    if family not in ("qwen2", "qwen3", "phi3"):
        return tokenizer
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token="<unk>",
    )
    made.chat_template = tokenizer.chat_template
    return made


def adapter_on(base: Path, out: Path, **lora: Any) -> Path:
    """A run's folder `out` whose `final` is a LoRA adapter on `base` with weights that do something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1) if "magnitude" not in name else parameter.data.mul_(1.2)
    model.save_pretrained(out / "final")
    return out


def logits(model: Any) -> Any:
    """(2, 24, vocabulary) over fixed tokens, in float32."""
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(48).reshape(2, 24) * 31 % 300).logits
