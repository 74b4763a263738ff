"""Completion in a shell: the script is fed to a real bash."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tui.completion import SHELLS, completion

ASK = """
{script}
fn=$(complete -p lora-tui | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=({words}); COMP_CWORD={place}
$fn lora-tui "{last}" "{before}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["lora-tui", "--sched"], {"--scheduler"}),
        (["lora-tui", "--scheduler", ""], {"cosine", "linear", "constant"}),
        (["lora-tui", "che"], {"check"}),
        (["lora-tui", "check", "--js"], {"--json"}),
    ],
)
def test_bash_completes(words: list[str], offered: set[str]) -> None:
    ask = ASK.format(
        script=completion("bash"), words=" ".join(word or '""' for word in words), place=len(words) - 1, last=words[-1],
        before=words[-2],
    )  # fmt: skip
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_knows_the_flags(shell: str) -> None:
    assert "learning-rate" in completion(shell)
