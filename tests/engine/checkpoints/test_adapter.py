"""Adapters: whole, of the shape that their configuration says, and such as a run can carry on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from engine.checkpoints.checkpoint import Grade
from engine.checkpoints.choose import weights_fallback
from engine.checkpoints.inspect import inspect_folder
from tests.engine.checkpoints.folders import (
    adapter_config,
    adapter_tensors,
    codes,
    write_json,
)

STATE, ADAPTER, CONFIG = "trainer_state.json", "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize("dtype", [numpy.float16, numpy.float32, numpy.float64])
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_a_weight_that_is_no_number_breaks_it(whole: Path, dtype: type, value: float) -> None:
    tensors: dict[str, Any] = {name: tensor.astype(dtype) for name, tensor in adapter_tensors().items()}
    next(iter(tensors.values()))[1, 1] = value
    save_file(tensors, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"non_finite"}


@pytest.mark.parametrize("bad", [True, False])
def test_a_bfloat16_adapter_is_judged_by_its_bits(whole: Path, bad: bool) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {name: torch.from_numpy(tensor).to(torch.bfloat16) for name, tensor in adapter_tensors().items()}
    if bad:
        next(iter(tensors.values()))[0, 0] = float("nan")
    save_torch(tensors, str(whole / ADAPTER))
    assert inspect_folder(whole).grade is (Grade.BROKEN if bad else Grade.COMPLETE)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_an_adapter_with_weights_of_the_base_is_sound_and_said_not_to_be_continuable(whole: Path, name: str) -> None:
    """PEFT saves embeddings with it that grew, or have an adapter. A run would refuse them at its receipt, a new one from its weights
    as well."""
    save_file({**adapter_tensors(), f"base_model.model.{name}": numpy.ones((9, 5), numpy.float32)}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"adapter_not_carried_on"})
    assert weights_fallback([found]) is None and name in found.problems[0].message
    write_json(whole / CONFIG, adapter_config(modules_to_save=["lm_head", "embed_tokens"]))
    assert inspect_folder(whole).continuable, "trained whole"


def test_an_adapter_of_another_rank_than_its_configuration_is_broken(whole: Path) -> None:
    save_file(adapter_tensors(rank=8), str(whole / ADAPTER))
    assert codes(inspect_folder(whole)) == {"rank_mismatch"}


def test_a_layer_of_another_rank_that_the_configuration_names_is_sound(whole: Path) -> None:
    tensors = {name: tensor for name, tensor in adapter_tensors().items() if ".0." in name}
    tensors |= {name: tensor for name, tensor in adapter_tensors(rank=8).items() if ".1." in name}
    save_file(tensors, str(whole / ADAPTER))
    write_json(whole / CONFIG, adapter_config(rank_pattern={"layers.1.q_proj": 8}))
    assert inspect_folder(whole).grade is not Grade.BROKEN
    halves = {name: tensors[name.replace(".1.", ".0.") if "lora_B" in name else name] for name in tensors}
    save_file(halves, str(whole / ADAPTER))
    assert codes(inspect_folder(whole)) == {"rank_mismatch"}, "A of one rank, B of another"


@pytest.mark.parametrize("names", [[], ["base_model.model.lm_head.weight"]])
def test_an_adapter_without_a_lora_tensor_is_broken(whole: Path, names: list[str]) -> None:
    save_file({name: numpy.ones((9, 5), numpy.float32) for name in names}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"adapter_empty"}


def test_an_adapter_with_biases_is_whole_and_only_not_carried_on(whole: Path) -> None:
    """Of a pair PEFT gives lora_B alone a bias (lora_bias); nothing was lost."""
    write_json(whole / CONFIG, adapter_config(lora_bias=True))
    halves = [name for name in adapter_tensors() if "lora_B" in name]
    biases = {name.replace(".weight", ".bias"): numpy.zeros(8, numpy.float32) for name in halves}
    save_file({**adapter_tensors(), **biases}, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert (found.grade, found.continuable, codes(found)) == (Grade.COMPLETE, False, {"adapter_not_carried_on"})


@pytest.mark.parametrize("side", ["A", "B"])
def test_either_half_of_a_pair_that_is_lost_breaks_it(whole: Path, side: str) -> None:
    tensors = adapter_tensors()
    del tensors[f"base_model.model.layers.1.q_proj.lora_{side}.weight"]
    save_file(tensors, str(whole / ADAPTER))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"tensors_missing"}


@pytest.mark.parametrize(
    "broken", [{"r": "4"}, {"r": True}, {"r": 0}, {"lora_alpha": None}, {"peft_type": 3}, {"target_modules": 7}]
)
def test_an_adapter_configuration_of_the_wrong_types_is_broken(whole: Path, broken: dict[str, object]) -> None:
    write_json(whole / CONFIG, adapter_config(**broken))
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and codes(found) == {"adapter_config_invalid"}


def test_an_adapter_configuration_that_names_code_is_not_continued(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(auto_mapping={"base_model_class": "X", "parent_library": "evil.module"}))
    found = inspect_folder(whole)
    assert not found.continuable and codes(found) == {"adapter_config_imports"}


def test_an_adapter_for_megatron_names_a_package_and_is_not_continued(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(megatron_config={"x": 1}, megatron_core="evil"))
    found = inspect_folder(whole)
    assert not found.continuable and "adapter_config_imports" in codes(found)


@pytest.mark.parametrize("parent", ["transformers.models.llama.modeling_llama", None])
def test_a_class_of_a_known_package_is_no_code_to_import(whole: Path, parent: str | None) -> None:
    write_json(whole / CONFIG, adapter_config(auto_mapping={"base_model_class": "X", "parent_library": parent}))
    found = inspect_folder(whole)
    assert found.continuable and not found.problems


def test_an_old_pickled_adapter_is_listed_not_loaded(whole: Path) -> None:
    import torch

    (whole / ADAPTER).unlink()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in adapter_tensors().items()}, whole / "adapter_model.bin")
    found = inspect_folder(whole)
    assert found.grade is Grade.COMPLETE and not found.problems


def test_a_base_model_that_is_no_name_is_unknown(whole: Path) -> None:
    write_json(whole / CONFIG, adapter_config(base_model_name_or_path=["a"]))
    found = inspect_folder(whole).adapter
    assert found is not None and found.base_model is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"target_modules": ".*q_proj"}, "not a list of layer names"),
        ({"target_modules": ["q_proj", "lm_head"]}, "the output layer"),
        ({"bias": "all"}, "it sets bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "it sets init_lora_weights"),
        ({"task_type": "SEQ_CLS"}, "it sets task_type"),
        ({"trainable_token_indices": [1]}, "it sets trainable_token_indices"),
        ({"of_a_newer_peft": True}, "it sets of_a_newer_peft"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e+300"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_dropout": 1.5}, "lora_dropout is 1.5"),
        ({"lora_dropout": "much"}, "lora_dropout is 'much'"),
    ],
)
def test_an_adapter_that_a_run_would_refuse_is_said_not_to_be_continuable(
    whole: Path, changed: dict[str, Any], told: str
) -> None:
    write_json(whole / "adapter_config.json", {**adapter_config(), **changed})
    found = inspect_folder(whole)
    assert not found.continuable and found.grade is Grade.COMPLETE
    assert any(problem.code == "adapter_not_carried_on" and told in problem.message for problem in found.problems)
    assert weights_fallback([found]) is None, "a new run from its weights would be refused as well"


@pytest.mark.parametrize("kind", ["int32", "int8", "bool"])
def test_an_adapter_of_whole_numbers_is_broken(whole: Path, kind: str) -> None:
    """Converted to them, all that is near zero is zero."""
    save_file({name: tensor.astype(kind) for name, tensor in adapter_tensors().items()}, whole / ADAPTER)
    found = inspect_folder(whole)
    assert found.grade is Grade.BROKEN and "not_fractions" in codes(found)


def test_so_is_an_older_pickle_of_whole_numbers(whole: Path) -> None:
    import torch

    (whole / ADAPTER).unlink()
    torch.save({name: torch.from_numpy(one).int() for name, one in adapter_tensors().items()}, whole / "adapter_model.bin")
    assert "not_fractions" in codes(inspect_folder(whole))


@pytest.mark.parametrize("named", ["", " ", None])
def test_a_base_model_that_has_no_name_is_not_known(named: str | None, whole: Path) -> None:
    """PEFT writes "" where the model was made from no folder; no model that is asked for has that name."""
    write_json(whole / CONFIG, adapter_config(base_model_name_or_path=named))
    found = inspect_folder(whole).adapter
    assert found is not None and found.base_model is None
