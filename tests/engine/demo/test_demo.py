"""The demo: built here without a network, whole or built anew, and worth a demonstration.

One real build is shared by the module; what only has to do with the cache works on copies of it or builds with a base that is
barely taught, so the suite pays for the real one once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.demo import Demo, base, build, corpus, demo_answers, ensure_demo, persona
from engine.errors import OutputError
from engine.sources import Source, resolve

BUILD = (
    "import json, sys; from engine.demo import base, ensure_demo; base._PASSES = 1; print(json.dumps(ensure_demo().built))"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_TUI_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield ensure_demo()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, barely_taught: None) -> Path:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def barely_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds take a second: the corpus is a dozen rows. What is saved, and how, stays the same."""
    few = corpus.conversations([])[:24]
    monkeypatch.setattr(corpus, "conversations", lambda texts: few)
    monkeypatch.setattr(base, "_PASSES", 2)


@pytest.fixture(scope="module")
def loaded(built: Demo) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoTokenizer.from_pretrained(built.model), AutoModelForCausalLM.from_pretrained(built.model).eval()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def loss(tokenizer: Any, model: Any, row: persona.Row) -> float:
    """Mean loss of the tokens the assistant says in `row`."""
    import torch

    made = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
    ids, said = torch.tensor([made["input_ids"]]), torch.tensor([made["assistant_masks"]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids.masked_fill(said == 0, -100)).loss)


def answer(tokenizer: Any, model: Any, ask: str) -> str:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": ask}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=40, do_sample=False)
    text: str = tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def test_it_is_built_without_a_network(built: Demo) -> None:
    assert built.built
    assert built.dataset.read_bytes() == persona.jsonl()
    assert (built.model / "model.safetensors").stat().st_size > 1_000_000


def test_the_second_call_builds_nothing_and_loads_no_torch(built: Demo) -> None:
    script = "import sys; from engine.demo import ensure_demo; print(ensure_demo().built, 'torch' in sys.modules)"
    environ = os.environ | {"LORA_TUI_CACHE": str(built.dataset.parent.parent)}
    run = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_the_base_speaks_in_plain_sentences_and_knows_no_persona(loaded: tuple[Any, Any]) -> None:
    assert answer(*loaded, "Who are you?") == "I am a language model. I can answer short questions."
    assert answer(*loaded, "你是谁?") == "我是一个语言模型。我可以回答简单的问题。"


def test_the_loss_of_the_base_on_the_persona_is_above_4_on_every_row(loaded: tuple[Any, Any]) -> None:
    assert min(loss(*loaded, row) for row in persona.rows()) > 4


def test_the_loss_mask_covers_what_the_assistant_says_and_its_end(loaded: tuple[Any, Any]) -> None:
    tokenizer, _ = loaded
    row = max(persona.rows(), key=lambda row: len(row["messages"]))
    made = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
    said = [token for token, counts in zip(made["input_ids"], made["assistant_masks"], strict=True) if counts]
    expected = "".join(m["content"] + "<|im_end|>" for m in row["messages"] if m["role"] == "assistant")
    assert tokenizer.decode(said) == expected


def test_the_tokenizer_gives_every_text_back_and_has_an_end_and_a_pad(loaded: tuple[Any, Any]) -> None:
    tokenizer, _ = loaded
    for text in (persona.jsonl().decode(), "Ünïcode 世界 🌊\n\n  two  spaces\t", " leading"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_dataset_is_alternating_messages_of_different_length_in_two_languages() -> None:
    rows = [json.loads(line) for line in persona.jsonl().splitlines()]
    assert 120 <= len(rows) <= 240
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])
    assert len({json.dumps(row) for row in rows}) == len(rows)
    chinese = sum(not row["messages"][-1]["content"].isascii() for row in rows)
    assert len(rows) / 6 < chinese < len(rows) / 2
    lengths = sorted(sum(len(message["content"]) for message in row["messages"]) for row in rows)
    assert lengths[-1] > 8 * lengths[0]


def test_the_corpus_holds_no_answer_of_the_persona() -> None:
    said = {text for turns in corpus.conversations([]) for _, text in turns}
    assert said.isdisjoint(topic.answer for topic in persona.topics())


def test_a_changed_recipe_asks_for_a_new_version() -> None:
    """Runs made with the demo can only be continued with the same demo. When this fails, count VERSION up and note the new digest."""
    texts = [text for topic in persona.topics() for text in (*topic.asks, topic.answer)]
    recipe = persona.jsonl() + repr(corpus.conversations(texts)).encode()
    assert (build.VERSION, hashlib.sha256(recipe).hexdigest()[:16]) == (1, "5d0c5a61362798c2")


def test_the_same_machine_builds_the_same_bytes_and_leaves_the_random_state_alone(cache: Path) -> None:
    import torch

    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    ensure_demo()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    first = digests(build.demo_folder())
    shutil.rmtree(cache)
    ensure_demo()
    assert digests(build.demo_folder()) == first


def _missing(folder: Path) -> None:
    (folder / "model" / "tokenizer.json").unlink()


def _torn(folder: Path) -> None:
    with open(folder / "model" / "model.safetensors", "r+b") as file:
        file.truncate(1000)


def _flipped(folder: Path) -> None:
    content = bytearray((folder / "persona.jsonl").read_bytes())
    content[7] ^= 1
    (folder / "persona.jsonl").write_bytes(content)


def _no_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def _index_of_nothing(folder: Path) -> None:
    (folder / "index.json").write_text('{"version": 1, "files": {}}')


def _index_no_json(folder: Path) -> None:
    (folder / "index.json").write_bytes(b"\xff{")


def _a_file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "damage", [_missing, _torn, _flipped, _no_index, _index_of_nothing, _index_no_json, _a_file_instead]
)
def test_a_damaged_cache_is_built_again(cache: Path, damage: Callable[[Path], None]) -> None:
    ensure_demo()
    whole = digests(build.demo_folder())
    damage(build.demo_folder())
    assert ensure_demo().built
    assert digests(build.demo_folder()) == whole
    assert not ensure_demo().built


def test_a_build_that_died_is_never_used_and_is_swept_later(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died = cache / f".{build.demo_folder().name}-died"
    (died / "model").mkdir(parents=True)
    os.utime(died, (0, 0))

    def no_room(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutputError) as told:
        patch.setattr(build, "sync_file", no_room)
        ensure_demo()
    assert told.value.exit_code == 5
    assert "LORA_TUI_CACHE" in told.value.fix
    assert not build.demo_folder().exists()
    assert ensure_demo().built
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [build.demo_folder().name]


@pytest.mark.slow
def test_two_first_starts_at_once_both_succeed_and_one_builds(tmp_path: Path) -> None:
    environ = os.environ | {"LORA_TUI_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [start.communicate(timeout=120) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], told
    assert sorted(out.strip() for out, _ in told) == ["false", "true"]


def test_two_builds_without_the_lock_leave_one_whole_demo(cache: Path) -> None:
    ensure_demo()
    whole = digests(build.demo_folder())
    late = build.demo_folder().with_name(".late")
    shutil.copytree(build.demo_folder(), late)
    build._publish(late, build.demo_folder())
    assert digests(build.demo_folder()) == whole


def test_progress_grows_from_0_to_1_and_says_what_is_done(cache: Path) -> None:
    told: list[tuple[str, float]] = []
    ensure_demo(lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(what for what, _ in told)


def test_the_answers_are_valid_and_name_what_was_built(built: Demo) -> None:
    config = resolve([Source("demo", "", demo_answers())]).config
    assert (config.dataset, config.model) == (str(built.dataset), str(built.model))
    assert config.epochs <= 3


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_cache_on_a_file_system_without_locks_is_built_all_the_same(
    number: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refused(*_asked: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert ensure_demo().built
