"""The two sides of a case: ours, as `lora-tui --yes --resume auto` does it, and stock, as TRL's documentation does."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import LoraTuiError, OutputError
from engine.events import LossJumped, Step
from tests.catalogue.world import FLAGS, Case, World
from tests.engine.runs import plan, receipt, train


@dataclass(frozen=True)
class Told:
    """What we said."""

    when: str
    """plan | receipt | step n | -"""
    what: str
    went_on: bool


def ours(case: Case, world: World, run: Path) -> Told:
    """Make `case` happen and continue as `lora-tui --yes --resume auto` does."""
    flags: dict[str, Any] = {"output": run, **(case.change(world, run) or {})}
    with case.fault(world, run):
        told = _ours(flags)
    if case.after is not None:
        told = replace(told, what=f"{told.what}; {case.after(run)}")
    return told


def _ours(flags: dict[str, Any]) -> Told:
    try:
        decided = plan(**flags)
    except LoraTuiError as refused:
        return Told("plan", f"refused: {_why(refused)}", False)
    if decided.mode == "complete":
        return Told("plan", "already complete", False)
    name = decided.checkpoint.name if decided.checkpoint is not None else "-"
    told = [f"{passed.checkpoint.name} passed over: {passed.reason}" for passed in decided.passed_over]
    told += [f"{one.item}: {one.saved} -> {one.asked}, {one.winner} wins: {one.reason}" for one in decided.differences]
    if any(word in decided.reason for word in ("other run", "another run", "state counts")):
        told.append(decided.reason)
    events: list[Any] = []
    try:
        train(watch=events.append, **flags)
    except LoraTuiError as refused:
        if told:
            return Told("plan", "; ".join(told), False)
        steps = [event.step for event in events if isinstance(event, Step)]
        if steps:
            return Told(f"step {steps[-1]}", f"stopped: {refused.title}", False)
        checked = any(event.type == "resume_checked" for event in events)
        return Told("receipt" if checked else "plan", f"refused: {_why(refused)}", False)
    assert "failed" not in receipt(events).values()
    jumps = [event for event in events if isinstance(event, LossJumped) and event.kind != "spike"]
    if jumps:
        return Told(
            f"step {jumps[0].step}", f"{jumps[0].kind}: {jumps[0].before:.2f} -> {jumps[0].after or math.nan:.2f}", True
        )
    if told:
        return Told("plan", f"goes on from {name}; " + "; ".join(told), True)
    return Told("-", f"goes on from {name}", True)


def _why(refused: LoraTuiError) -> str:
    if isinstance(refused, OutputError):  # its detail names the process and the host
        return refused.title
    return refused.detail.splitlines()[0] if refused.detail else refused.title


def stock(case: Case, world: World, run: Path) -> str:
    """Make `case` happen and continue with TRL's SFTTrainer, as its documentation says."""
    from transformers.trainer_utils import get_last_checkpoint

    heard: list[str] = []
    handler = _Listener(heard)
    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "trl")]
    try:
        with _quiet(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            flags = {**FLAGS, "dataset": world.data, "model": world.model, **(case.change(world, run) or {})}
            if case.stock_rows is not None:
                flags["dataset"] = world.data
            for logger in loggers:
                logger.addHandler(handler)
            with case.fault(world, run):
                trainer = stock_trainer(world, run, flags, case.arguments, case.stock_rows)
                taken = Path(str(get_last_checkpoint(str(run))))
                before = len(json.loads((taken / "trainer_state.json").read_text())["log_history"])
                trainer.train(resume_from_checkpoint=True)
    except Exception as error:  # whatever it does is the finding
        words = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f"{type(error).__name__}: {short(words, world)}"
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    said = {short(text, world) for text in [*heard, *(str(one.message).splitlines()[0] for one in caught)] if _matters(text)}
    new = [row["loss"] for row in trainer.state.log_history[before:] if "loss" in row]
    losses = ", ".join(f"{loss:.2f}" for loss in new[:3]) or "no step"
    words = f"goes on from {taken.name}: {losses}; " + ("; ".join(sorted(said)) or "nothing said")
    return words if case.after is None else f"{words}; {case.after(run)}"


def stock_trainer(world: World, run: Path, flags: dict[str, Any], arguments: dict[str, Any], rows: Any = None) -> Any:
    """TRL's trainer with the same rows, LoRA and schedule."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from engine.config import RunConfig
    from engine.training.material import load_material

    flags = {"lora_r": 16, "lora_alpha": 32, "target_modules": "all-linear", "grad_accum": 1, **flags}
    targets, size = flags["target_modules"], flags["batch_size"]
    material = load_material(RunConfig(dataset=str(flags["dataset"]), model=str(flags["model"])))
    dataset = material.train.to_dataset()
    words: dict[str, Any] = {"save_strategy": "no", "save_steps": flags["save_steps"], **arguments}
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(flags["model"], dtype="float32"),
        args=SFTConfig(
            output_dir=str(run), per_device_train_batch_size=8 if size == "auto" else size, seed=42,
            learning_rate=flags["learning_rate"], num_train_epochs=flags["epochs"],
            max_steps=flags.get("max_steps", -1), gradient_accumulation_steps=flags["grad_accum"], logging_steps=1,
            lr_scheduler_type="cosine", warmup_steps=1, bf16=False, use_cpu=True, report_to=[],
            disable_tqdm=True, max_length=None, activation_checkpointing=False,
            max_grad_norm=flags.get("max_grad_norm", 1.0), dataset_kwargs={"skip_prepare_dataset": True}, **words,
        ),
        train_dataset=dataset if rows is None else rows(dataset),
        processing_class=AutoTokenizer.from_pretrained(flags["model"]),
        peft_config=LoraConfig(
            r=flags["lora_r"], lora_alpha=flags["lora_alpha"], lora_dropout=0.1, task_type="CAUSAL_LM",
            target_modules=targets if targets == "all-linear" else targets.split(","),
        ),
    )  # fmt: skip


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage().splitlines()[0])


def _matters(text: str) -> bool:
    """Whether a warning is about continuing at all; the control run gives the others."""
    if "deprecated" in text:
        return False
    return any(word in text.lower() for word in ("checkpoint", "missing", "mismatch", "adapter keys", "do not match", "nan"))


def short(text: str, world: World) -> str:
    return text.replace(str(world.run.parent), "...")[:110]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
