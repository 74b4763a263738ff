"""Chats, the chat templates that TRL keeps of each family, tokenizers for them, and what is learned of a chat."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import trl

from engine.data.tokens import IGNORED, tokenize

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


@cache
def kept(name: str) -> Any:
    """`family(name)`, made once: for tests that ask for it with each example and change nothing of it."""
    return family(name)


def learned(messages: list[dict[str, Any]], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """(ids, trained) of one chat."""
    row = tokenize(enumerate([{"messages": messages}], 1), tokenizer, "auto", 1 << 20).row(0)
    return row["input_ids"], [label != IGNORED for label in row["labels"]]


def sayings(tokenizer: Any, ids: list[int], trained: list[bool]) -> list[str]:
    """The trained tokens, each span as text."""
    return [
        tokenizer.decode([number for number, _one in run])
        for wanted, run in groupby(zip(ids, trained, strict=True), key=itemgetter(1))
        if wanted
    ]


CALLING = {
    "role": "assistant",
    "content": "I look at the lamp.",
    "tool_calls": [{"function": {"name": "lamp", "arguments": {}}}],
}
