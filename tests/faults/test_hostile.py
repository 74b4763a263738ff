"""Each row of hostile input: its exit code, its words, nothing executed, nothing that moves a terminal; and docs/hostile.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.hostile import ROWS, Room, Row, harmless, prepare, talk

DOCUMENT = Path(__file__).parents[2] / "docs" / "hostile.md"


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("shared"))


HERE = [
    pytest.param(row, id=f"{row.number} {row.what}", marks=[pytest.mark.slow] if row.number == 32 else []) for row in ROWS
]


@pytest.mark.parametrize("row", HERE)
def test_hostile_input_ends_with_its_code_and_words_and_runs_nothing(row: Row, tmp_path: Path, shared_model: Path) -> None:
    code, output = talk(row.make(Room(tmp_path, shared_model)))
    assert not (tmp_path / "owned").exists()
    text = output.decode()
    assert code == row.code, text
    assert row.told in text
    assert "Traceback" not in text
    assert harmless(output)


def test_the_table_of_the_docs_has_every_row_with_its_code() -> None:
    found = [line.split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    assert {int(cells[1]) for cells in found} == set(range(1, 34))
    told = {(int(cells[1]), cells[2].strip()): cells[3].strip() for cells in found}
    assert not [row for row in ROWS if told.get((row.number, row.what)) != str(row.code)]
