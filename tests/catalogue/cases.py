"""The cases: catalogue row by catalogue row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.catalogue import faults
from tests.catalogue.changes import (
    asked,
    automatic,
    best_is_there,
    best_was_early,
    both,
    cut_off_between_two_backwards,
    edited,
    files,
    gone,
    in_shards,
    made_by_trl,
    monitor_forgotten,
    nan,
    nan_in_state,
    nothing_to_learn,
    of_step_3,
    older_run,
    other_template,
    other_tokenizer,
    renamed,
    rows,
    torn,
    zeroed,
)
from tests.catalogue.world import Case, World
from tests.conftest import chats
from tests.engine.resume.test_receipt import change_json, change_tensors, forgotten, noisy, of_another_shape


def nothing(world: World, run: Path) -> None:
    """The fault alone."""


def without_labels(dataset: Any) -> Any:
    """The rows with nothing to learn in them."""
    return dataset.map(lambda row: {"labels": [-100] * len(row["labels"])})


CASES = (
    Case("control: nothing changed", "-", lambda world, run: None, "-", True),
    Case("control: three epochs become four", "12", asked(epochs=4), "plan", True),
    Case("control: batch size 4 becomes 2", "14", asked(batch_size=2), "plan", True),
    Case("control: accumulation 1 becomes 2", "14, 29", asked(grad_accum=2), "plan", True),
    Case("control: other saving interval", "27", asked(save_steps=2), "plan", True),
    Case("control: NaN among the logged gradient norms", "32", files(nan_in_state), "-", True),
    Case("adapter without effect, all digests made to fit", "1", files(lambda one: both(one, forgotten)), "receipt"),
    Case("a tensor renamed", "4", files(lambda one: change_tensors(one, renamed)), "receipt"),
    Case("values changed, file digest made to fit", "1", files(lambda one: change_tensors(one, noisy)), "receipt"),
    Case("values changed, all digests made to fit", "1", files(lambda one: both(one, noisy)), "receipt"),
    Case("NaN among the weights", "11", files(lambda one: both(one, nan), only=False), "plan", True),
    Case("alpha changed in adapter_config.json", "7", files(
        lambda one: change_json(one / "adapter_config.json", lora_alpha=64)), "plan"),
    Case("rank asked differently", "4", asked(lora_r=8), "plan"),
    Case("target modules asked differently", "4", asked(target_modules="q_proj,v_proj"), "plan"),
    Case("base model of equal shape", "20", lambda world, run: {"model": world.other_model}, "plan"),
    Case("tokenizer changed", "19", other_tokenizer, "plan"),
    Case("chat template changed", "19", other_template, "plan"),
    Case("a row of the dataset edited", "34", rows(edited()), "plan"),
    Case("a row appended", "34", rows(chats(27)), "plan"),
    Case("rows in another order", "34", rows(chats(26)[::-1]), "plan"),
    Case("the newest folder torn", "3", torn("adapter_model.safetensors"), "plan", True),
    Case("zero bytes after a power loss", "23", zeroed, "plan", True),
    *(
        case
        for name, row in (("optimizer.pt", "5"), ("scheduler.pt", "5"), ("rng_state.pth", "10"))
        for case in (
            Case(f"{name} missing", row, gone(name), "plan", True),
            Case(f"{name} truncated", "22", torn(name), "plan", True),
            Case(f"{name} of another step, digests made to fit", row, of_step_3(name), "receipt"),
        )
    ),
    Case("an older folder touched", "8", lambda world, run: os.utime(run / "checkpoint-3"), "-", True),
    Case("the folder renumbered", "9", lambda world, run: (run / "checkpoint-3").rename(run / "checkpoint-99") and None,
         "plan", True),
    Case("another run's higher number in the folder", "9", older_run, "plan", True),
    Case("control: cut off between two backward passes of a step", "30", cut_off_between_two_backwards, "-", True),
    Case("control: the monitor's state is not in the manifest", "26", monitor_forgotten, "-", True),
    Case("control: the best checkpoint is old, one is to be kept", "24", best_was_early, "plan", True, after=best_is_there,
         arguments={"save_strategy": "steps", "save_total_limit": 1}),
    Case("control: a folder of TRL's trainer, random states of NumPy's", "31", made_by_trl, "plan", True),
    Case("control: batch size auto, and less memory than before", "15", automatic, "-", True, faults.little_memory,
         arguments={"auto_find_batch_size": True}),
    Case("resume_from_checkpoint does nothing", "2", nothing, "receipt", fault=faults.argument_ignored),
    Case("the adapter's loading passed over", "6", nothing, "receipt", fault=faults.passed_over("_load_from_checkpoint")),
    Case("the optimizer's loading passed over", "5", nothing, "receipt",
         fault=faults.passed_over("_load_optimizer_and_scheduler")),
    Case("the adapter cast to bfloat16 while it is loaded", "21", nothing, "receipt", fault=faults.other_type),
    Case("an optimizer with one parameter less", "18", files(of_another_shape), "receipt"),
    Case("the optimizer in FSDP's shards", "16", in_shards, "plan"),
    Case("a layer is missing in what is saved", "25", nothing, "step", fault=faults.half_written,
         arguments={"save_strategy": "steps"}),
    Case("another run at work in the folder", "33", nothing, "plan", fault=faults.second_run),
    Case("all labels masked", "35", nothing_to_learn, "plan", stock_rows=without_labels),
    Case("already complete", "13", asked(max_steps=10), "plan"),
    Case("a rate that is far too high", "36", asked(learning_rate=0.5, max_grad_norm=0, epochs=5), "plan", True),
)  # fmt: skip
