# ruff: noqa: RUF043
"""Datasets that are folders, splits of them, and names that may be one of the hub's."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from engine.data.read import Reading, is_hub_id, read_raw
from engine.errors import DatasetError
from tests.engine.data.rows import read_rows
from tests.engine.data.written import GOOD, ROWS, jsonl, table


def test_of_a_folder_of_texts_it_is_told_what_to_make_of_them(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The lamp burns.")
    with pytest.raises(DatasetError, match="no data file") as caught:
        read_rows(str(tmp_path))
    assert '{"text": "..."}' in caught.value.fix


def test_a_folder_that_datasets_saved_gives_the_same_rows(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert list(read_rows(str(tmp_path / "saved"))) == ROWS


def test_of_saved_splits_train_is_read_and_said(tmp_path: Path) -> None:
    import datasets

    both = {"test": datasets.Dataset.from_list(ROWS[:1]), "train": datasets.Dataset.from_list(ROWS)}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "saved"))
    found = read_rows(str(tmp_path / "saved"))
    assert list(found) == ROWS and "train" in found.notes[0]
    with pytest.raises(DatasetError, match="has no split train beside"):
        read_raw(str(tmp_path / "saved"), None, "train")
    raw = read_raw(str(tmp_path / "saved"), Reading(skip_rows="2"), "test")
    assert list(raw) == [(1, ROWS[0])] and (raw.splits, raw.skipped) == (("test",), "2")
    assert [number for number, _row in read_raw(str(tmp_path / "saved"), Reading(skip_rows="2"))] == [1, 3]


def test_of_saved_splits_without_train_the_first_is_read_and_of_one_nothing_is_said(tmp_path: Path) -> None:
    import datasets

    one, two = datasets.Dataset.from_list(ROWS[:1]), datasets.Dataset.from_list(ROWS)
    for name, splits in {"both": {"b": one, "a": two}, "alone": {"b": one}}.items():
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / name))
        found = read_raw(str(tmp_path / name))
        assert [row for _number, row in found] == ROWS[:1] and bool(found.notes) == (name == "both")
    one.save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DatasetError, match="has no split a beside") as refused:
        read_raw(str(tmp_path / "none"), None, "a")
    assert refused.value.detail == "There are: none."


@pytest.mark.parametrize(
    ("name", "of_the_hub"),
    [("rows", True), ("org/rows", True), ("a/b/c", False), ("a\\b", False), ("./rows", False), ("/rows", False), ("~rows", False),
     ("org/rows.jsonl", False), ("here", False), ("lost", False)],
)  # fmt: skip
def test_what_is_written_as_a_path_or_lies_here_is_no_id_of_the_hub(
    name: str, of_the_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "lost").symlink_to("nowhere")
    assert is_hub_id(name) == of_the_hub


def test_the_splits_of_a_folder_are_told_by_the_names_of_its_files_and_folders(tmp_path: Path) -> None:
    files = ["a/train/x/rows.jsonl", "b/validation/rows.jsonl", "test.jsonl", "c/test-00.jsonl", "testing.jsonl"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "train.jsonl").mkdir()
    found = read_raw(str(tmp_path))
    assert found.files == (tmp_path / files[0],) and found.splits == ("validation", "test")
    with pytest.raises(DatasetError, match="has no split dev beside") as refused:
        read_raw(str(tmp_path), None, "dev")
    assert refused.value.detail == "There are: validation, test."


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    with pytest.raises(DatasetError, match="rows.jsonl: has no split test beside"):
        read_raw(str(tmp_path / "rows.jsonl"), None, "test")


@pytest.mark.usefixtures("as_anybody")
def test_a_folder_that_may_not_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir(mode=0)
    with pytest.raises(DatasetError, match=f"{folder}: cannot be read") as refused:
        read_raw(str(folder))
    folder.chmod(0o700)
    assert refused.value.detail == "Permission denied"


def test_what_a_folder_s_files_are_read_for_is_told_of_five_at_most(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(7):
            (tmp_path / f"{split}-{number}.jsonl").write_bytes(GOOD)
    found = read_raw(str(tmp_path))
    read, left = (", ".join(f"{split}-{number}.jsonl" for number in range(5)) for split in ("train", "test"))
    assert found.notes == (f"{tmp_path.name}: 7 files read: {read}", f"not trained on: {left}")
    rows = len(list(read_raw(str(tmp_path / "train-0.jsonl"))))
    assert len(list(found)) == 7 * rows
    assert [found.where(number) for number in (1, rows, rows + 1)] == [
        "train-0.jsonl, row 1", f"train-0.jsonl, row {rows}", "train-1.jsonl, row 1"
    ]  # fmt: skip
    assert found.splits == ("test",) and found.name == tmp_path.name
    found = read_raw(str(tmp_path), None, "test")
    assert [path.name[:4] for path in found.files] == ["test"] * 7
    assert [path.name[:4] for path in found.others] == ["trai"] * 7 and len(found.notes) == 1


def test_a_folder_of_files_is_read_in_the_order_of_their_names_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS[1:]))
    (tmp_path / "a.csv").write_bytes(table(","))
    (tmp_path / "README.md").write_text("about")
    found = read_rows(str(tmp_path))
    assert list(found) == ROWS + ROWS[1:] and "a.csv, b.jsonl" in found.notes[0]


def test_where_a_folder_has_training_files_the_others_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "train_sets"
    folder.mkdir()
    (folder / "train-00000.jsonl").write_bytes(jsonl(ROWS[:1]))
    (folder / "test.jsonl").write_bytes(jsonl(ROWS[1:]))
    assert list(read_rows(str(folder))) == ROWS[:1]


@pytest.mark.parametrize("split", ["train", None], ids=["some for training", "all read"])
def test_a_folder_of_many_files_is_looked_through_once(
    split: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not once more for each of them."""
    for number in range(60):
        (tmp_path / f"{split or 'rows'}-{number:02}.jsonl").write_bytes(GOOD)
        (tmp_path / f"{'test' if split else 'more'}-{number:02}.jsonl").write_bytes(GOOD)
    compared: list[object] = []
    same = PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda one, other: (compared.append(one), same(one, other))[1])
    found = read_raw(str(tmp_path))
    assert len(found.files) + len(found.others) == 120 and len(compared) < 1000


def test_hidden_files_and_descriptions_in_a_folder_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}')
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    assert list(read_rows(str(tmp_path))) == ROWS


def test_a_bad_row_in_a_folder_is_told_with_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD + b'{"text": 4}\n')
    with pytest.raises(DatasetError, match=r"b\.jsonl, row 2"):
        read_rows(str(tmp_path))
    (tmp_path / "b.jsonl").write_bytes(GOOD + b"no row\n")
    with pytest.raises(DatasetError, match=r"b\.jsonl, row 2") as refused:
        list(read_raw(str(tmp_path)))
    assert refused.value.row == 3 and "--skip-rows 3" in refused.value.fix


def test_a_dataset_that_brings_code_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    with pytest.raises(DatasetError, match=r"loader\.py"):
        list(read_raw(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(DatasetError, match="no data file"):
        list(read_raw(str(tmp_path)))


def test_a_damaged_folder_of_datasets_is_told(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))
    for arrow in folder.glob("*.arrow"):
        arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DatasetError, match="saved"):
        list(read_raw(str(folder)))
