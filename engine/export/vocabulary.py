"""`tokenizer.model` for the converters: the sentencepiece file of a Llama-style tokenizer.

transformers keeps only tokenizer.json. For such a tokenizer llama.cpp's converters want the sentencepiece file, because it holds the
scores by which llama.cpp joins pieces; without it they write equal scores, and the same text becomes other tokens. Where the
base brings the file, that one is taken; else it is written from tokenizer.json, whose merges are in the order of the scores.

Tokens that were added behind a file that the base brings are in tokenizer.json alone, where the converters do not look for them; they
are named where the converters do. Whether all of them came over is asked of the GGUF file.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

NAME = "tokenizer.model"
SPACE = "▁"
"""How sentencepiece writes a space."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""ModelProto.SentencePiece.Type, sentencepiece_model.proto"""
BPE = 2
"""TrainerSpec.ModelType, there too"""


def provide_sentencepiece(folder: Path, base: Path) -> bool:
    """Put `tokenizer.model` into `folder`, whose tokenizer.json is that of a Llama-style tokenizer. False where it is of another kind
    (byte-level BPE, unigram), which the converters know by themselves or not at all."""
    if (base / NAME).is_file():
        shutil.copyfile(base / NAME, folder / NAME)
        _name_added(folder)
        return True
    try:
        raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    prefix = _space_in_front(raw)
    model = raw["model"]
    if prefix is None or model.get("type") != "BPE" or not model.get("byte_fallback"):
        return False
    (folder / NAME).write_bytes(_model_proto(raw, prefix))
    return True


def tokens_lost(reader: Any, tokenizer: Any) -> list[str]:
    """Tokens of `tokenizer` that a GGUF file has padding for, or something else, among those the model has embeddings for. `reader`:
    the file as gguf's reader."""
    from gguf.constants import TokenType

    tokens, types, kind = (
        field.contents() if (field := reader.get_field(f"tokenizer.ggml.{name}")) is not None else []
        for name in ("tokens", "token_type", "model")
    )
    known = {index: token for token, index in tokenizer.get_vocab().items() if index < len(tokens)}
    return [
        token
        for index, token in sorted(known.items())
        # Converters write a space of an added token as one; those of byte-level vocabularies may spell added tokens otherwise.
        if tokens[index].replace(SPACE, " ") != token.replace(SPACE, " ")
        and (kind == "llama" or types[index : index + 1] == [TokenType.UNUSED])
    ]


def _name_added(folder: Path) -> None:
    """Write into tokenizer_config.json of `folder` what tokenizer.json has added to tokenizer.model or put in place of its pieces."""
    from sentencepiece import SentencePieceProcessor

    config = folder / "tokenizer_config.json"
    try:
        brought = SentencePieceProcessor(model_file=str(folder / NAME))
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        content = json.loads(config.read_text(encoding="utf-8"))
    except (RuntimeError, OSError, ValueError, KeyError):
        return  # a file of another kind by the same name, or files the converter complains about itself
    pieces = [brought.IdToPiece(index) for index in range(brought.vocab_size())]
    named = content.setdefault("added_tokens_decoder", {})
    for one in added:
        index = one.pop("id")
        if pieces[index : index + 1] != [one["content"]]:
            named[str(index)] = one
    config.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _space_in_front(raw: dict[str, Any]) -> bool | None:
    """Whether the tokenizer puts a space before a text (sentencepiece: add_dummy_prefix). None: it is no sentencepiece one."""
    steps = [
        step
        for part in (raw.get("normalizer"), raw.get("pre_tokenizer"))
        if part is not None
        for step in (
            part["normalizers" if "normalizers" in part else "pretokenizers"] if part["type"] == "Sequence" else [part]
        )
    ]
    escaped = prefix = False
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE:
            escaped = True
        elif step["type"] == "Metaspace" and step["replacement"] == SPACE and not step.get("split", True):
            escaped, prefix = True, prefix or step["prepend_scheme"] != "never"
        else:
            return None
    return prefix if escaped else None


def _model_proto(raw: dict[str, Any], prefix: bool) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    model = raw["model"]
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair if isinstance(pair, list) else pair.split(" ", 1)
        ranks.setdefault(left + right, rank)
    added = {one["id"]: one for one in raw["added_tokens"]}
    pieces = {index: piece for piece, index in model["vocab"].items()} | {
        index: one["content"] for index, one in added.items()
    }
    unknown = model.get("unk_token") or "<unk>"
    proto = sentencepiece_model_pb2.ModelProto()
    for index in range(max(pieces) + 1):
        one = proto.pieces.add()
        one.piece = piece = pieces.get(index, f"[unused{index}]")
        if piece == unknown:
            one.type = UNKNOWN
        elif index in added or index not in pieces:
            one.type = CONTROL if index not in added or added[index]["special"] else USER_DEFINED
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            one.type = BYTE
        else:
            one.type = NORMAL
            one.score = -float(ranks.get(piece, len(ranks) + index))
    proto.trainer_spec.model_type = BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return bytes(proto.SerializeToString())
