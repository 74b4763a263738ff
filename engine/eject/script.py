"""The run as a script on TRL and PEFT alone. Settings: https://huggingface.co/docs/trl/sft_trainer

TRL trains on a chat by a template with marks of its own, and where a model's has none by another template, which may write another
text. So the script makes tokens and labels itself, by the functions of recipe.py, whose source it brings; TRL takes them as they are.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from types import FunctionType
from typing import Any

import engine
from engine.course.steps import warmup_steps
from engine.data.formats import read_rows
from engine.data.normal import SPEAKERS
from engine.data.read import Reading, read_raw
from engine.data.rendering import bounded
from engine.data.tokens import tokenize
from engine.eject import recipe
from engine.eject.run import Ejected, harmless
from engine.errors import ConfigError, LoraTuiError
from engine.i18n import _
from engine.models.folder import load_tokenizer, model_folder
from engine.named import parse_rows
from engine.paths import is_folder, path_of

COMPARED = 256
"""Rows of the run that become tokens both ways before a script is written."""


def script(run: Ejected) -> str:
    """The run as a Python script. Raises ConfigError where it would not learn the same tokens, ModelError where the model is gone."""
    _compare(run)
    config, template = run.config, run.template()
    targets = config.target_modules if config.target_modules == "all-linear" else config.target_modules.split(",")
    length = f"max_steps={run.total_steps}," if run.total_steps is not None else f"num_train_epochs={config.epochs:g},"
    warmup = warmup_steps(config, run.total_steps) if run.total_steps is not None else config.warmup
    scheduler = "constant_with_warmup" if config.scheduler == "constant" else config.scheduler
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
        "rows), and every check of a continued run. With one GPU or a CPU:",
        "    python train.py",
        '"""',
        "",
        *(f"import {name}" for name in _modules(run)),
        "",
        "import numpy as np",
        "import torch",
        f"from datasets import Dataset{'' if run.files else ', load_from_disk' if _saved_to_disk(run) else ', load_dataset'}",
        "from peft import LoraConfig",
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if quantized else ''}",
        "from trl import SFTConfig, SFTTrainer",
        "",
        f"MODEL = {python_value(config.model)}",
        *_source(run),
        "",
        *_functions(run),
        "",
        f"model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.{run.precision}" + ("," if quantized else ")"),
        *([*quantized, ")"] if quantized else []),
        "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
        "if tokenizer.pad_token is None:",
        "    tokenizer.pad_token = tokenizer.eos_token",
        *([f"tokenizer.chat_template = {python_value(template)}"] if template is not None else []),
        *_rows(run),
        "",
        *(f"# {harmless(line)}" for line in run.changes),
        "arguments = SFTConfig(",
        f"    output_dir={python_value(f'{run.name}-trl')},",
        f"    {length}",
        f"    per_device_train_batch_size={run.batch_size},",
        f"    gradient_accumulation_steps={run.grad_accum},",
        f"    learning_rate={config.learning_rate!r},",
        f"    lr_scheduler_type={python_value(scheduler)},",
        f"    warmup_steps={warmup!r},",
        f"    weight_decay={config.weight_decay!r},",
        f"    max_grad_norm={config.max_grad_norm!r},",
        f"    max_length={config.max_length},",
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
        f"    target_modules={python_value(targets)},",
        *(f"    {name}={python_value(value)}," for name, value in run.shape.items()),
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


def _compare(run: Ejected) -> None:
    """Raises ConfigError where the script's functions make other tokens of the run's first rows than the run did, or other labels."""
    config = run.config
    tokenizer = load_tokenizer(model_folder(str(config.model)), config.chat_template)
    rows = islice(read_rows(str(config.dataset), Reading.of(config)).numbered(), COMPARED)
    table = tokenize(rows, tokenizer, config.train_on, config.max_length)
    ours = {int(table.source_row[at]): table.row(at) for at in range(len(table))}
    made: dict[int, Any] = {}
    try:
        numbers = (number for number, _row in read_raw(str(config.dataset), Reading.of(config)))
        for number, row in islice(zip(numbers, _as_the_script(run), strict=True), COMPARED):
            with bounded():
                made[number] = recipe.as_tokens(row, tokenizer, run.train_on, config.max_length)
    except LoraTuiError:
        raise
    except Exception as error:
        # A template, a slow tokenizer without offsets, a file that only lora-tui can read: whatever it is, the script would end so.
        raise _other(f"{type(error).__name__}: {error}") from error
    for number, pair in made.items():
        own = ours.get(number)
        if pair != ((own["input_ids"], own["labels"]) if own is not None else None):
            raise _other(_("Row {row} would become other tokens, or others would be learned.").format(row=number))


def _other(why: str) -> ConfigError:
    return ConfigError(
        _("this run cannot be written as a script that learns the same"),
        why,
        _("Take --to axolotl or --to llamafactory, whose own templates and masks are used there."),
    )


def _as_the_script(run: Ejected) -> Iterator[dict[str, Any]]:
    """The rows as the script reads and normalises them."""
    skipped = parse_rows(run.config.skip_rows) if run.config.skip_rows else frozenset()
    if run.files:
        rows = recipe.rows_of_files(run.files, skipped)
    else:
        rows = (row for _number, row in read_raw(str(run.config.dataset), Reading.of(run.config)))
    names = {**run.renamed, **run.renamed_in_turns}
    for row in rows:
        named = recipe.renamed(row, names) if names else row
        yield _normaliser(run)(named, run.columns, _roles(run))


def _normaliser(run: Ejected) -> FunctionType:
    found = getattr(recipe, f"from_{run.format}")
    assert isinstance(found, FunctionType)
    return found


def _roles(run: Ejected) -> dict[str, str]:
    """Word for a speaker -> role, where it need not be the role itself."""
    return dict(SPEAKERS) if run.format == "sharegpt" or "role" in run.renamed_in_turns.values() else {}


def _modules(run: Ejected) -> list[str]:
    return [*(["csv", "gzip", "io"] if run.files else []), "json", "re"]


def _source(run: Ejected) -> list[str]:
    """The lines that say where the rows come from, and what their parts are."""
    names = {**run.renamed, **run.renamed_in_turns}
    skipped = sorted(parse_rows(run.config.skip_rows)) if run.config.skip_rows else []
    files = [f"    ({python_value(path)}, {python_value(encoding)}, {python_value(delimiter) if delimiter else None})," for
             path, encoding, delimiter in run.files]  # fmt: skip
    lines = ["FILES = [  # path, encoding, what stands between the fields of a table", *files, "]"] if files else [
        f"DATASET = {python_value(run.config.dataset)}"]  # fmt: skip
    lines += [f"COLUMNS = {python_value(list(run.columns))}", f"ROLES = {python_value(_roles(run))}"]
    lines += [f"NAMES = {python_value(names)}"] if names else []
    return [*lines, f"SKIPPED = {set(skipped) if skipped else 'set()'}"]


def _functions(run: Ejected) -> list[str]:
    """The functions of recipe.py that this run needs."""
    called = with_what_they_call(
        recipe.rows_of_files if run.files else recipe.rows_of_datasets,
        *([recipe.renamed] if run.renamed or run.renamed_in_turns else []),
        _normaliser(run),
        recipe.as_tokens,
    )
    return [line for one in called for line in ("", *inspect.getsource(one).splitlines(), "")]


def with_what_they_call(*functions: Callable[..., Any]) -> list[FunctionType]:
    """`functions` of recipe.py and all of its functions that these name, as they stand there."""
    found: dict[str, FunctionType] = {}
    left = list(functions)
    while left:
        one = left.pop()
        assert isinstance(one, FunctionType)
        found[one.__name__] = one
        names = {node.id for node in ast.walk(ast.parse(inspect.getsource(one))) if isinstance(node, ast.Name)}
        left += [other for name, other in vars(recipe).items() if name in names - found.keys() and inspect.isfunction(other)]
    return sorted(found.values(), key=lambda one: one.__code__.co_firstlineno)


def _rows(run: Ejected) -> list[str]:
    """The lines that make `rows` as TRL takes them."""
    config = run.config
    lines = []
    if config.eval_dataset:
        lines.append(f"# lora-tui measured on {harmless(config.eval_dataset)}; here nothing is measured.")
    if config.eval_fraction:
        lines.append(
            f"# lora-tui held back {config.eval_fraction:g} of the rows, chosen by their content; here all are trained on."
        )
    if config.stop_at_loss:
        lines.append(
            f"# lora-tui was to finish once the loss is as low as {config.stop_at_loss:g}; here nothing ends the run early."
        )
    if run.files:
        raw = "rows_of_files(FILES, SKIPPED)"
    else:
        raw = f"rows_of_datasets({'load_from_disk' if _saved_to_disk(run) else 'load_dataset'}(DATASET), SKIPPED)"
    row = "renamed(row, NAMES)" if run.renamed or run.renamed_in_turns else "row"
    normal = f"{_normaliser(run).__name__}({row}, COLUMNS, ROLES)"
    return [
        *lines,
        "tokens = (",
        f"    as_tokens({normal}, tokenizer, {python_value(run.train_on)}, {config.max_length})",
        f"    for row in {raw}",
        ")",
        "rows = Dataset.from_list(",
        '    [{"input_ids": np.array(ids, np.int32), "labels": np.array(labels, np.int32)} for ids, labels in filter(None, tokens)]',
        ")",
    ]


def python_value(value: Any) -> str:
    """`value` as Python reads it. JSON is not that: a letter beyond the first plane is two halves there."""
    return ascii(value)


def _saved_to_disk(run: Ejected) -> bool:
    return is_folder(path_of(str(run.config.dataset)))
