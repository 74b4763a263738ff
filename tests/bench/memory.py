"""The memory estimate against the peak of real training, on this machine's processor: each shape in a process of its own.

All rows have the same length and all of their tokens are trained, so that every batch is as large as the estimate takes it to be.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

STEPS = 3


@dataclass(frozen=True)
class Shape:
    """A Llama and how it is trained."""

    hidden: int
    layers: int
    vocabulary: int
    tokens: int
    batch_size: int
    checkpointing: bool = False
    logits: str = "labels"
    precision: str = "float32"


SHAPES = (
    Shape(256, 4, 4_000, 256, 8),
    Shape(256, 12, 4_000, 512, 8),
    Shape(256, 12, 4_000, 512, 8, checkpointing=True),
    Shape(256, 12, 4_000, 1024, 4),
    Shape(1024, 4, 4_000, 512, 4),
    Shape(1024, 8, 32_000, 256, 2),
    Shape(512, 4, 152_000, 256, 8),
    Shape(512, 4, 152_000, 256, 8, logits="all"),
    Shape(512, 8, 152_000, 1024, 2, checkpointing=True),
    Shape(1024, 4, 4_000, 512, 4, precision="bfloat16"),
    Shape(1024, 8, 32_000, 256, 2, precision="bfloat16"),
    Shape(512, 12, 4_000, 512, 8, precision="bfloat16"),
    Shape(512, 12, 4_000, 512, 8, checkpointing=True, precision="bfloat16"),
    Shape(512, 4, 152_000, 256, 8, precision="bfloat16"),
)


def trained(shape: Shape, folder: Path) -> tuple[int, int]:
    """(bytes at the peak of this process, bytes estimated) of STEPS steps of `shape` on what `prepare` made in `folder`."""
    from engine.hardware import Hardware
    from engine.models.report import model_report
    from engine.training.estimate import estimate_memory
    from tests.engine.runs import plan, train

    flags = {
        "dataset": folder / "rows.jsonl", "model": folder / "model", "output": folder / "out", "max_length": shape.tokens,
        "batch_size": shape.batch_size, "activation_checkpointing": shape.checkpointing, "logits": shape.logits,
        "max_steps": STEPS, "save_steps": 100, "precision": shape.precision,
    }  # fmt: skip
    config = plan(**flags).config
    train(**flags)
    memory = estimate_memory(
        model_report(str(folder / "model")),
        config,
        Hardware("cpu", "", shape.precision, ""),
        shape.batch_size,
        shape.tokens,
        shape.checkpointing,
    )
    assert memory is not None
    return peak(), memory.total


def peak() -> int:
    """Bytes of this process at its peak; from getrusage only where there is nothing better: that counts the parent at the fork too."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepare(shape: Shape, folder: Path) -> None:
    """A model of `shape` and rows that are longer than they are cut to."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import WORDS, build_tiny_model, write_jsonl

    text = " ".join(WORDS * shape.tokens)[: 8 * shape.tokens]
    write_jsonl(folder / "rows.jsonl", [{"text": f"{row} {text}"} for row in range(32)])
    build_tiny_model(folder / "model")
    config = LlamaConfig.from_pretrained(
        folder / "model", hidden_size=shape.hidden, intermediate_size=11 * shape.hidden // 4, num_hidden_layers=shape.layers,
        num_attention_heads=8, num_key_value_heads=4, vocab_size=shape.vocabulary, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")


def peak_and_estimate(shape: Shape) -> tuple[int, int]:
    """`trained` in a process of its own: a peak is a process's."""
    with tempfile.TemporaryDirectory() as temporary:
        prepare(shape, Path(temporary))
        command = [sys.executable, "-m", "tests.bench.memory", json.dumps(asdict(shape)), temporary]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
    peak, estimate = json.loads(done.stdout.splitlines()[-1])
    return peak, estimate


def main() -> None:
    print(
        f"{'hidden':>7}{'layers':>7}{'vocabulary':>11}{'tokens':>7}{'rows':>5}  {'how':36}{'peak MB':>8}{'estimate':>9}{'':>7}"
    )
    for shape in SHAPES:
        peak, estimate = peak_and_estimate(shape)
        how = " ".join(["checkpointing"] * shape.checkpointing + [f"logits={shape.logits}", shape.precision])
        print(f"{shape.hidden:7}{shape.layers:7}{shape.vocabulary:11}{shape.tokens:7}{shape.batch_size:5}  {how:36}"
              f"{peak / 1e6:8.0f}{estimate / 1e6:9.0f}{estimate / peak:6.2f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(trained(Shape(**json.loads(sys.argv[1])), Path(sys.argv[2]))))
