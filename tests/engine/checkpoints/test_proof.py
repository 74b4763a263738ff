"""A checkpoint with a manifest: what proves it, and what takes the proof away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.manifest import Probe, Process, dump_manifest, parse_manifest
from tests.engine.checkpoints.folders import HEX, codes, seal, undigested

PROBE: dict[str, Any] = {"rows": [HEX, HEX], "loss": 1.5, "base_loss": 2.5, "precision": "float32"}
GEOMETRY = {"batch_size": 3, "grad_accum": 4, "world_size": 2}
OTHER: dict[str, Any] = {"rng": HEX, "loss_sum": None}
STATE, ADAPTER, CONFIG = "trainer_state.json", "adapter_model.safetensors", "adapter_config.json"


def test_a_manifest_that_holds_makes_it_proven(proven: Path) -> None:
    found = inspect_folder(proven)
    assert (found.grade, found.continuable, found.problems) == (Grade.PROVEN, True, ())
    assert (found.run, found.made_by, found.loss, found.saved_at) == ("run-of-ours", "lora-tui", 0.25, 1_700_000_000.0)


def test_a_checkpoint_of_a_real_run_of_ours_is_proven(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    from tests.engine.runs import train

    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", max_steps=2, batch_size=4)
    found = inspect_folder(tmp_path / "run" / "checkpoint-2")
    assert (found.grade, found.continuable, found.problems) == (Grade.PROVEN, True, ())


def test_without_verifying_nothing_is_called_proven(proven: Path) -> None:
    found = inspect_folder(proven, verify=False)
    assert (found.grade, found.continuable) == (Grade.COMPLETE, True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", STATE])
def test_one_flipped_bit_in_the_training_state_leaves_only_the_weights(proven: Path, name: str) -> None:
    data = bytearray((proven / name).read_bytes())
    data[len(data) // 2] ^= 1
    (proven / name).write_bytes(data)
    found = inspect_folder(proven)
    assert found.grade is Grade.WEIGHTS_ONLY and not found.continuable and "digest_mismatch" in codes(found)


@pytest.mark.parametrize("name", [ADAPTER, CONFIG])
def test_one_flipped_bit_in_the_adapter_breaks_it(proven: Path, name: str) -> None:
    data = bytearray((proven / name).read_bytes())
    data[-3] ^= 1
    (proven / name).write_bytes(data)
    assert inspect_folder(proven).grade is Grade.BROKEN


def test_a_listed_file_that_is_missing_is_told(proven: Path) -> None:
    (proven / "scheduler.pt").unlink()
    found = inspect_folder(proven)
    assert found.grade is Grade.WEIGHTS_ONLY and {"file_missing", "scheduler_missing"} <= codes(found)


def test_a_pickle_put_beside_a_proven_checkpoint_takes_the_proof_away(proven: Path) -> None:
    (proven / "adapter_model.bin").write_bytes(b"\x80\x02.")
    found = inspect_folder(proven)
    assert found.grade is not Grade.PROVEN and not found.continuable and "unlisted_file" in codes(found)


def test_a_note_put_beside_a_proven_checkpoint_does_no_harm(proven: Path) -> None:
    (proven / "notes.txt").write_text("the good one")
    assert inspect_folder(proven).grade is Grade.PROVEN


@pytest.mark.parametrize("text", [b"Adaqter", b"Adapter and more", None], ids=["changed", "longer", "gone"])
def test_a_damaged_readme_is_told_and_nothing_that_a_run_needs(text: bytes | None, whole: Path) -> None:
    (whole / "README.md").write_bytes(b"Adapter")
    seal(whole)
    if text is not None:
        (whole / "README.md").write_bytes(text)
    else:
        (whole / "README.md").unlink()
    found = inspect_folder(whole)
    assert found.grade is Grade.COMPLETE and found.continuable
    assert [problem.message for problem in found.problems if "README.md" in problem.message]


@pytest.mark.usefixtures("as_anybody")
def test_a_file_that_may_not_be_read_is_told_once(proven: Path) -> None:
    (proven / "optimizer.pt").chmod(0)
    assert [problem.code for problem in inspect_folder(proven).problems] == ["unreadable"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema_version": 1}', "[" * 100_000, "\0" * 900],
    ids=["empty", "torn", "list", "null", "short", "deep", "zeros"],
)
def test_an_unreadable_manifest_leaves_only_the_weights(proven: Path, text: str) -> None:
    (proven / "manifest.json").write_text(text)
    found = inspect_folder(proven)
    assert found.grade is Grade.WEIGHTS_ONLY and "manifest_invalid" in codes(found)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bit_of_a_manifest_can_turn_and_the_checkpoint_stay_proven(proven: Path, at: float, bit: int) -> None:
    whole = (proven / "manifest.json").read_bytes()
    turned = bytearray(whole)
    turned[int(at * len(whole))] ^= 1 << bit
    (proven / "manifest.json").write_bytes(turned)
    found = inspect_folder(proven)
    (proven / "manifest.json").write_bytes(whole)
    assert found.grade is Grade.WEIGHTS_ONLY and "manifest_invalid" in codes(found)


def test_an_older_manifest_without_its_own_digest_is_believed(proven: Path) -> None:
    (proven / "manifest.json").write_text(json.dumps(undigested(proven / "manifest.json")))
    assert inspect_folder(proven).grade is Grade.PROVEN


def test_what_is_wrong_with_a_manifest_is_said_with_its_place(proven: Path) -> None:
    told = json.loads((proven / "manifest.json").read_text())
    (proven / "manifest.json").write_text(json.dumps({**told, "cursor": {**told["cursor"], "epoch": "third"}}))
    assert any("cursor.epoch: " in problem.message for problem in inspect_folder(proven).problems)


def test_a_manifest_of_a_newer_version_is_told_as_one(proven: Path) -> None:
    told = undigested(proven / "manifest.json") | {"schema_version": 2, "step": "anew", "of_the_new_version": True}
    (proven / "manifest.json").write_text(json.dumps(told))
    found = inspect_folder(proven)
    assert found.grade is Grade.WEIGHTS_ONLY
    assert any("newer version" in problem.message for problem in found.problems)


@pytest.mark.parametrize(("where", "value"), [("schema_version", 0), ("geometry", 10**12)])
def test_a_manifest_with_another_number_beyond_its_bounds_is_of_no_newer_version(
    where: str, value: int, proven: Path
) -> None:
    told = undigested(proven / "manifest.json")
    told[where] = {**told["geometry"], "batch_size": value} if where == "geometry" else value
    (proven / "manifest.json").write_text(json.dumps(told))
    assert any(f"manifest.json cannot be read: {where}" in one.message for one in inspect_folder(proven).problems)


def test_a_manifest_that_is_not_what_was_written_is_told_as_that(proven: Path) -> None:
    whole = (proven / "manifest.json").read_text()
    (proven / "manifest.json").write_text(whole.replace('"step": 327', '"step": 328'))
    assert any("its own digest differs" in one.message for one in inspect_folder(proven).problems)


def test_a_manifest_that_was_laid_out_anew_is_not_what_was_written(proven: Path) -> None:
    told = json.loads((proven / "manifest.json").read_text())
    (proven / "manifest.json").write_text(json.dumps(told))
    assert any("its own digest differs" in one.message for one in inspect_folder(proven).problems)


def test_a_manifest_comes_back_as_it_was_and_can_be_read_by_a_person(whole: Path) -> None:
    probe = {**PROBE, "tokens": 64, "scored": ["1 *2", "*3 4"]}
    sealed = (seal(whole, probe=probe, geometry=GEOMETRY, others=[OTHER]) / "manifest.json").read_bytes()
    found = parse_manifest(sealed)
    assert found.probe == Probe.model_validate_json(json.dumps(probe)) and found.others == (Process(**OTHER),)
    assert dump_manifest(found) == sealed == json.dumps(json.loads(sealed), indent=1).encode()
    assert (found.geometry.rows, found.steps_done) == (24, 327)
    assert found.model_copy(update={"steps_taken": 320}).steps_done == 320
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_manifest(found.model_copy(update={"loss": float("nan")}))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"probe": {**PROBE, "scored": ["1 *2"]}}, "tokens of 1 rows, and 2 were scored"),
        ({"others": [OTHER, OTHER]}, "tells of 2 other processes, and there were 0"),
        ({"geometry": GEOMETRY}, "tells of 0 other processes, and there were 1"),
    ],
)
def test_a_manifest_whose_parts_do_not_go_together_is_no_manifest(changed: dict[str, Any], told: str, proven: Path) -> None:
    (proven / "manifest.json").write_text(json.dumps(undigested(proven / "manifest.json") | changed))
    assert any(told in one.message for one in inspect_folder(proven).problems)


def test_what_was_scored_need_not_be_told(proven: Path) -> None:
    """As older versions wrote it."""
    (proven / "manifest.json").write_text(json.dumps(undigested(proven / "manifest.json") | {"probe": PROBE}))
    assert inspect_folder(proven).grade is Grade.PROVEN


def test_a_manifest_that_git_has_not_fetched_is_told_as_that(proven: Path) -> None:
    (proven / "manifest.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "lfs_pointer" in codes(inspect_folder(proven))


def test_a_manifest_with_an_endless_epoch_is_no_manifest(proven: Path) -> None:
    text = json.dumps(undigested(proven / "manifest.json"))
    (proven / "manifest.json").write_text(text.replace('"epoch": 2.9', '"epoch": 1e999'))
    found = inspect_folder(proven)
    assert "manifest_invalid" in codes(found) and found.epoch == 2.9


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("cursor", "rows"), 0), (("cursor", "rows_consumed"), 10**9), (("cursor", "given_up"), -1.0),
        (("geometry", "batch_size"), 10**12),
        (("step",), 2**60), (("schedule", "learning_rate"), float("inf")), (("saved_at",), float("nan")),
        (("eval_loss",), float("-inf")),
    ],
)  # fmt: skip
def test_a_manifest_with_a_number_that_cannot_be_is_no_manifest(proven: Path, where: tuple[str, ...], value: float) -> None:
    told = undigested(proven / "manifest.json")
    place = told
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (proven / "manifest.json").write_text(json.dumps(told))
    found = inspect_folder(proven)
    assert not found.continuable and "manifest_invalid" in codes(found)


def test_a_manifest_and_a_state_of_different_steps_are_not_trusted(whole: Path) -> None:
    found = inspect_folder(seal(whole, step=400))
    assert not found.continuable and "manifest_disagrees" in codes(found)


def test_a_manifest_does_not_make_a_hostile_pickle_harmless(whole: Path, hostile_zip: Callable[[str], bytes]) -> None:
    (whole / "optimizer.pt").write_bytes(hostile_zip("os system"))
    found = inspect_folder(seal(whole))
    assert not found.continuable and "pickle_unsafe" in codes(found)
