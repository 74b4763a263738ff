"""A base model that is shared out among the processes of a run: the same training, whatever became of the processes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.scan import scan
from engine.journal import read_journal
from tests.cluster.world import KILL, Run, flags, steps_told, wait_until
from tests.conftest import build_tiny_model
from tests.engine.runs import adapter_bytes, losses, receipt, train

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "learning_rate": 0.01,
    "save_steps": 3,
    "lora_dropout": 0.1,
    "batch_size": 2,
    "keep": 9,
}
TOLERANCE = 2e-6
DEEPSPEED_NEEDED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="its extra is not installed")
WAYS = pytest.mark.parametrize("way", ["fsdp2", pytest.param("deepspeed", marks=DEEPSPEED_NEEDED)])


def run_of(folder: Path, name: str, *words: str, **more: Any) -> Path:
    out = folder / name
    run = Run(folder, "--yes", *words, *flags(output=out, **{**SETTINGS, **more}), name=name)
    assert run.code() == 0, run.said()
    return out


def tied_model(folder: Path) -> Path:
    """A tiny model whose output layer is its embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(build_tiny_model(folder))
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def apart(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> float:
    """The largest difference between the losses of two runs."""
    return max(abs(mine - theirs) for (_s, mine), (_t, theirs) in zip(one, other, strict=True))


def gpt2(folder: Path, like: Path) -> Path:
    """A tiny model for whose layers transformers has no plan, with the tokenizer of `like`."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(like)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@WAYS
def test_three_processes_with_evaluation_come_back_after_a_kill(
    tmp_path: Path, tiny_model: Path, chat_file: Path, way: str
) -> None:
    asked = {"dataset": chat_file, "model": tiny_model, "nproc": 3, "parallel": way, "eval_fraction": 0.2}
    whole = run_of(tmp_path, "whole", **asked)
    out = tmp_path / "killed"
    run = Run(tmp_path, "--yes", *flags(output=out, **{**SETTINGS, **asked}))
    wait_until(lambda: steps_told(out) >= 4, run)
    run.worker(2).send_signal(KILL)
    assert run.code() == 0, run.said()
    assert adapter_bytes(out) == adapter_bytes(whole) and losses(out) == losses(whole)
    assert [record for record in read_journal(out) if record["type"] == "evaluated"]


@pytest.mark.parametrize("words", [(), ("--activation-checkpointing",)], ids=["plain", "computed-twice"])
@DEEPSPEED_NEEDED
def test_deepspeed_s_parts_learn_what_the_whole_learns(
    tmp_path: Path, tiny_model: Path, chat_file: Path, words: tuple[str, ...]
) -> None:
    """To the last digits: the layers it brings together lie elsewhere in memory, where products of matrices round otherwise."""
    for model in (tiny_model, tied_model(tmp_path / "tied"), gpt2(tmp_path / "gpt2", tiny_model)):
        asked = {"dataset": chat_file, "nproc": 2, "lora_kernel": "peft", "model": model}
        whole, parts = (
            run_of(tmp_path, f"{model.name}-{name}", *words, parallel=name, **asked) for name in ("ddp", "deepspeed")
        )
        assert apart(losses(whole), losses(parts)) < 5 * TOLERANCE


@pytest.mark.parametrize("logits", ["labels", "all"])
def test_a_tied_model_learns_in_parts_what_it_learns_whole(tmp_path: Path, chat_file: Path, logits: str) -> None:
    asked = {"dataset": chat_file, "model": tied_model(tmp_path / "model"), "nproc": 2, "logits": logits}
    whole, parts = (run_of(tmp_path, name, parallel=name, **asked) for name in ("ddp", "fsdp2"))
    assert losses(whole) == losses(parts)
    assert adapter_bytes(whole) == adapter_bytes(parts)


@WAYS
@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_saved_in_parts_goes_on_whole(
    tmp_path: Path, tiny_model: Path, chat_file: Path, processes: int, way: str
) -> None:
    asked = {"dataset": chat_file, "model": tiny_model, "lora_dropout": 0.0}
    straight = run_of(tmp_path, "straight", nproc=2, parallel="ddp", **asked)
    out = run_of(tmp_path, "parts", nproc=2, parallel=way, **asked)
    for path in out.iterdir():
        if path.name.startswith("checkpoint-") and path.name != "checkpoint-3":
            shutil.rmtree(path)
    shutil.rmtree(out / "final")
    if processes == 1:
        _outcome, events = train(output=out, nproc=1)
        assert set(receipt(events).values()) <= {"ok", "changed"}
        assert apart(losses(out), losses(straight)) < TOLERANCE
    else:
        run = Run(tmp_path, "--yes", "--output", out, "--parallel", "ddp")
        assert run.code() == 0, run.said()
        assert way == "deepspeed" or adapter_bytes(out) == adapter_bytes(straight)
        assert apart(losses(out), losses(straight)) < TOLERANCE
    assert {one.grade for one in scan(out).checkpoints} == {"proven"}


@WAYS
def test_a_run_in_parts_goes_back_when_the_loss_leaves_its_path(
    tmp_path: Path, taught_model: Path, chat_file: Path, way: str
) -> None:
    asked = {"nproc": 2, "parallel": way, "scheduler": "constant", "warmup": 0, "save_steps": 4}
    out = run_of(
        tmp_path, "jumps", dataset=chat_file, model=taught_model, **{**asked, "max_steps": 40, "learning_rate": 5e-3}
    )
    again = {"learning_rate": 1.0, "max_steps": 70, "max_grad_norm": 0, "on_jump": "rollback"}
    run = Run(tmp_path, "--yes", *flags(output=out, **again))
    assert run.code() in (0, 1), run.said()
    assert [record for record in read_journal(out) if record["type"] == "rolled_back"]


def test_a_model_whose_layers_no_plan_fits_is_refused(tmp_path: Path, chat_file: Path, tiny_model: Path) -> None:
    asked = {"dataset": chat_file, "model": gpt2(tmp_path / "gpt2", tiny_model), "nproc": 2, "parallel": "fsdp2"}
    run = Run(tmp_path, "--yes", *flags(output=tmp_path / "out", **{**SETTINGS, **asked}))
    assert run.code() == 4, run.said()
    assert "--parallel ddp" in run.said()
