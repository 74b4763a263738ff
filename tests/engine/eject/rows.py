"""A few rows of each format, as runs that are ejected learn them."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import chats

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": chats(6),
    "sharegpt": [{"conversations": [{"from": "human", "value": f"question {n}"}, {"from": "gpt", "value": f"alpha {n}"}]}
                 for n in range(6)],
    "alpaca": [{"instruction": f"question {n}", "input": "", "output": f"alpha {n}"} for n in range(6)],
    "prompt_completion": [{"question": f"question {n}", "answer": f" alpha {n}"} for n in range(6)],
    "text": [{"content": f"question {n} alpha"} for n in range(6)],
    "renamed columns": [{"ask": f"question {n}", "prompt": "another", "say": f" alpha {n}"} for n in range(6)],
    "renamed turns": [{"talk": [{"who": turn["role"], "what": turn["content"]} for turn in row["messages"]]} for row in chats(6)],
    "last answers": [{"messages": [*row["messages"], *row["messages"]]} for row in chats(6)],
    "tool calls": [
        {
            "tools": [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object", "properties": {}}}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": f"question {n}"}]},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "lamp", "arguments": {}}}]},
                {"role": "tool", "name": "lamp", "content": f"alpha {n}"},
                {"role": "assistant", "content": f"alpha {n}"},
            ],
            "prompt": "another column",
        }
        for n in range(6)
    ],
}  # fmt: skip
COLUMNS = {"renamed columns": "prompt=ask,completion=say", "renamed turns": "messages=talk,role=who,content=what"}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
