"""Models of 0.5B and 7B in the shape of Qwen2.5, made from a config: tokens a second and peak memory, ours beside TRL's trainer and,
on a CUDA device and where UNSLOTH names the python of an environment that has it, beside Unsloth.

For a CUDA device: bf16, and 4 bit where bitsandbytes is. Without one a small model in float32 goes the same ways. LoRA r 16 on
all linear layers, rows of one length whose second half is trained on, the same rows for all. Each way is a process of its own, so
that its peak is its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = {"lora-tui": "auto", "lora-tui, PEFT's layers": "peft"}
"""The way and its --lora-kernel."""
TRL = {"TRL, no checkpointing": False, "TRL as it comes": True}
"""The way and activation checkpointing, which TRL's trainer has on by itself; ours where it would not fit otherwise."""
UNSLOTH = {"Unsloth, no checkpointing": False, "Unsloth as it comes": "unsloth"}
"""The way and what Unsloth is told of activation checkpointing: its own kind of it is what it does by itself."""
STEPS, WARM, LONGEST = 20, 5, 4096


@dataclass(frozen=True)
class Shape:
    """A Qwen2 and its batch; `words` of a row, half of them trained on."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    batch_size: int
    words: int


LARGE = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151_936, True, 8, 600),
    "7B": Shape(3584, 18_944, 28, 28, 4, 152_064, False, 4, 600),
}
SMALL = {"small": Shape(128, 512, 4, 4, 2, 32_000, True, 4, 120)}


def prepare(shape: Shape, folder: Path) -> None:
    """Rows and a model of `shape`, its numbers in bf16 on a GPU."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.conftest import WORDS, build_tiny_model, write_jsonl

    half = " ".join(WORDS * shape.words).split()[: shape.words // 2]
    write_jsonl(
        folder / "rows.jsonl",
        [
            {"prompt": f"{row:04} " + " ".join(half), "completion": " " + " ".join(half)}
            for row in range(STEPS * shape.batch_size)
        ],
    )
    build_tiny_model(folder / "model")
    small = json.loads((folder / "model" / "config.json").read_text())
    config = Qwen2Config(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied, eos_token_id=small["eos_token_id"], pad_token_id=small["pad_token_id"], bos_token_id=None,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    model.save_pretrained(folder / "model")


@dataclass
class Course:
    """When each step ended, all work on the GPU done; the loss of the last one; the peak in bytes: of the GPU, or of its process."""

    moments: list[float]
    loss: float
    peak: float


def now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak() -> float:
    import torch

    from tests.bench import memory

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()


def ours(shape: Shape, folder: Path, bits: str, kernel: str) -> Course:
    from tests.engine.runs import losses, train

    moments: list[float] = []

    def watch(event: Any) -> None:
        if event.type == "step":
            moments.append(now())

    out = folder / f"{bits} {kernel}"
    train(  # at TRL's schedule, so that the losses can be compared
        dataset=folder / "rows.jsonl", model=folder / "model", output=out, batch_size=shape.batch_size, max_length=LONGEST,
        max_steps=STEPS, save_steps=10 * STEPS, scheduler="linear", warmup=0, load_in_4bit=bits == "4 bit", lora_kernel=kernel,
        watch=watch,
    )  # fmt: skip
    return Course(moments, losses(out)[-1][1], peak())


def trl(shape: Shape, folder: Path, bits: str, checkpointing: bool) -> Course:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from engine.config import RunConfig
    from engine.training.peft_config import lora_config

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            moments.append(now())

    material = loaded(folder)
    cuda = torch.cuda.is_available()
    options: dict[str, Any] = {"dtype": torch.bfloat16 if cuda else torch.float32}
    if bits == "4 bit":
        options["device_map"] = {"": 0}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    arguments = SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=shape.batch_size, max_steps=STEPS, learning_rate=2e-4,
        save_strategy="no", logging_steps=1, bf16=cuda, use_cpu=not cuda, report_to=[], disable_tqdm=True, max_length=None,
        activation_checkpointing=checkpointing, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", **options), args=arguments, callbacks=[Clock()],
        train_dataset=material.train.to_dataset(), processing_class=material.tokenizer, peft_config=lora_config(RunConfig()),
    )  # fmt: skip
    trainer.train()
    return Course(moments, [row["loss"] for row in trainer.state.log_history if "loss" in row][-1], peak())


def unsloth(shape: Shape, folder: Path, bits: str, checkpointing: bool | str) -> Course:
    """Through a script run by its own interpreter, whose packages are of other versions."""
    from engine.config import RunConfig

    config, rows = RunConfig(), loaded(folder).train.to_dataset()
    work = {
        "model": str(folder / "model"), "rows": rows.to_dict(), "bits": bits, "batch_size": shape.batch_size, "steps": STEPS,
        "max_length": LONGEST, "lora_r": config.lora_r, "lora_alpha": config.lora_alpha, "checkpointing": checkpointing,
    }  # fmt: skip
    (folder / "work.json").write_text(json.dumps(work))
    # -P: else the other files beside the script could be taken for modules of that environment.
    command = [os.environ["UNSLOTH"], "-P", str(Path(__file__).with_name("unsloth_way.py")), str(folder / "work.json")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment | offline, cwd=folder)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return Course(**json.loads(done.stdout.splitlines()[-1]))


def loaded(folder: Path) -> Any:
    """Tokenizer and rows, the same for all."""
    from engine.config import RunConfig
    from engine.training.material import load_material

    return load_material(RunConfig(dataset=str(folder / "rows.jsonl"), model=str(folder / "model"), max_length=LONGEST))


def one(way: str, shape: Shape, folder: Path, bits: str) -> dict[str, float]:
    """Tokens a second of a step (median, the first steps left out), the peak and the last loss."""
    if way in UNSLOTH:
        course = unsloth(shape, folder, bits, UNSLOTH[way])
    elif way in TRL:
        course = trl(shape, folder, bits, TRL[way])
    else:
        course = ours(shape, folder, bits, OURS[way])
    steps = zip(course.moments[WARM:], course.moments[WARM + 1 :], strict=False)
    seconds = statistics.median(after - before for before, after in steps)
    tokens = shape.batch_size * float(loaded(folder).train.lengths.mean())
    return {"tokens/s": tokens / seconds, "peak": course.peak, "loss": course.loss}


def main() -> None:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # tests.conftest would hide them all
    import torch

    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else "no CUDA device: a small model on the processor instead"
    ways = (*OURS, *TRL, *(UNSLOTH if cuda and "UNSLOTH" in os.environ else ()))
    formats = ["bf16", *(["4 bit"] if importlib.util.find_spec("bitsandbytes") else [])] if cuda else ["float32"]
    print(f"{where}\n\n| model | format | way | tokens/s | x ours | peak GB | x ours | last loss |\n"
          "|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name in LARGE if cuda else SMALL:
        with tempfile.TemporaryDirectory() as folder:
            if (made := _process(name, folder)).returncode != 0:
                raise SystemExit(made.stderr)
            for bits in formats:
                first: dict[str, float] | None = None
                for way in ways:
                    if (done := _process(name, folder, way, bits)).returncode != 0:
                        print(
                            f"| {name} | {bits} | {way} | {done.stderr.strip().splitlines()[-1][:120]} | | | | |", flush=True
                        )
                        continue
                    found = json.loads(done.stdout.splitlines()[-1])
                    first = first or found
                    ratios = {key: found[key] / first[key] for key in found}
                    print(f"| {name} | {bits} | {way} | {found['tokens/s']:.0f} | {ratios['tokens/s']:.2f} | "
                          f"{found['peak'] / 1e9:.2f} | {ratios['peak']:.2f} | {found['loss']:.4f} |", flush=True)  # fmt: skip


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.bench.large", *arguments], capture_output=True, text=True)


if __name__ == "__main__":
    chosen, place = (LARGE | SMALL)[sys.argv[1]], Path(sys.argv[2])
    if len(sys.argv) > 3:
        print(json.dumps(one(sys.argv[3], chosen, place, sys.argv[4])))
    else:
        prepare(chosen, place)
