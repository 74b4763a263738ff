"""The ways in which continuing goes wrong, each made to happen: what stock Trainer does, what we say, and when.

`python -m tests.catalogue` (make catalogue) runs both sides of every case and writes docs/resuming.md. The slow test beside it
(tests/engine/resume/test_catalogue.py) runs our side and holds it against what is expected here. A case changes a copy of one
stopped run, with the manifest's file digests made to fit wherever files were changed: whoever tampers would do that too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import LoraTuiError
from engine.events import LossJumped
from tests.conftest import build_tiny_model, chats, teach, write_jsonl
from tests.engine.resume.test_receipt import change_json, change_tensors, forge, forge_adapter_too, forgotten, noisy
from tests.engine.runs import plan, receipt, train

DOC = Path(__file__).parents[1] / "docs" / "resuming.md"
FLAGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "save_steps": 3,
    "keep": 9,
    "lora_dropout": 0.1,
}
NEWEST = "checkpoint-10"


@dataclass(frozen=True)
class World:
    """What the cases are made of."""

    model: Path
    other_model: Path
    data: Path
    run: Path
    """A run stopped at step 10 of 21, with checkpoints 3, 6, 9 and 10."""
    longer: Path
    """Another run, with another seed, that came further."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong, or a control."""

    name: str
    row: str
    """Number in the catalogue of public reports (issue threads); - for a control."""
    change: Callable[[World, Path], dict[str, Any] | None]
    """Changes the copy of the run; returns more flags for the start."""
    when: str
    """plan | receipt | step | -, the latest at which we must have told it; - where nothing is wrong."""
    goes_on: bool = False
    """Whether the run then goes on (from an earlier checkpoint, or with what was asked)."""


def build_world(folder: Path) -> World:
    model = teach(build_tiny_model(folder / "model"))
    other = teach(build_tiny_model(folder / "other-model", seed=1), steps=5)
    data = write_jsonl(folder / "chats.jsonl", chats(26))
    train(stop_at=10, dataset=data, model=model, output=folder / "run", **FLAGS)
    train(stop_at=14, dataset=data, model=model, output=folder / "longer", **{**FLAGS, "seed": 7})
    return World(model, other, data, folder / "run", folder / "longer")


def _files(change: Callable[[Path], None], only: bool = True) -> Callable[[World, Path], None]:
    """A change of the newest checkpoint's files, digests made to fit; with `only` the earlier ones are taken away."""

    def changed(world: World, run: Path) -> None:
        change(run / NEWEST)
        forge(run / NEWEST)
        if only:
            for other in ("checkpoint-3", "checkpoint-6", "checkpoint-9"):
                shutil.rmtree(run / other)

    return changed


def _renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in tensors if "layers.0" in name and "q_proj" in name)
    return {key.replace("layers.0.self_attn.q_proj", "layers.0.self_attn.x_proj") if key == name or
            key == name.replace("lora_A", "lora_B") else key: value for key, value in tensors.items()}  # fmt: skip


def _nan(tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(iter(tensors))
    return {**tensors, name: tensors[name] * math.nan}


def _both(checkpoint: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    change_tensors(checkpoint, change)
    forge_adapter_too(checkpoint)


def _gone(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        (run / NEWEST / name).unlink()

    return changed


def _torn(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        os.truncate(run / NEWEST / name, (run / NEWEST / name).stat().st_size // 2)

    return changed


def _zeroed(world: World, run: Path) -> None:
    path = run / NEWEST / "optimizer.pt"
    path.write_bytes(bytes(path.stat().st_size))


def _of_step_3(name: str) -> Callable[[World, Path], None]:
    def changed(world: World, run: Path) -> None:
        earlier = (run / "checkpoint-3" / name).read_bytes()
        _files(lambda checkpoint: (checkpoint / name).write_bytes(earlier) and None)(world, run)

    return changed


def _rows(rows: list[dict[str, Any]]) -> Callable[[World, Path], dict[str, Any]]:
    return lambda world, run: {"dataset": write_jsonl(run.with_name(f"{run.name}.jsonl"), rows)}


def _edited() -> list[dict[str, Any]]:
    rows = chats(26)
    rows[3]["messages"][1]["content"] = "other words"
    return rows


def _other_tokenizer(world: World, run: Path) -> dict[str, Any]:
    model = Path(shutil.copytree(world.model, run.with_name(f"{run.name}-model")))
    words = json.loads((model / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][:-20]
    (model / "tokenizer.json").write_text(json.dumps(words))
    return {"model": model}


def _other_template(world: World, run: Path) -> dict[str, Any]:
    model = Path(shutil.copytree(world.model, run.with_name(f"{run.name}-model")))
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    return {"model": model}


def _older_run(world: World, run: Path) -> None:
    shutil.copytree(world.longer / "checkpoint-14", run / "checkpoint-14")


def _nan_in_state(checkpoint: Path) -> None:
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"][-1]["grad_norm"] = math.nan
    path.write_text(json.dumps(state))


def _asked(**flags: Any) -> Callable[[World, Path], dict[str, Any]]:
    return lambda world, run: flags


CASES = (
    Case("control: nothing changed", "-", lambda world, run: None, "-", True),
    Case("control: three epochs become four", "12", _asked(epochs=4), "plan", True),
    Case("control: batch size 4 becomes 2", "14", _asked(batch_size=2), "plan", True),
    Case("control: accumulation 1 becomes 2", "14", _asked(grad_accum=2), "plan", True),
    Case("control: other saving interval", "27", _asked(save_steps=2), "plan", True),
    Case("control: NaN among the logged gradient norms", "32", _files(_nan_in_state), "-", True),
    Case("adapter without effect, all digests made to fit", "1", _files(lambda one: _both(one, forgotten)), "receipt"),
    Case("a tensor renamed", "4", _files(lambda one: change_tensors(one, _renamed)), "receipt"),
    Case("values changed, file digest made to fit", "1", _files(lambda one: change_tensors(one, noisy)), "receipt"),
    Case("values changed, all digests made to fit", "1", _files(lambda one: _both(one, noisy)), "receipt"),
    Case("NaN among the weights", "11", _files(lambda one: _both(one, _nan), only=False), "plan", True),
    Case("alpha changed in adapter_config.json", "7", _files(
        lambda one: change_json(one / "adapter_config.json", lora_alpha=64)), "plan"),
    Case("rank asked differently", "4", _asked(lora_r=8), "plan"),
    Case("target modules asked differently", "4", _asked(target_modules="q_proj,v_proj"), "plan"),
    Case("base model of equal shape", "20", lambda world, run: {"model": world.other_model}, "plan"),
    Case("tokenizer changed", "19", _other_tokenizer, "plan"),
    Case("chat template changed", "19", _other_template, "plan"),
    Case("a row of the dataset edited", "34", _rows(_edited()), "plan"),
    Case("a row appended", "34", _rows(chats(27)), "plan"),
    Case("rows in another order", "34", _rows(chats(26)[::-1]), "plan"),
    Case("the newest folder torn", "3", _torn("adapter_model.safetensors"), "plan", True),
    Case("zero bytes after a power loss", "23", _zeroed, "plan", True),
    *(
        case
        for name, row in (("optimizer.pt", "5"), ("scheduler.pt", "5"), ("rng_state.pth", "10"))
        for case in (
            Case(f"{name} missing", row, _gone(name), "plan", True),
            Case(f"{name} truncated", "22", _torn(name), "plan", True),
            Case(f"{name} of another step, digests made to fit", row, _of_step_3(name), "receipt"),
        )
    ),
    Case("an older folder touched", "8", lambda world, run: os.utime(run / "checkpoint-3"), "-", True),
    Case("the folder renumbered", "9", lambda world, run: (run / "checkpoint-3").rename(run / "checkpoint-99") and None,
         "plan", True),
    Case("another run's higher number in the folder", "9", _older_run, "plan", True),
    Case("already complete", "13", _asked(max_steps=10), "plan"),
    Case("a rate that is far too high", "36", _asked(learning_rate=0.5, max_grad_norm=0, epochs=5), "plan", True),
)  # fmt: skip


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
    try:
        decided = plan(**flags)
    except LoraTuiError as refused:
        return Told("plan", f"refused: {refused.detail.splitlines()[0] if refused.detail else refused.title}", False)
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
        checked = any(event.type == "resume_checked" for event in events)
        return Told("receipt" if checked else "plan", f"refused: {refused.detail.splitlines()[0]}", False)
    assert "failed" not in receipt(events).values()
    jumps = [event for event in events if isinstance(event, LossJumped) and event.kind != "spike"]
    if jumps:
        return Told(
            f"step {jumps[0].step}", f"{jumps[0].kind}: {jumps[0].before:.2f} -> {jumps[0].after or math.nan:.2f}", True
        )
    if told:
        return Told("plan", f"goes on from {name}; " + "; ".join(told), True)
    return Told("-", f"goes on from {name}", True)


def stock(case: Case, world: World, run: Path) -> str:
    """Make `case` happen and continue with TRL's SFTTrainer, as its documentation says."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from engine.config import RunConfig
    from engine.training.material import load_material

    flags: dict[str, Any] = {**FLAGS, "lora_r": 16, "lora_alpha": 32, "target_modules": "all-linear", "grad_accum": 1}
    flags |= {"dataset": world.data, "model": world.model, **(case.change(world, run) or {})}
    targets = flags["target_modules"]
    heard: list[str] = []
    handler = _Listener(heard)
    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "trl")]
    try:
        with _quiet(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for logger in loggers:
                logger.addHandler(handler)
            material = load_material(RunConfig(dataset=str(flags["dataset"]), model=str(flags["model"])))
            trainer = SFTTrainer(
                model=AutoModelForCausalLM.from_pretrained(flags["model"], dtype="float32"),
                args=SFTConfig(
                    output_dir=str(run), per_device_train_batch_size=flags["batch_size"], seed=42,
                    learning_rate=flags["learning_rate"], num_train_epochs=flags["epochs"],
                    max_steps=flags.get("max_steps", -1), gradient_accumulation_steps=flags["grad_accum"], logging_steps=1,
                    lr_scheduler_type="cosine", warmup_steps=1, save_strategy="no",
                    save_steps=flags["save_steps"], bf16=False, use_cpu=True, report_to=[],
                    disable_tqdm=True, max_length=None, activation_checkpointing=False,
                    max_grad_norm=flags.get("max_grad_norm", 1.0), dataset_kwargs={"skip_prepare_dataset": True},
                ),
                train_dataset=material.train.to_dataset(),
                processing_class=AutoTokenizer.from_pretrained(flags["model"]),
                peft_config=LoraConfig(
                    r=flags["lora_r"], lora_alpha=flags["lora_alpha"], lora_dropout=0.1, task_type="CAUSAL_LM",
                    target_modules=targets if targets == "all-linear" else targets.split(","),
                ),
            )  # fmt: skip
            trainer.train(resume_from_checkpoint=True)
    except Exception as error:  # whatever it does is the finding
        words = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f"{type(error).__name__}: {_short(words, world)}"
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    said = {
        _short(text, world) for text in [*heard, *(str(one.message).splitlines()[0] for one in caught)] if _matters(text)
    }
    new = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    before = len(json.loads((_taken(run) / "trainer_state.json").read_text())["log_history"])
    losses = ", ".join(f"{loss:.2f}" for loss in new[before : before + 3]) or "no step"
    return f"goes on from {_taken(run).name}: {losses}; " + ("; ".join(sorted(said)) or "nothing said")


def _taken(run: Path) -> Path:
    from transformers.trainer_utils import get_last_checkpoint

    return Path(str(get_last_checkpoint(str(run))))


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


def _short(text: str, world: World) -> str:
    return text.replace(str(world.run.parent), "...")[:110]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def copy_of(world: World, case: Case, side: str) -> Path:
    """A copy of the stopped run to make `case` happen in."""
    place = world.run.parent / f"{side}-{CASES.index(case)}"
    return Path(shutil.copytree(world.run, place / "run"))


HEAD = """# Continuing, and how it goes wrong

Each row is made to happen by `make catalogue`, which writes this page: a run of a tiny model is stopped at step 10 of 21 and
continued after the change; where files were changed, the digests in the manifest were made to fit. "no." is the number in the
catalogue of public reports this project began with. *Stock* is TRL's SFTTrainer with `resume_from_checkpoint=True` on the same
folder, with the losses of its first three steps. *When* is the latest moment at which it was told: by the plan (nothing is loaded),
by the receipt (before the first optimizer step) or at a step of the training. Words are cut to a line.

| no. | what was done | stock | we say | when | goes on |
|---|---|---|---|---|---|
"""


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as place:
        world = build_world(Path(place))
        lines = []
        for case in CASES:
            theirs, told = stock(case, world, copy_of(world, case, "stock")), ours(case, world, copy_of(world, case, "ours"))
            cells = (case.row, case.name, theirs, _short(told.what, world), told.when, "yes" if told.went_on else "no")
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
            print(lines[-1], flush=True)  # noqa: T201
            DOC.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
