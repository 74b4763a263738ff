"""`lora-tui check`: the document, the table and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from tests.engine.checkpoints.folders import seal, write_checkpoint
from tui.check import run_check
from tui.plain import visible

TOP = {"schema", "output_dir", "recommended", "reason", "runs", "checkpoints", "ignored", "jumps", "advice"}
EACH = {"name", "path", "step", "epoch", "loss", "eval_loss", "max_steps", "total_epochs", "remaining_epochs", "grade", "run",
        "made_by", "saved_at", "bytes", "continuable", "problems"}  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of ours, one without an optimizer further along, an older run beside, and a backup."""
    falling = [4.4 * 0.9**step for step in range(40)]
    seal(write_checkpoint(tmp_path / "checkpoint-40", 40, 1.0, falling), run_id="20260101-lamp")
    write_checkpoint(tmp_path / "checkpoint-80", 80, 2.0, falling * 2, torch_files=None)
    write_checkpoint(tmp_path / "checkpoint-12", 12, 0.5, [9.0, 8.0], eval_steps=5)
    (tmp_path / "checkpoint-40-backup\x1b[31m").mkdir()
    return tmp_path


def document(out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = run_check(str(out), as_json=True)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return code, json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_epochs_are_told_without_the_digits_that_only_computing_made(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = out / "checkpoint-12" / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "epoch": 2.6, "num_train_epochs": 3, "max_steps": 30}))
    told = next(one for one in document(out, capsys)[1]["checkpoints"] if one["name"] == "checkpoint-12")
    assert 3 - 2.6 != 0.4 and told["remaining_epochs"] == 0.4


def test_the_document_is_as_the_contract_says(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(out, capsys)
    assert code == 0 and set(found) == TOP and found["schema"] == 1 and found["recommended"] == "checkpoint-40"
    assert all(set(one) == EACH for one in found["checkpoints"])
    ours = next(one for one in found["checkpoints"] if one["name"] == "checkpoint-40")
    assert (ours["grade"], ours["run"], ours["saved_at"]) == ("proven", "20260101-lamp", "2023-11-14T22:13:20+00:00")
    assert ours["remaining_epochs"] == 2.0 and ours["bytes"] > 0
    torn = next(one for one in found["checkpoints"] if one["name"] == "checkpoint-80")
    assert {problem["code"] for problem in torn["problems"]} == {"optimizer_missing", "scheduler_missing", "rng_missing"}
    assert sorted(name for run in found["runs"] for name in run["checkpoints"]) == [
        "checkpoint-12",
        "checkpoint-40",
        "checkpoint-80",
    ]
    assert found["ignored"][0]["name"] == "checkpoint-40-backup\x1b[31m"
    assert set(found["advice"]) == {"state", "message"}


def test_a_jump_is_in_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    falling = [4.4 * 0.95**step for step in range(60)]
    write_checkpoint(tmp_path / "checkpoint-65", 65, 0.65, [*falling, 4.4, 4.3, 4.4, 4.3, 4.4])
    (jump,) = document(tmp_path, capsys)[1]["jumps"]
    assert set(jump) == {"run", "step", "from", "to", "ratio", "at_resume"} and 61 <= jump["step"] <= 65


def test_nothing_that_can_be_continued_is_exit_3_and_names_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "checkpoint-80", 80, 2.0, torch_files=None)
    code, found = document(tmp_path, capsys)
    assert code == 3 and found["recommended"] is None and "checkpoint-80" in found["reason"]


def test_an_empty_folder_is_exit_3_and_no_folder_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(tmp_path, capsys)[0] == 3
    with pytest.raises(ConfigError):
        run_check(str(tmp_path / "nowhere"), as_json=True)


def test_a_checkpoint_in_the_place_of_its_folder_names_the_folder(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(out / "checkpoint-40", capsys)
    assert code == 3 and found["checkpoints"] == [] and found["reason"].endswith(str(out.resolve()))


def test_the_table_fits_80_columns_and_marks_the_choice_without_colour(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_check(str(out), as_json=False) == 0
    text = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    (marked,) = [line for line in text.splitlines() if line.startswith(">")]
    assert "checkpoint-40 " in marked and "1.00" in marked and "proven" in marked
    assert "Passed over checkpoint-80" in text and "optimizer.pt is missing" in text.replace("\n", " ")
    assert "weights-only" in text


def test_control_characters_never_reach_the_terminal(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_check(str(out), as_json=False)
    text = capsys.readouterr().out
    assert "\x1b" not in text and "^[[31m" in text


def test_it_loads_no_training_library(out: Path) -> None:
    code = (
        "import sys; from tui.check import run_check; run_check(sys.argv[1], False); run_check(sys.argv[1], True);"
        "sys.exit([m for m in ('torch', 'transformers', 'peft', 'datasets', 'textual') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain [bold]", "plain [bold]"), ("\x1b]52;c;\x07", "^[]52;c;^G"), ("\x7f", "^?"), ("\x9b1m", "\\x9b1m"),
     ("a\u202eb", "a\\u202eb"), ("a\nb", "a^Jb"), ("\udcff", "\\udcff"), ("微调 é", "微调 é")],
)  # fmt: skip
def test_controls_are_shown_not_sent(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_are_kept_where_asked() -> None:
    assert visible("a\n\tb\r", keep_lines=True) == "a\n    b^M"
