"""README.zh_CN.md keeps up with README.md: what a person types or a script reads stands in both."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh_CN.md"))


def commands(text: str) -> list[str]:
    """The commands in fenced blocks, without the comments behind them."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(lora-tui|make|pip)\b|LORA_TUI_", line)]


def rows(text: str) -> str:
    """The rows of all tables."""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def exit_codes(text: str) -> set[str]:
    """The numbers of rows that begin with nothing but numbers."""
    return {code for cell in re.findall(r"^\| *([\d,、 ]+)\|", text, re.MULTILINE) for code in re.findall(r"\d+", cell)}


def test_every_command_of_the_readme_stands_in_the_chinese_one() -> None:
    there = commands(CHINESE)
    assert len(commands(ENGLISH)) > 10
    assert [command for command in commands(ENGLISH) if command not in there] == []


def test_every_flag_and_exit_code_of_the_readme_stands_in_the_chinese_one() -> None:
    assert {"--dataset", "--version"} <= flags(rows(ENGLISH)) and {"0", "143"} <= exit_codes(ENGLISH)
    assert sorted(flags(rows(ENGLISH)) - flags(rows(CHINESE))) == []
    assert sorted(flags(ENGLISH) - flags(CHINESE)) == []
    assert sorted(exit_codes(ENGLISH) - exit_codes(CHINESE)) == []
