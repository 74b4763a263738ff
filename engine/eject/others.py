"""The run as the settings of other trainers, in YAML.

By their manuals: https://docs.axolotl.ai/docs/config-reference.html, https://llamafactory.readthedocs.io. Neither was run.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import engine
from engine.course.steps import warmup_steps
from engine.data.formats import CONVERSATIONS
from engine.data.normal import ROLES, SYSTEM, input_of
from engine.eject.run import READERS, Ejected

FACTORY_READS = (".jsonl", ".json", ".csv", ".parquet")
AXOLOTL_READS = (*FACTORY_READS, ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz")
"""Ends of file names whose files are read there."""
FACTORY_SHAPE = {"use_rslora": "use_rslora", "use_dora": "use_dora", "modules_to_save": "additional_target"}
AXOLOTL_SHAPE = {"use_rslora": "peft_use_rslora", "use_dora": "peft_use_dora", "modules_to_save": "lora_modules_to_save"}
"""PEFT's name for a part of the adapter's shape -> its name there."""
SEEN_BY_PEFT = "fan_in_fan_out"
"""Of GPT-2's kind of layers; PEFT sets it by the layers, whoever calls it."""


def axolotl(run: Ejected) -> str:
    """For `axolotl train`."""
    config = run.config
    kind, notes = _axolotl_rows(run)
    template = run.template() if kind.get("type") == "chat_template" else None
    targets = {"lora_target_linear": True} if config.target_modules == "all-linear" else {
        "lora_target_modules": config.target_modules.split(",")}  # fmt: skip
    settings = {
        "base_model": config.model,
        "datasets": [kind],
        **({"chat_template": "jinja", "chat_template_jinja": template} if template is not None else {}),
        "adapter": "qlora" if config.load_in_4bit else "lora",
        **({"load_in_4bit": True} if config.load_in_4bit else {}),
        "lora_r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        **targets,
        **_shape(run, AXOLOTL_SHAPE),
        "sequence_len": config.max_length,
        "sample_packing": False,
        "train_on_inputs": run.train_on == "all",
        "micro_batch_size": run.batch_size,
        "gradient_accumulation_steps": run.grad_accum,
        **({"max_steps": run.total_steps} if config.max_steps is not None else {"num_epochs": config.epochs}),
        "learning_rate": config.learning_rate,
        "lr_scheduler": "constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        **_warmup(run),
        "optimizer": "adamw_torch_fused",
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": run.precision == "bfloat16" and run.device == "cuda",
        "fp16": run.precision == "float16",
        "gradient_checkpointing": config.activation_checkpointing is True,
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "output_dir": f"{run.name}-axolotl",
    }
    return _yaml(settings, run, "axolotl train FILE", [*notes, *_unlike(run, AXOLOTL_READS, AXOLOTL_SHAPE)])


def _axolotl_rows(run: Ejected) -> tuple[dict[str, Any], list[str]]:
    """How axolotl is to read the rows, and what it does otherwise than was done here."""
    dataset = run.config.dataset
    kind: dict[str, Any] = {"path": dataset}
    notes: list[str] = []
    if run.format in ("messages", "sharegpt"):
        kind |= {"type": "chat_template", "field_messages": run.called(run.columns[0])}
        parts = ("role", "content") if run.format == "messages" else ("from", "value")
        mapped = dict(zip(("role", "content"), map(run.called, parts), strict=True))
        beside = _beside(run)
        kind |= {f"field_{name}": beside[name] for name in ("system", "tools") if beside.get(name, name) != name}
        kind |= {} if mapped == {"role": "role", "content": "content"} else {"message_property_mappings": mapped}
        kind |= {"roles_to_train": list(ROLES) if run.train_on == "all" else ["assistant"]}
        if run.train_on == "completion":
            notes.append(
                "lora-tui learned only the last answer of a row; axolotl has no such setting and learns all of them."
            )
            notes.append(
                'For the same put "train": true or false into each turn, and message_field_training: train beside type.'
            )
    elif run.format == "alpaca":
        kind |= {"type": "alpaca"}
        notes.append(
            "axolotl has its own words around instruction and input, and does not use the model's chat template here."
        )
        if unread := sorted(map(run.called, run.beside & {*SYSTEM, "tools", "history"})):
            notes.append("It does not read the columns " + ", ".join(map(json.dumps, unread)) + ", which lora-tui did.")
        answer, extra = run.columns[0], input_of(run.beside, run.columns[0])
        own = {
            name: known
            for name, known in ((answer, "output"), (extra, "input"))
            if name != known and name in {answer, *run.beside}
        }
        if names := {**own, **run.renamed}:
            notes.append("It takes no other column names here; rename them in the dataset: " + json.dumps(names))
    elif run.format == "text":
        kind |= {"type": "completion", "field": run.called(run.columns[0])}
    else:
        question, answer = map(run.called, run.columns)
        kind |= {"type": {"system_prompt": "", "field_instruction": question, "field_output": answer,
                          "format": "{instruction}", "no_input_format": "{instruction}"}}  # fmt: skip
    if Path(str(dataset)).is_file():
        kind |= {"ds_type": READERS.get(Path(str(dataset).removesuffix(".gz")).suffix.lower(), "json")}
    return kind, notes


def llamafactory(run: Ejected) -> str:
    """For `llamafactory-cli train`."""
    config = run.config
    known_as = run.name.replace(",", "-")  # a comma parts the names of several datasets there
    entry = {
        known_as: {
            "file_name" if Path(str(config.dataset)).exists() else "hf_hub_url": config.dataset,
            **_columns(run),
        }
    }
    settings = {
        "model_name_or_path": config.model,
        "stage": "pt" if run.format == "text" else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_target": "all" if config.target_modules == "all-linear" else config.target_modules,
        **_shape(run, FACTORY_SHAPE),
        **({"quantization_bit": 4, "quantization_method": "bnb"} if config.load_in_4bit else {}),
        "dataset": known_as,
        "dataset_dir": ".",
        "cutoff_len": config.max_length,
        "packing": False,
        "train_on_prompt": run.train_on == "all",
        **({"mask_history": True} if run.train_on == "completion" and run.format in CONVERSATIONS else {}),
        "per_device_train_batch_size": run.batch_size,
        "gradient_accumulation_steps": run.grad_accum,
        **({"max_steps": run.total_steps} if config.max_steps is not None else {"num_train_epochs": config.epochs}),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        **_warmup(run),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": run.precision == "bfloat16" and run.device == "cuda",
        "fp16": run.precision == "float16",
        "disable_gradient_checkpointing": config.activation_checkpointing is not True,
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps if config.save_steps != "auto" else 500,
        "output_dir": f"{run.name}-llamafactory",
        "report_to": "none",
    }
    template = run.template() if run.format in CONVERSATIONS else None
    notes = [
        f"dataset_info.json beside this file: {json.dumps(entry, ensure_ascii=False)}",
        "template: name the one of your model here (qwen3, llama3, ...); LLaMA-Factory does not take the model's own."
        if template is None
        else "template: none of its names writes turns as they were written here; register one that does: "
        + json.dumps(template, ensure_ascii=False),
    ]
    return _yaml(settings, run, "llamafactory-cli train FILE", [*notes, *_unlike(run, FACTORY_READS, FACTORY_SHAPE)])


def _columns(run: Ejected) -> dict[str, Any]:
    """What dataset_info.json says of the rows."""
    if run.format in ("messages", "sharegpt"):
        tags = {"role_tag": run.called("role"), "content_tag": run.called("content"), "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system"}  # fmt: skip
        columns = {"messages": run.called(run.columns[0]), **_beside(run)}
        said: dict[str, Any] = {"formatting": "sharegpt", "columns": columns}
        return said | ({"tags": tags} if run.format == "messages" else {})
    if run.format == "alpaca":
        parts = {"prompt": "instruction", "query": input_of(run.beside, run.columns[0]), "response": run.columns[0]}
    else:
        parts = dict(zip(("prompt", "response"), run.columns, strict=False))
    return {"columns": {**{name: run.called(column) for name, column in parts.items()}, **_beside(run)}}


def _beside(run: Ejected) -> dict[str, str]:
    """The columns beside the words that a run's rows are made of, by LLaMA-Factory's names."""
    used = {"messages": ("system", "tools"), "sharegpt": ("system", "tools"), "alpaca": ("system", "tools", "history")}
    system = next((name for name in SYSTEM if name in run.beside), "system")
    columns = {name: system if name == "system" else name for name in used.get(run.format, ())}
    return {name: run.called(column) for name, column in columns.items() if column in run.beside}


def _shape(run: Ejected, names: dict[str, str]) -> dict[str, Any]:
    """What the adapter is beside rank, scale and layers, by the names of that program."""
    return {names[name]: value for name, value in run.shape.items() if name in names}


def _unlike(run: Ejected, reads: tuple[str, ...], shape: dict[str, str]) -> list[str]:
    """What that program does not do, or cannot read, of this run: in words. `reads`: ends of names of files it reads; `shape`: as for
    `_shape`."""
    notes = []
    if missing := {name: value for name, value in run.shape.items() if name not in (*shape, SEEN_BY_PEFT)}:
        notes.append("It has no setting for what the adapter also is: " + json.dumps(missing))
    if run.processes > 1:
        notes.append(f"lora-tui trained with {run.processes} processes; these are the batches of one. For N divide "
                     "gradient_accumulation_steps by N.")  # fmt: skip
    if run.unlearned:
        notes.append("Answers that rows take out (weight 0, train or loss false) are learned there.")
    if run.in_turns:
        notes.append("It takes no turns for prompts and completions: write both of a row as one list of messages.")
    odd = {encoding for _path, encoding, _between in run.files if encoding != "utf-8"}
    odd |= {f"parted by {json.dumps(between)}" for _path, _encoding, between in run.files if between not in (None, ",")}
    odd |= {Path(path).name for path, _encoding, _between in run.files if not path.lower().endswith(reads)}
    if odd:
        notes.append("It does not read such files; write the rows as JSON lines in UTF-8: " + ", ".join(sorted(odd)[:8]))
    return notes


def _warmup(run: Ejected) -> dict[str, Any]:
    if run.total_steps is not None:
        return {"warmup_steps": warmup_steps(run.config, run.total_steps)}
    return {"warmup_ratio" if run.config.warmup < 1 else "warmup_steps": run.config.warmup}


def _yaml(settings: dict[str, Any], run: Ejected, command: str, notes: list[str]) -> str:
    """YAML, each value a JSON value, which YAML takes as it is."""
    head = [f"The settings of {run.name}, by lora-tui {engine.__version__}: {command}",
            "Order and masks are that program's own; its losses are near, not equal.", *notes]  # fmt: skip
    if run.config.skip_rows or run.config.eval_fraction or run.config.eval_dataset:
        head.append("lora-tui also left out rows or held some back: " + ", ".join(
            f"{name}={getattr(run.config, name)}" for name in ("skip_rows", "eval_fraction", "eval_dataset")
            if getattr(run.config, name)))  # fmt: skip
    head += run.changes
    if run.config.stop_at_loss:
        head.append(
            f"lora-tui was to finish once the loss is as low as {run.config.stop_at_loss:g}; that program trains on."
        )
    if run.otherwise:
        head.append(
            "That program does not read turns as this dataset has them: write each as an object with role and content."
        )
    lines = ["# " + "".join(letter if letter.isprintable() else " " for letter in line) for line in head]
    return "\n".join([*lines, *(f"{name}: {_value(value)}" for name, value in settings.items()), ""])


def _number(value: Any) -> Any:
    return (
        int(value) if isinstance(value, float) and value.is_integer() and math.isfinite(value) and abs(value) >= 1 else value
    )


def _value(value: Any) -> str:
    """`value` as YAML 1.1 reads it: JSON, but a number with an exponent needs a point."""
    text = json.dumps(_number(value), ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
