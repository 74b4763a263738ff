"""What is told of a model without loading it, held against the loaded model; and the memory estimated from that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from engine.config import RunConfig
from engine.errors import ModelError
from engine.hardware import Hardware
from engine.models.folder import load_tokenizer
from engine.models.report import ModelReport, model_report, torn
from engine.training.estimate import TIGHT, Fitted, Memory, estimate_memory, fit_batch


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "m"))


def test_parameters_are_those_of_the_loaded_model(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert model_report(str(tiny_model)).parameters == sum(one.numel() for one in loaded.parameters())


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_that_lie_there_a_second_time_in_their_makers_layout_are_not_counted(sharded: bool, copy: Path) -> None:
    """As Mistral's consolidated.safetensors does, which transformers never loads."""
    told = model_report(str(copy))
    tensors = load_file(copy / "model.safetensors")
    save_file({f"again.{name}": tensor for name, tensor in tensors.items()}, copy / "consolidated.safetensors")
    if sharded:
        (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
        weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    again = model_report(str(copy))
    assert (again.parameters, again.bytes, again.linear) == (told.parameters, told.bytes, told.linear)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_trainable_parameters_are_those_that_peft_makes(tiny_model: Path, rank: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert model_report(str(tiny_model)).trainable(rank) == made.get_nb_trainable_parameters()[0]


def test_shape_context_and_template_are_told(tiny_model: Path) -> None:
    found = model_report(str(tiny_model))
    assert (found.architecture, found.layers, found.hidden, found.intermediate) == ("LlamaForCausalLM", 2, 32, 64)
    assert (found.context, found.chat_template, found.dtype, found.stopped) == (256, True, "F32", None)


def test_a_model_without_a_template_is_told(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not model_report(str(copy)).chat_template
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    assert model_report(str(copy)).chat_template


def test_a_folder_without_weights_is_stopped(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert model_report(str(copy)).stopped is not None


def test_damaged_weights_are_stopped(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\xff" * 64)
    assert model_report(str(copy)).stopped is not None


def test_a_file_of_weights_that_only_the_index_knows_is_named_before_the_start_and_by_it(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = copy / "model.safetensors.index.json"
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    stopped, loading = model_report(str(copy)).stopped, torn(copy)
    assert stopped is not None and loading is not None
    assert stopped.detail == loading.detail == "model-00002-of-00002.safetensors is missing."
    index.write_text(json.dumps({"weight_map": {"a": files["a"]}}))
    assert model_report(str(copy)).stopped is None
    index.write_text("[")
    assert model_report(str(copy)).stopped is None, "told by whoever loads it"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_type": 3}', '{"num_hidden_layers": "two"}'])
def test_a_damaged_config_is_stopped(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    assert model_report(str(copy)).stopped is not None


@pytest.mark.parametrize("value", [0, -1, True, 10**30, "2"])
def test_a_size_that_no_model_has_is_not_known(value: object, copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"vocab_size": value, "num_hidden_layers": value}))
    found = model_report(str(copy))
    assert (found.vocabulary, found.layers) == (None, None) and found.hidden == 32


def test_a_tokenizer_whose_unknown_token_is_none_of_its_tokens_is_told(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": ""}))
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_tokenizer(copy)


def test_a_hub_id_that_is_not_here_is_not_fetched() -> None:
    found = model_report("nobody/nothing-at-all")
    assert found.stopped is not None
    assert "is not on this machine" in found.stopped.title


def test_torch_is_not_needed(tiny_model: Path) -> None:
    code = "import sys; from engine.models.report import model_report; model_report(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tiny_model)], check=False).returncode == 0


MODEL = ModelReport(
    "m", Path("m"), "LlamaForCausalLM", 600_000_000, "BF16", 1_200_000_000, 28, 1024, 3072, 151_936, 40_960, True,
    ((1024, 1024), (3072, 1024)), None,
)  # fmt: skip


BF16 = Hardware("cpu", "", "bfloat16", "")


def memory(
    batch_size: int = 8, length: int = 1024, precision: str = "bfloat16", checkpointing: bool = False, **asked: object
) -> Memory:
    config = RunConfig.model_validate({"dataset": "d", "model": "m", **asked})
    found = estimate_memory(MODEL, config, Hardware("cpu", "", precision, ""), batch_size, length, checkpointing)
    assert found is not None
    return found


@given(st.integers(1, 64), st.integers(1, 1024))
def test_memory_grows_with_the_batch_and_the_length(batch_size: int, length: int) -> None:
    assert memory(batch_size, length).total < memory(batch_size + 1, length).total
    assert memory(batch_size, length).total <= memory(batch_size, length + 1).total


def test_rows_are_no_longer_than_max_length() -> None:
    assert memory(length=5_000, max_length=512) == memory(length=512, max_length=512)


def test_weights_take_their_bytes_at_their_precision() -> None:
    assert (memory().weights, memory(precision="float32").weights) == (1_200_000_000, 2_400_000_000)


def test_what_saves_memory_saves_it() -> None:
    assert memory(checkpointing=True).activations < memory().activations / 4
    assert memory(load_in_4bit=True).weights < memory().weights / 3
    assert memory(lora_r=8).adapter == memory(lora_r=16).adapter / 2


def test_a_model_that_tells_too_little_is_not_guessed_at() -> None:
    from dataclasses import replace

    config = RunConfig.model_validate({"dataset": "d", "model": "m"})
    assert estimate_memory(replace(MODEL, layers=None), config, BF16, 8, 128) is None


def fitted(free: int, rows: int = 100, saved: int | None = None, **asked: object) -> Fitted:
    config = RunConfig.model_validate({"dataset": "d", "model": "m", **asked})
    return fit_batch(MODEL, config, BF16, rows, 1024, free, saved)


def test_where_there_is_room_the_batch_is_8_and_nothing_is_computed_twice() -> None:
    found = fitted(10**12)
    assert (found.batch_size, found.checkpointing) == (8, False)


@given(st.integers(10**9, 10**11))
def test_what_is_chosen_fits_or_is_the_least_there_is(free: int) -> None:
    found = fitted(free)
    assert found.memory is not None
    assert found.memory.total <= free or (found.batch_size, found.checkpointing) == (1, True)


@given(st.integers(10**9, 10**11), st.integers(10**9, 10**11))
def test_more_memory_never_means_a_smaller_batch_without_checkpointing(one: int, other: int) -> None:
    less, more = fitted(min(one, other)), fitted(max(one, other))
    assert (not more.checkpointing, more.batch_size) >= (not less.checkpointing, less.batch_size) or less.checkpointing


def in_parts(free: int, world: int = 4, **asked: object) -> Fitted:
    config = RunConfig.model_validate({"dataset": "d", "model": "m", **asked})
    return fit_batch(MODEL, config, BF16, 100, 1024, free, None, world)


@given(st.integers(10**9, 10**11))
def test_a_model_is_cut_into_parts_only_where_the_whole_of_it_would_not_fit(free: int) -> None:
    alone, found = fitted(free), in_parts(free)
    assert alone.memory is not None
    assert (found.parallel == "fsdp2") == (alone.memory.total > int(TIGHT * free))
    assert (found.parallel == "fsdp2") == bool(found.parallel_reason)


@pytest.mark.parametrize("asked", ["ddp", "fsdp2", "deepspeed"])
def test_what_was_asked_of_the_model_s_parts_wins(asked: str) -> None:
    for free in (10**9, 10**12):
        found = in_parts(free, parallel=asked)
        assert (found.parallel, found.parallel_reason) == (asked, "as set")


def test_there_are_no_parts_of_one_process_nor_of_four_bits() -> None:
    assert in_parts(10**9, world=1, parallel="fsdp2").parallel == "ddp"
    assert in_parts(10**9, load_in_4bit=True).parallel == "ddp"
    with pytest.raises(ValidationError, match="load-in-4bit"):
        in_parts(10**9, load_in_4bit=True, parallel="fsdp2")


@given(st.integers(2, 64))
def test_more_parts_are_smaller_parts(parts: int) -> None:
    config = RunConfig.model_validate({"dataset": "d", "model": "m"})
    needs = [estimate_memory(MODEL, config, BF16, 1, 64, False, count) for count in (parts, parts + 1)]
    assert needs[0] is not None and needs[1] is not None
    assert needs[1].weights < needs[0].weights


def test_a_smaller_batch_says_what_the_larger_one_would_need() -> None:
    need = memory(8).total
    found = fitted(int(need * 0.8))
    assert found.batch_size < 8
    assert f"8 rows would need about {need / 1e9:.1f} GB" in found.batch_reason


def test_what_was_set_or_saved_is_kept_whatever_there_is() -> None:
    assert fitted(10**9, batch_size=16).batch_size == 16
    assert fitted(10**9, saved=8).batch_size == 8
    assert not fitted(10**9, activation_checkpointing=False).checkpointing


def test_a_model_that_fits_by_a_smaller_batch_is_told_with_the_batch_a_run_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine.training.expect import expect_of

    eight = memory(precision="float32").total
    monkeypatch.setattr("engine.training.expect.free_memory", lambda _device: (eight, 2 * eight))
    found = expect_of(MODEL, None, RunConfig(precision="float32"))
    assert found.fitted.batch_size == 4 and found.fitted.memory is not None and found.otherwise is not None
    assert found.otherwise.total < found.fitted.memory.total < found.free


@pytest.mark.parametrize("inside", ["Qwen3", "snapshots/0123abc"])
def test_a_model_that_lies_in_a_folder_of_the_one_that_was_named_is_named(
    inside: str, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / inside)
    found = model_report(str(tmp_path)).stopped
    assert found is not None and str(tmp_path / inside) in (found.fix or "")
