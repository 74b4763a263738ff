"""A checkpoint made by the real Trainer with PEFT, and where the real histories are."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.checkpoints.folders import seal, write_checkpoint

HISTORIES = Path(__file__).parents[3].parent / "shared" / "histories"


@pytest.fixture(scope="session")
def histories() -> Path:
    """Folder of public runs' trainer_state.json files."""
    if not HISTORIES.is_dir():
        pytest.skip("the real histories are not here")
    return HISTORIES


@pytest.fixture(scope="session")
def stock_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a stock Trainer run with a LoRA adapter on a tiny Llama: checkpoint-2, -4 and -6 of two epochs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    out = tmp_path_factory.mktemp("stock")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = get_peft_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=64, **sizes)),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    rows = [{"input_ids": ids, "labels": ids} for ids in (torch.arange(8) + shift for shift in range(12))]
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=2, per_device_train_batch_size=4, logging_steps=1, save_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    return out


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("whole") / "checkpoint-327", 327, 2.9, [0.5, 0.3, 0.2])


@pytest.fixture
def whole(_whole: Path, tmp_path: Path) -> Path:
    """A complete stock checkpoint of step 327, epoch 2.9; to be damaged."""
    return Path(shutil.copytree(_whole, tmp_path / "out" / "checkpoint-327"))


@pytest.fixture
def proven(whole: Path) -> Path:
    """The same with a manifest."""
    return seal(whole)


@pytest.fixture
def hostile_zip() -> Callable[[str], bytes]:
    """`module name` -> a file in torch's layout whose pickle would call it."""

    def make(called: str) -> bytes:
        module, name = called.split(" ", 1)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", f"\x80\x02c{module}\n{name}\n".encode("latin-1") + b"X\x02\0\0\0id\x85R.")
        return file.getvalue()

    return make
