"""The token table: made once, found again, and never believed without being looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data import table as module
from engine.data.formats import read_rows
from engine.data.identity import row_digest, template_digest, tokenizer_digest
from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.data.table import Made, cache_folder, row_digests, token_table
from engine.data.tokens import tokenize
from engine.errors import DatasetError
from engine.models.folder import load_tokenizer
from tests.conftest import chats, write_jsonl


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "chats.jsonl", chats(30))


def made(file: Path, tokenizer: Any, max_length: int = 64, **how: Any) -> Made:
    reading = Reading(**how)
    digest = tokenizer_digest(tokenizer) + template_digest(tokenizer)
    return token_table(read_rows(str(file), reading), reading, tokenizer, digest, "auto", max_length)


def contents(found: Made) -> list[Any]:
    table = found.table
    return [
        [table.row(index) for index in range(len(table))],
        table.lengths.tolist(),
        table.trained.tolist(),
        table.digests.tolist(),
    ]


def test_a_second_start_takes_up_the_same_table(file: Path, tokenizer: Any) -> None:
    first, second = made(file, tokenizer), made(file, tokenizer)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert contents(first) == contents(second)


def test_a_table_from_the_cache_is_what_is_made_in_memory(
    file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.tokens.CHUNK", 7)  # several batches
    found = made(file, tokenizer).table
    fresh = tokenize(read_rows(str(file)).numbered(), tokenizer, "auto", 64)
    assert [found.row(index) for index in range(30)] == [fresh.row(index) for index in range(30)]
    assert found.digests[3].tobytes() == row_digest(chats(30)[3])


def test_other_data_settings_or_template_make_another_table(file: Path, tokenizer: Any) -> None:
    made(file, tokenizer)
    assert not made(file, tokenizer, max_length=16).from_cache
    assert not made(file, tokenizer, skip_rows="3").from_cache
    tokenizer.chat_template = tokenizer.chat_template.replace("im_start", "im_end")
    assert not made(file, tokenizer).from_cache
    write_jsonl(file, chats(31))
    assert not made(file, tokenizer).from_cache


def test_two_that_make_the_same_table_at_once_do_not_take_it_from_each_other(
    file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wizard counts tokens on several steps, and a run may begin meanwhile."""
    beside, meanwhile = module._beside, []

    def interrupted(path: Path) -> Path:
        if list(cache_folder().glob(".*.json")) and not meanwhile:  # what stands beside the table is about to get its name
            meanwhile.append(None)
            meanwhile.append(made(file, tokenizer).note)
        return beside(path)

    monkeypatch.setattr(module, "_beside", interrupted)
    assert made(file, tokenizer).note == ""
    assert meanwhile[1:] == [""]


@pytest.mark.parametrize("place", ["first byte", "middle", "end"])
def test_a_damaged_table_is_made_anew(place: str, file: Path, tokenizer: Any) -> None:
    first = contents(made(file, tokenizer))
    (stored,) = cache_folder().glob("*.arrow")
    data = bytearray(stored.read_bytes())
    data[{"first byte": 0, "middle": len(data) // 2, "end": -1}[place]] ^= 0xFF
    stored.write_bytes(data)
    again = made(file, tokenizer)
    assert not again.from_cache
    assert contents(again) == first
    assert made(file, tokenizer).from_cache


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"sha256": "0"}', b"[" * 100_000])
def test_a_table_whose_digest_cannot_be_read_is_made_anew(content: bytes, file: Path, tokenizer: Any) -> None:
    made(file, tokenizer)
    (beside,) = cache_folder().glob("*.json")
    beside.write_bytes(content)
    assert not made(file, tokenizer).from_cache


def test_a_cache_that_cannot_be_written_costs_a_note_and_nothing_else(file: Path, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    found = made(file, tokenizer)
    assert len(found.table) == 30
    assert str(tmp_path / "cache") in found.note


def test_a_dataset_that_was_loaded_into_memory_is_read_anew_each_time(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """datasets then names no files, so nothing would tell changed rows from those of the table."""
    import datasets

    monkeypatch.setattr("datasets.config.IN_MEMORY_MAX_SIZE", 1 << 30)
    for count, first_word in ((8, "alpha"), (9, "beta")):
        folder = tmp_path / f"{count}" / "saved"
        rows = [{"text": f"{first_word} lamp {number}"} for number in range(count)]
        datasets.Dataset.from_list(rows).save_to_disk(str(folder))
        found = made(folder, tokenizer)
        assert len(found.table) == count and not found.from_cache and "in memory" in found.note
        digests = [bytes(one) for one in row_digests(read_rows(str(folder)), Reading())[1]]
        assert digests == [row_digest(row) for row in rows]


def test_nothing_half_made_is_left_where_rows_are_bad(file: Path, tokenizer: Any) -> None:
    from engine.errors import DatasetError

    write_jsonl(file, [*chats(5), {"messages": 4}])
    with pytest.raises(DatasetError):
        made(file, tokenizer)
    assert list(cache_folder().iterdir()) == []


def test_what_was_noticed_is_kept_with_the_table(file: Path, tokenizer: Any) -> None:
    first, second = made(file, tokenizer, max_length=16), made(file, tokenizer, max_length=16)
    assert second.from_cache
    assert [one.code for one in second.table.problems] == [one.code for one in first.table.problems]
    assert "truncated" in second.table.notes.counts


def test_tables_nobody_used_for_a_month_are_swept(file: Path, tokenizer: Any, tmp_path: Path) -> None:
    made(file, tokenizer)
    old = 0.0
    for stored in cache_folder().iterdir():
        os.utime(stored, (old, old))
    made(write_jsonl(tmp_path / "other.jsonl", chats(4)), tokenizer)
    assert len(list(cache_folder().glob("*.arrow"))) == 1


def test_a_selection_is_a_view_of_its_rows(file: Path, tokenizer: Any) -> None:
    whole = made(file, tokenizer).table
    part = whole.select(np.array([4, 2, 29]))
    assert [part.row(index) for index in range(3)] == [whole.row(index) for index in (4, 2, 29)]
    assert part.source_row.tolist() == [5, 3, 30]
    assert part.to_dataset()[1]["input_ids"] == whole.row(2)["input_ids"]


def test_how_far_it_is_is_told_with_the_number_of_all(file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_EVERY", 0.0)
    monkeypatch.setattr("engine.data.tokens.CHUNK", 10)
    told: list[tuple[int, int | None]] = []
    rows = read_rows(str(file))
    token_table(rows, Reading(), tokenizer, "x", "auto", 64, lambda done, total, seconds: told.append((done, total)))
    assert told == [(10, 30), (20, 30), (30, 30)]


def test_a_last_line_without_an_end_is_a_row_too(file: Path) -> None:
    file.write_text(file.read_text().rstrip("\n"))
    assert module._rows_in(read_rows(str(file))) == 30


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [LOOP, "{% generation %}x{% endgeneration %}" + LOOP])
def test_a_template_without_an_end_is_stopped(
    template: str, file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import ModelError

    monkeypatch.setattr("engine.data.rendering.SECONDS", 0.3)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="does not come to an end"):
        made(file, tokenizer)


def test_a_template_that_reaches_for_what_it_should_not_is_refused(file: Path, tokenizer: Any) -> None:
    from engine.errors import DatasetError

    tokenizer.chat_template = "{{ messages.__class__.__init__.__globals__['os'].system('true') }}"
    with pytest.raises(DatasetError, match="refuses it"):
        made(file, tokenizer)


def test_what_was_noticed_is_said_in_the_language_of_whoever_takes_the_table_up(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tui import i18n

    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    data = write_jsonl(tmp_path / "rows.jsonl", chats(6))
    told = {}
    try:
        for language in ("en", "zh_CN"):
            i18n.install(language)
            report = dataset_report(str(data), Reading(), load_tokenizer(tiny_model), "auto", 12)
            told[language] = [problem for problem in report.problems if problem.code == "truncated"]
    finally:
        i18n.install("en")
    assert told["en"] and [one.row for one in told["en"]] == [one.row for one in told["zh_CN"]]
    assert "trained tokens are lost" in told["en"][0].message
    assert told["zh_CN"][0].message != told["en"][0].message and "tokens are lost" not in told["zh_CN"][0].message


def test_rows_of_a_file_that_changed_while_it_was_read_are_not_kept_as_those_it_had(
    file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    with monkeypatch.context() as patched:

        def tokenized(*arguments: Any) -> Any:
            write_jsonl(file, chats(20))
            return real(*arguments)

        real = module.tokenized
        patched.setattr(module, "tokenized", tokenized)
        with pytest.raises(DatasetError, match="changed while it was read"):
            made(file, tokenizer)
    file.write_bytes(before)
    assert len(made(file, tokenizer).table) == 30


def test_nor_are_their_digests(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = file.read_bytes(), module._digests_of

    def changed(rows: Any) -> Any:
        write_jsonl(file, chats(20))
        return real(rows)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_digests_of", changed)
        row_digests(read_rows(str(file), Reading()), Reading())
    file.write_bytes(before)
    assert len(row_digests(read_rows(str(file), Reading()), Reading())[0]) == 30


def test_what_is_in_a_cache_that_may_only_be_read_is_taken_up(
    file: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(file, tokenizer)

    def utime(*_place: Any) -> None:
        raise PermissionError

    def _digests_of(_rows: Any) -> Any:
        raise AssertionError("they are in the cache")

    monkeypatch.setattr(module.os, "utime", utime)
    monkeypatch.setattr(module, "_digests_of", _digests_of)
    assert made(file, tokenizer).from_cache
    assert len(row_digests(read_rows(str(file), Reading()), Reading())[0]) == 30
