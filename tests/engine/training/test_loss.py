"""The loss at labels is the model's own loss, for each family's output layer, and its gradient is the same too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import CannotContinue
from tests.engine.export.families import adapter_on, build
from tests.engine.runs import losses, plan, train

SIZE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "llama tied": {**GROUPED, "tie_word_embeddings": True},
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": {**GROUPED, "head_dim": 8},
    "granite": {**GROUPED, "logits_scaling": 7.0},
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "phi": SIZE,  # its output layer has a bias
    "phi3": GROUPED,
    "gpt_neox": SIZE,
    "mixtral": {**GROUPED, "num_local_experts": 2},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2,
             "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}  # fmt: skip
FLAGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 3}


def built(family: str, **lora: Any) -> Any:
    """A LoRA of all linear layers, not at zero, on a model with every parameter (biases, norms) away from its start."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family.split()[0], **FAMILIES[family]), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    lora.setdefault("target_modules", "all-linear")
    return get_peft_model(model, LoraConfig(init_lora_weights=False, fan_in_fan_out=family == "gpt2", **lora))


def batch() -> dict[str, Any]:
    """(3, 11) tokens; the first row has no label, the others half."""
    import torch

    ids = torch.randint(1, 97, (3, 11), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :5] = labels[0] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def gradients(model: Any) -> dict[str, Any]:
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


def agree(model: Any) -> None:
    import torch

    from engine.training.loss import LossAtLabels

    inputs = batch()
    own = model(**inputs, use_cache=False).loss
    own.backward()
    wanted = gradients(model)
    at_labels = LossAtLabels(model.get_base_model())
    assert at_labels.differs() is None
    at_labels.rows = 5  # 12 labels: two whole pieces and a part
    loss = model(**inputs, label_loss=True) / 12
    loss.backward()
    found = gradients(model)
    assert float(loss.detach()) == pytest.approx(float(own.detach()), abs=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_the_models_own(family: str) -> None:
    agree(built(family))


def test_an_adapter_of_another_tool_on_the_output_layer_is_refused_by_the_plan(tmp_path: Path, chat_file: Path) -> None:
    base = build(tmp_path / "base", "llama")
    theirs = adapter_on(base, tmp_path / "theirs", target_modules=["q_proj", "lm_head"]) / "final"
    with pytest.raises(CannotContinue) as told:
        plan(dataset=chat_file, model=base, output=tmp_path / "out", init_from=theirs, **FLAGS)
    assert "on lm_head, the output layer" in told.value.detail


def test_a_saved_copy_of_the_output_layer_gets_its_gradient() -> None:
    agree(built("qwen2", target_modules=["q_proj"], modules_to_save=["lm_head"]))


def test_a_batch_without_labels_is_a_zero_that_can_be_differentiated() -> None:
    from engine.training.loss import LossAtLabels

    model, inputs = built("llama"), batch()
    LossAtLabels(model.get_base_model()).differs()
    inputs["labels"].fill_(-100)
    loss = model(**inputs, label_loss=True)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(model).values())


def test_every_module_is_in_training_mode_in_every_step(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from engine.training.sft import ExactTrainer

    modes = []
    own = ExactTrainer.compute_loss

    def compute_loss(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            modes.append({module.training for module in model.modules()})
        return own(self, model, *arguments, **options)

    monkeypatch.setattr(ExactTrainer, "compute_loss", compute_loss)
    # an evaluation and a save, whose probe is scored in evaluation mode, lie between the steps
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", eval_fraction=0.25, **FLAGS)
    assert len(modes) > 3
    assert all(mode == {True} for mode in modes)


def test_no_more_than_one_piece_of_logits_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from engine.training.loss import LossAtLabels

    model = built("llama")
    at_labels = LossAtLabels(model.get_base_model())
    at_labels.differs()
    at_labels.rows = 5
    rows = []
    own = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda scores, dim: rows.append(len(scores)) or own(scores, dim))
    model(**batch(), label_loss=True)
    assert rows == [5, 5, 2]


def test_a_model_with_another_way_to_its_logits_is_refused_and_left_as_it_was() -> None:
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    from engine.training.loss import LossAtLabels

    # OPT's forward calls what is inside its backbone, not the backbone.
    model = OPTForCausalLM(
        OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4)
    ).eval()
    inputs = batch()
    before = model(**inputs).loss
    at_labels = LossAtLabels(model)
    assert at_labels.differs()
    at_labels.detach()
    assert torch.equal(model(**inputs).loss, before)


@pytest.mark.parametrize("more", [{}, {"grad_accum": 3}, {"eval_fraction": 0.25}], ids=["plain", "accumulated", "evaluated"])
def test_a_run_logs_the_same_losses_with_all_logits(
    tmp_path: Path, tiny_model: Path, chat_file: Path, more: dict[str, Any]
) -> None:
    told = {}
    for logits in ("labels", "all"):
        out = tmp_path / logits
        _outcome, events = train(dataset=chat_file, model=tiny_model, output=out, logits=logits, **FLAGS, **more)
        (started,) = [event for event in events if event.type == "run_started"]
        assert started.choices["logits"].startswith(logits)  # type: ignore[attr-defined]
        steps = [(event.step, event.tokens) for event in events if event.type == "step"]  # type: ignore[attr-defined]
        evals = [event.eval_loss for event in events if event.type == "evaluated"]  # type: ignore[attr-defined]
        told[logits] = (steps, [loss for _step, loss in losses(out)], evals)
    assert told["labels"][0] == told["all"][0]
    assert told["labels"][1] == pytest.approx(told["all"][1], abs=1e-5)
    assert told["labels"][2] == pytest.approx(told["all"][2], abs=1e-5)
    assert bool(told["labels"][2]) == ("eval_fraction" in more)


def test_a_batch_without_a_label_adds_nothing_to_the_eval_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several processes measure, one that has no row left is given one without labels; the stock mean over none is no number."""
    import torch
    from trl import SFTTrainer

    from engine.training.sft import ExactTrainer

    trainer = ExactTrainer.__new__(ExactTrainer)
    trainer._evaluated = [2.0, 4]
    mean = torch.nn.functional.cross_entropy(torch.zeros(1, 3), torch.tensor([-100]))
    monkeypatch.setattr(SFTTrainer, "prediction_step", lambda *_arguments, **_options: (mean, None, None))
    trainer.prediction_step(None, {"labels": torch.tensor([[-100, -100]])}, True)
    assert trainer._evaluated == [2.0, 4]
