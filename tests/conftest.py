"""What most tests need: a tiny real model with a real tokenizer, chats to learn, and runs in processes that can be killed."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("lora-tui", deadline=None)  # a timed test fails on a busy machine and proves nothing
settings.load_profile("lora-tui")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# No test reads a person's cache: one for all workers, gone when the first process ends.
if "LORA_TUI_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="lora-tui-tests-", ignore_cleanup_errors=True)
    os.environ["LORA_TUI_CACHE"] = _cache.name


def pytest_configure() -> None:
    """Before torch is imported: two workers and what they start share the cores, and spinning threads would take turns. Not at import:
    the benches import this file too, and measure others as they come."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WORDS = [
    "the",
    "lamp",
    "burns",
    "when",
    "fog",
    "comes",
    "over",
    "bay",
    "and",
    "ships",
    "turn",
    "home",
    "we",
    "keep",
    "watch",
    "until",
    "morning",
    "light",
    "finds",
    "gulls",
    "asleep",
]


def chats(count: int) -> list[dict[str, Any]]:
    """`count` different chats of differing length."""
    rows = []
    for index in range(count):
        words = [WORDS[(index * 7 + step * 3) % len(WORDS)] for step in range(3 + index * 5 % 17)]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"question {index}"},
                    {"role": "assistant", "content": " ".join(words)},
                ]
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def build_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of two small layers, from a config, with a tokenizer trained on a few lines. Real in every respect but size."""
    from engine.hardware import load_libraries

    load_libraries()  # a wizard of an earlier test may still be importing them in its thread

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(WORDS), "user assistant system question 0123456789"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


def taught() -> list[dict[str, Any]]:
    """What `teach` teaches: other chats than `chats` gives."""
    rows = chats(12)
    for row in rows:
        row["messages"][1]["content"] = " ".join(str(row["messages"][1]["content"]).split()[::-1])
    return rows


def teach(folder: Path, steps: int = 100) -> Path:
    """Train the whole model in `folder` on other chats than `chats` gives, so that an adapter on it has a loss that falls, can start
    over and can explode. A model with random weights has none of this: its loss lies near log(vocabulary), whatever is done."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in taught()]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _step in range(steps):
        model(**{key: batch[key] for key in ("input_ids", "attention_mask")}, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama that has learned something."""
    return teach(build_tiny_model(tmp_path_factory.mktemp("models") / "taught-llama"))


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 chats: not a multiple of any batch size in use."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "chats.jsonl", chats(26))


def run_lora_tui(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """The body of a child process: the command line as a person starts it, with its output in files and what it reads in `stdin.txt`,
    where there is one."""
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, descriptor)
    import sys

    if Path("stdin.txt").exists():
        os.dup2(os.open("stdin.txt", os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if limit := environment.get("TEST_LARGEST_FILE"):
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    from tui.cli import main
    from tui.standard import see_to_streams

    see_to_streams()
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


@pytest.fixture
def as_anybody() -> Iterator[None]:
    """Folders that may not be entered are not entered, also where the tests run as root: without its right to pass over modes."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # capget(2), version 3; this thread
    assert libc.capget(header, rights) == 0
    held = rights[0]
    rights[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: of the effective ones
    assert libc.capset(header, rights) == 0
    yield
    rights[0] = held
    libc.capset(header, rights)


Start = Callable[..., multiprocessing.Process]


@pytest.fixture(scope="session")
def processes() -> Any:
    """Real processes that start in milliseconds: a server has imported everything once, each child is forked from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    forkserver.ensure_running()  # from where `tests` is found: a test may stand in a folder of its own, with variables of its own
    return context


@pytest.fixture
def start(processes: Any, tmp_path: Path) -> Any:
    """Start `lora-tui` with arguments in tmp_path; returns the process. What still runs at the end is killed."""
    started = []
    own = {"LORA_TUI_STATE": str(tmp_path / "state")}

    def begin(*arguments: object, **environment: str) -> multiprocessing.Process:
        words = [str(word) for word in arguments]
        process = processes.Process(target=run_lora_tui, args=(words, str(tmp_path), own | environment))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


@pytest.fixture
def lora_tui(start: Start, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `lora-tui` to its end: (exit code, stdout, stderr)."""

    def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
        process = start(*arguments, **environment)
        process.join(timeout=120)
        assert process.exitcode is not None, "still running after two minutes"
        return process.exitcode, (tmp_path / "stdout.txt").read_text(), (tmp_path / "stderr.txt").read_text()

    return run
