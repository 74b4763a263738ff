"""The fused layer gives PEFT's numbers, within what float32 rounds, and steps aside where it is not the same thing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from engine.config import RunConfig
from engine.hardware import Hardware
from engine.training.lora_kernel import choose_kernel, fuse
from tests.engine.runs import plan, train


def model_of(width: int, out: int, bias: bool, **shape: Any) -> Any:
    torch.manual_seed(0)
    base = torch.nn.Sequential(
        torch.nn.Linear(width, out, bias=bias), torch.nn.Tanh(), torch.nn.Linear(out, width, bias=bias)
    )
    found = get_peft_model(base, LoraConfig(target_modules=["0", "2"], **{"r": 3, "lora_alpha": 5, **shape}))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return found


def numbers(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of the input and of all that is trained."""
    x = x.clone().requires_grad_(True)
    out = model(x)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [out, *torch.autograd.grad(out.pow(2).sum(), (x, *trained))]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_those_of_peft(
    shape: list[int], width: int, out: int, rank: int, bias: bool, rslora: bool
) -> None:
    model = model_of(width, out, bias, r=rank, use_rslora=rslora)
    x = torch.randn(*shape, width)
    wanted = numbers(model, x)
    assert fuse(model) == 2
    for found, expected in zip(numbers(model, x), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.detach().abs().max())))


def test_without_its_adapter_a_fused_layer_is_the_bare_one() -> None:
    model = model_of(8, 8, True)
    x = torch.randn(2, 8)
    with model.disable_adapter():
        bare = model(x)
    fuse(model)
    with model.disable_adapter():
        assert torch.equal(model(x), bare)
    assert not torch.equal(model(x), bare)


@pytest.mark.parametrize("shape", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_not_plain_stays_peft_s(shape: dict[str, Any]) -> None:
    assert fuse(model_of(8, 8, True, **shape)) == 0


def errors(found: list[torch.Tensor], truth: list[torch.Tensor]) -> list[float]:
    """As shares of the greatest number."""
    return [float((a.detach().double() - b).abs().max() / b.detach().abs().max()) for a, b in zip(found, truth, strict=True)]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_over_a_base_in_bfloat16_it_is_as_near_the_truth_as_peft_is(bias: bool, device: str) -> None:
    """The truth: the same numbers in float64."""
    model = model_of(64, 96, bias).to(device)
    for layer in (model.base_model.model[0], model.base_model.model[2]):
        layer.base_layer.to(torch.bfloat16)
    x = torch.randn(40, 64, device=device).to(torch.bfloat16)
    truth = numbers(copy.deepcopy(model).double(), x.double())
    with_peft = numbers(model, x)
    assert fuse(model) == 2
    fused = numbers(model, x)
    assert [one.dtype for one in fused] == [one.dtype for one in with_peft]
    assert max(errors(fused, truth)) < max(0.02, 2 * max(errors(with_peft, truth)))


def model_in_4_bit() -> Any:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the gpu extra is not installed")
    torch.manual_seed(0)
    kind = {"compute_dtype": torch.bfloat16, "quant_type": "nf4", "compress_statistics": True}
    base = torch.nn.Sequential(
        bitsandbytes.nn.Linear4bit(64, 128, bias=True, **kind),
        torch.nn.Tanh(),
        bitsandbytes.nn.Linear4bit(128, 64, bias=False, **kind),
    )
    base.is_loaded_in_4bit = True
    found = get_peft_model(base, LoraConfig(target_modules=["0", "2"], r=3, lora_alpha=5))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return found.to("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("between", [torch.nn.Tanh(), torch.nn.ReLU(inplace=True)], ids=["left", "changed in place"])
def test_over_a_base_in_4_bit_it_gives_the_numbers_of_peft(between: torch.nn.Module) -> None:
    model = model_in_4_bit()
    model.base_model.model[1] = between
    x = torch.randn(5, 8, 64, device=next(model.parameters()).device).to(torch.bfloat16)
    wanted = numbers(model, x)
    assert fuse(model) == 2
    assert max(errors(numbers(model, x), [one.double() for one in wanted])) < 0.02


def test_a_layer_in_float16_stays_peft_s() -> None:
    model = model_of(8, 8, False)
    for layer in (model.base_model.model[0], model.base_model.model[2]):
        layer.base_layer.to(torch.float16)
    assert fuse(model) == 0


@pytest.mark.parametrize(
    ("asked", "device", "precision", "saved", "fused"),
    [
        ({}, "cpu", "float32", {}, True),
        ({"lora_kernel": "peft"}, "cpu", "float32", {}, False),
        ({"lora_dropout": 0.1}, "cpu", "float32", {}, False),
        ({}, "cpu", "bfloat16", {}, True),
        ({}, "cuda", "bfloat16", {}, True),
        ({"load_in_4bit": True}, "cuda", "bfloat16", {}, True),
        ({"lora_kernel": "fused"}, "cuda", "float16", {}, False),
        ({}, "cpu", "float32", {"use_dora": True}, False),
        ({}, "mps", "float32", {}, False),
        ({"lora_kernel": "fused"}, "mps", "float32", {}, True),
    ],
)
def test_the_choice_has_a_reason(
    asked: dict[str, Any], device: str, precision: str, saved: dict[str, Any], fused: bool
) -> None:
    found, words = choose_kernel(RunConfig(**asked), Hardware(device, "", precision, ""), saved)
    assert found == fused
    assert words.startswith("fused · " if fused else "peft · ")


def test_a_run_learns_the_same_with_either(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    from tests.engine.runs import losses, train

    for kernel in ("auto", "peft"):
        train(
            dataset=chat_file, model=tiny_model, output=tmp_path / kernel, epochs=2, learning_rate=1e-2, lora_kernel=kernel
        )
    pairs = list(zip(losses(tmp_path / "auto"), losses(tmp_path / "peft"), strict=True))
    assert len(pairs) > 5
    assert max(abs(mine - theirs) for (_s, mine), (_t, theirs) in pairs) < 2e-5


def test_a_fused_layers_output_may_be_changed_in_place() -> None:
    """As Gemma-3n does; a view that a Function returns must not be."""
    stock = model_of(5, 4, bias=False)
    fused = copy.deepcopy(stock)
    assert fuse(fused) == 2
    x = torch.randn(2, 3, 5)
    for model in (stock, fused):
        model.base_model.model[1] = torch.nn.ReLU(inplace=True)
    for one, other in zip(numbers(stock, x), numbers(fused, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_run_that_could_never_be_continued_does_not_begin(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    """Experts that are one tensor: what PEFT puts on them is not built again here."""
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    from engine.errors import ModelError

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "moe")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=2, **small)  # type: ignore[arg-type]
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    flags: dict[str, Any] = {"dataset": chat_file, "model": tmp_path / "moe", "batch_size": 4, "max_steps": 1}
    with pytest.raises(ModelError, match="could not be continued") as refused:
        train(**flags, output=tmp_path / "all")
    assert "--target-modules q_proj" in refused.value.fix and not list((tmp_path / "all").glob("checkpoint-*"))
    train(**flags, output=tmp_path / "some", target_modules="q_proj,v_proj")
    assert plan(output=tmp_path / "some", max_steps=2).mode == "continue"
