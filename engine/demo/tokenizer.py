"""The demo's tokenizer: sentencepiece-style BPE with byte fallback, the kind Llama 2 brought and converters know best.

It is trained here, on the few pages the demo is made of, in a moment. The chat template is ChatML with a system prompt, and it
marks what the assistant says with `generation`, so the loss mask that is shown is exactly the one that is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

VOCABULARY = 1280
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], max_length: int) -> Any:
    """A LlamaTokenizer of at most VOCABULARY pieces for `texts`. `max_length`: the tokens its model can take."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), START, END, PAD]
    learner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Pieces never hold a line break, and a space only at their front: LlamaTokenizer splits nothing, so the merges must not need it.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=True)]
    )
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False, min_frequency=2)
    )
    learned = json.loads(learner.to_str())["model"]
    return LlamaTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        add_prefix_space=False,
        add_bos_token=False,
        bos_token="<s>",
        eos_token=END,
        pad_token=PAD,
        unk_token="<unk>",
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        padding_side="right",
    )
