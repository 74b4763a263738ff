"""The run as a script on TRL and PEFT alone. Settings: https://huggingface.co/docs/trl/sft_trainer"""

from __future__ import annotations

import json
import re
from pathlib import Path

import engine
from engine.config import RunConfig
from engine.course.steps import warmup_steps
from engine.data.formats import SPEAKERS
from engine.data.rendering import rendered
from engine.eject.run import READERS, Ejected, harmless
from engine.export.turns import Messages, find_turns
from engine.models.folder import load_tokenizer, model_folder


def script(run: Ejected) -> str:
    """The run as a Python script."""
    config = run.config
    targets = config.target_modules if config.target_modules == "all-linear" else config.target_modules.split(",")
    length = f"max_steps={run.total_steps}," if run.total_steps is not None else f"num_train_epochs={config.epochs:g},"
    warmup = warmup_steps(config, run.total_steps) if run.total_steps is not None else config.warmup
    scheduler = "constant_with_warmup" if config.scheduler == "constant" else config.scheduler
    loss_on = {"assistant": ["    assistant_only_loss=True,"], "completion": ["    completion_only_loss=True,"], "all": []}
    quantized = (
        [
            "    quantization_config=BitsAndBytesConfig(",
            '        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            f"        bnb_4bit_compute_dtype=torch.{run.precision},",
            "    ),",
        ]
        if config.load_in_4bit
        else []
    )
    lines = [
        f'"""The run {harmless(run.name)} on TRL and PEFT alone. Written by lora-tui {engine.__version__}.',
        "",
        "Not the same as there: the order of the rows (TRL draws its own, so losses agree step by step only where a step holds all",
        "rows), rows that are too long (TRL cuts their ends), and every check of a continued run. With one GPU or a CPU:",
        "    python train.py",
        '"""',
        "",
        "import torch",
        f"from datasets import {'load_from_disk' if _saved_to_disk(config) else 'load_dataset'}",
        "from peft import LoraConfig",
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if quantized else ''}",
        "from trl import SFTConfig, SFTTrainer",
        "",
        f"MODEL = {python_string(config.model)}",
        f"DATASET = {python_string(config.dataset)}",
        "",
        *_rows_of(run),
        f"model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.{run.precision}" + ("," if quantized else ")"),
        *([*quantized, ")"] if quantized else []),
        "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
        "if tokenizer.pad_token is None:",
        "    tokenizer.pad_token = tokenizer.eos_token",
        *_template(run),
        "",
        "arguments = SFTConfig(",
        f"    output_dir={python_string(f'{run.name}-trl')},",
        f"    {length}",
        f"    per_device_train_batch_size={run.batch_size},",
        f"    gradient_accumulation_steps={config.grad_accum},",
        f"    learning_rate={config.learning_rate!r},",
        f"    lr_scheduler_type={python_string(scheduler)},",
        f"    warmup_steps={warmup!r},",
        f"    weight_decay={config.weight_decay!r},",
        f"    max_grad_norm={config.max_grad_norm!r},",
        f"    max_length={config.max_length},",
        *loss_on[run.train_on],
        f"    bf16={'torch.cuda.is_available()' if run.precision == 'bfloat16' else False},",
        f"    fp16={run.precision == 'float16'},",
        f"    activation_checkpointing={config.activation_checkpointing is True},",
        f"    seed={config.seed},",
        f"    logging_steps={config.logging_steps},",
        f"    save_steps={config.save_steps if config.save_steps != 'auto' else 500},",
        '    report_to="none",',
        ")",
        "adapter = LoraConfig(",
        f"    r={config.lora_r},",
        f"    lora_alpha={config.lora_alpha:g},",
        f"    lora_dropout={config.lora_dropout!r},",
        f"    target_modules={json.dumps(targets)},",
        '    task_type="CAUSAL_LM",',
        ")",
        "trainer = SFTTrainer(",
        "    model=model,",
        "    args=arguments,",
        "    train_dataset=rows,",
        "    processing_class=tokenizer,",
        "    peft_config=adapter,",
        ")",
        "trainer.train()",
        'trainer.save_model(f"{arguments.output_dir}/final")',
        "",
    ]
    return "\n".join(lines)


def _template(run: Ejected) -> list[str]:
    """The chat template with marks of what is trained on, where it has none: TRL knows few templates without them."""
    if run.train_on != "assistant":
        return []
    tokenizer = load_tokenizer(model_folder(str(run.config.model)))
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str) or re.search(r"\{%[-+]?\s*generation\b", template):
        return []

    def render(messages: Messages) -> str:
        return rendered(tokenizer, messages, prompt=True)

    marks = [*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values())]
    turns = find_turns(render, marks)
    if turns is None:
        return ["# The chat template has no {% generation %} marks; where TRL refuses it, they must be put in by hand."]
    return [
        "# The model's chat template, written again with marks of what is trained on.",
        f"tokenizer.chat_template = {python_string(turns.jinja_template(marks))}",
    ]


def _rows_of(run: Ejected) -> list[str]:
    """The lines that read the dataset into `rows` as TRL takes them."""
    config = run.config
    assert config.dataset is not None
    suffix = Path(config.dataset.removesuffix(".gz")).suffix.lower()
    if _saved_to_disk(config):
        lines = ["rows = load_from_disk(DATASET)"]
    elif suffix in READERS and Path(config.dataset).is_file():
        options = f", delimiter={python_string(run.delimiter)}" if run.delimiter not in (None, ",") else ""
        options += f", encoding={python_string(run.encoding)}" if run.encoding != "utf-8" else ""
        lines = [f'rows = load_dataset("{READERS[suffix]}", data_files=DATASET, split="train"{options})']
    else:
        lines = ['rows = load_dataset(DATASET, split="train")']
    if run.renamed:
        if run.given_way:
            lines.append(f"rows = rows.remove_columns({json.dumps(run.given_way)})")
        lines.append(f"rows = rows.rename_columns({json.dumps(run.renamed)})")
    if run.renamed_in_turns:
        lines += [
            f"PARTS = {json.dumps(run.renamed_in_turns)}",
            *(line.replace("COLUMN", python_string(name)) for name in run.columns for line in _RENAMED_TURNS),
        ]
    if config.skip_rows:
        lines.append(f"# lora-tui left out rows: {harmless(config.skip_rows)}")
    if config.eval_dataset:
        lines.append(f"# lora-tui measured on {harmless(config.eval_dataset)}; here nothing is measured.")
    if config.eval_fraction:
        lines.append(
            f"# lora-tui held back {config.eval_fraction:g} of the rows, chosen by their content; here all are trained on."
        )
    wanted = {"messages": ("messages",), "prompt_completion": ("prompt", "completion"), "text": ("text",)}.get(
        run.format, run.columns
    )
    lines += [
        f"rows = rows.rename_column({python_string(name)}, {python_string(new)})"
        for name, new in zip(run.columns, wanted, strict=True)
        if name != new
    ]
    return [*lines, *(line.replace("COLUMN", run.columns[0]) for line in _CONVERSIONS.get(run.format, [])), ""]


_RENAMED_TURNS = [
    "rows = rows.map(",
    "    lambda row: {COLUMN: [{PARTS.get(name, name): part for name, part in turn.items()} for turn in row[COLUMN]]}",
    ")",
]
_CONVERSIONS = {
    "alpaca": [
        "",
        "",
        "def as_messages(row):",
        '    question = "\\n\\n".join(part for part in (row["instruction"], row.get("input")) if part)',
        '    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []',
        '    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["COLUMN"]}]',
        '    return {"messages": system + turns}',
        "",
        "",
        "rows = rows.map(as_messages, remove_columns=rows.column_names)",
    ],
    "sharegpt": [
        "",
        "",
        f"ROLES = {json.dumps(dict(SPEAKERS))}",
        "",
        "",
        "def as_messages(row):",
        '    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []',
        '    turns = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["COLUMN"]]',
        '    return {"messages": system + turns}',
        "",
        "",
        "rows = rows.map(as_messages, remove_columns=rows.column_names)",
    ],
}


def python_string(text: str | None) -> str:
    """A Python string."""
    return json.dumps(text, ensure_ascii=True)


def _saved_to_disk(config: RunConfig) -> bool:
    folder = Path(str(config.dataset))
    return (folder / "dataset_info.json").is_file() or (folder / "state.json").is_file()
