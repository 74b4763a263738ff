"""A run without lora-tui: the script is run, and its losses are the run's."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import trl
import yaml

from engine.data.normal import SPEAKERS
from engine.data.tokens import tokenize_chunk
from engine.eject import TARGETS, eject, recipe
from engine.eject.run import _columns
from engine.eject.script import with_what_they_call
from engine.errors import ConfigError
from engine.folder import own_start, write_run_toml
from tests.conftest import chats, write_jsonl
from tests.engine.checkpoints.folders import undigested
from tests.engine.data.test_formats import KNOWN
from tests.engine.data.test_masks import CHAT, FAMILIES, family, tokenizer_of
from tests.engine.resume.test_receipt import change_json
from tests.engine.runs import losses, train

ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": chats(6),
    "sharegpt": [{"conversations": [{"from": "human", "value": f"question {n}"}, {"from": "gpt", "value": f"alpha {n}"}]}
                 for n in range(6)],
    "alpaca": [{"instruction": f"question {n}", "input": "", "output": f"alpha {n}"} for n in range(6)],
    "prompt_completion": [{"question": f"question {n}", "answer": f" alpha {n}"} for n in range(6)],
    "text": [{"content": f"question {n} alpha"} for n in range(6)],
    "renamed columns": [{"ask": f"question {n}", "prompt": "another", "say": f" alpha {n}"} for n in range(6)],
    "renamed turns": [{"talk": [{"who": turn["role"], "what": turn["content"]} for turn in row["messages"]]} for row in chats(6)],
    "last answers": [{"messages": [*row["messages"], *row["messages"]]} for row in chats(6)],
    "tool calls": [
        {
            "tools": [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object", "properties": {}}}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": f"question {n}"}]},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "lamp", "arguments": {}}}]},
                {"role": "tool", "name": "lamp", "content": f"alpha {n}"},
                {"role": "assistant", "content": f"alpha {n}"},
            ],
            "prompt": "another column",
        }
        for n in range(6)
    ],
}  # fmt: skip
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
COLUMNS = {"renamed columns": "prompt=ask,completion=say", "renamed turns": "messages=talk,role=who,content=what"}


SLOW = ("sharegpt", "alpaca", "text", "renamed columns", "renamed turns")
"""Formats whose script differs from another's by a line or two."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ROWS])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run's folder: six rows in one batch, so that a step holds all of them and their order is no matter."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write_jsonl(folder / "rows.jsonl", ROWS[request.param])
    asked = {"columns": COLUMNS[request.param]} if request.param in COLUMNS else {}
    asked |= {"train_on": "completion"} if request.param == "last answers" else {}
    model = tiny_model
    if request.param == "tool calls":
        model = shutil.copytree(tiny_model, folder / "model")
        (model / "chat_template.jinja").write_text((TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    train(dataset=data, model=model, output=folder / "the run", epochs=4, batch_size=6, learning_rate=0.0125, warmup=1,
          lora_r=3, seed=7, **asked)  # fmt: skip
    return folder / "the run"


def globals_of(code: CodeType) -> set[str]:
    """Names that compiled code looks up outside of itself, its inner functions and comprehensions too."""
    return set(code.co_names).union(*(globals_of(part) for part in code.co_consts if isinstance(part, CodeType)))


@pytest.mark.parametrize("format", ["messages", "sharegpt", "alpaca", "prompt_completion", "text"])
def test_a_script_brings_each_function_that_another_of_it_calls(format: str) -> None:
    """Also of the formats whose scripts run among the slow tests only."""
    brought = with_what_they_call(getattr(recipe, f"from_{format}"), recipe.as_tokens)
    called = set().union(*(globals_of(one.__code__) for one in brought))
    there = {name for name, one in vars(recipe).items() if isinstance(one, FunctionType)}
    assert called & there <= {one.__name__ for one in brought}


def test_the_script_runs_and_its_losses_are_the_runs(ran: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(eject(ran, "script"), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "the run-trl" / "checkpoint-4" / "trainer_state.json").read_text())
    theirs = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert [loss for _step, loss in losses(ran)] == pytest.approx(theirs, abs=1e-5)
    assert (tmp_path / "the run-trl" / "final" / "adapter_model.safetensors").is_file()


def test_the_other_trainers_settings_are_the_runs(ran: Path) -> None:
    axolotl, factory = (yaml.safe_load(eject(ran, to)) for to in ("axolotl", "llamafactory"))
    assert (axolotl["lora_r"], axolotl["learning_rate"], axolotl["seed"], axolotl["num_epochs"]) == (3, 0.0125, 7, 4)
    assert (factory["lora_rank"], factory["learning_rate"], factory["seed"], factory["num_train_epochs"]) == (
        3,
        0.0125,
        7,
        4,
    )
    assert axolotl["micro_batch_size"] == factory["per_device_train_batch_size"] == 6
    assert axolotl["warmup_steps"] == factory["warmup_steps"] == 1


def test_a_name_full_of_tricks_stays_a_name(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / 'rows"; import os #\n.jsonl', ROWS["text"])
    out = tmp_path / 'out"""\nraise SystemExit(9)\n#'
    train(dataset=data, model=tiny_model, output=out, max_steps=1, batch_size=6)
    for to in TARGETS:
        text = eject(out, to)
        if to == "script":
            assert not any(isinstance(node, ast.Name) and node.id == "SystemExit" for node in ast.walk(ast.parse(text)))
        else:
            assert isinstance(yaml.safe_load(text), dict)


def test_renamed_columns_have_their_own_names_in_other_trainers_settings(tmp_path: Path, tiny_model: Path) -> None:
    """Those read the dataset as it is."""
    for name, asked in COLUMNS.items():
        data = write_jsonl(tmp_path / f"{name}.jsonl", ROWS[name])
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=6, columns=asked)
    axolotl, factory = (eject(tmp_path / "renamed turns", to) for to in ("axolotl", "llamafactory"))
    (dataset,) = yaml.safe_load(axolotl)["datasets"]
    assert dataset["field_messages"] == "talk"
    assert dataset["message_property_mappings"] == {"role": "who", "content": "what"}
    assert _entry(factory)["columns"] == {"messages": "talk"}
    assert {"role_tag": "who", "content_tag": "what"}.items() <= _entry(factory)["tags"].items()
    (dataset,) = yaml.safe_load(eject(tmp_path / "renamed columns", "axolotl"))["datasets"]
    assert (dataset["type"]["field_instruction"], dataset["type"]["field_output"]) == ("ask", "say")


def _entry(text: str) -> dict[str, Any]:
    """What LLaMA-Factory's dataset_info.json is to say."""
    (entry,) = json.loads(next(line for line in text.splitlines() if "dataset_info.json" in line).split(": ", 1)[1]).values()
    assert isinstance(entry, dict)
    return entry


def test_that_only_last_answers_were_learned_is_in_the_other_trainers_settings(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["last answers"])
    for name, train_on in (("last", "completion"), ("each", "auto")):
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=6, train_on=train_on)
        assert yaml.safe_load(eject(tmp_path / name, "llamafactory")).get("mask_history", False) == (name == "last")
        assert ("# lora-tui learned only the last answer" in eject(tmp_path / name, "axolotl")) == (name == "last")


def test_columns_beside_the_turns_are_named_to_llama_factory(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "sys": "Be brief.", "tools": ""} for row in ROWS["messages"]]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    train(
        dataset=data,
        model=tiny_model,
        output=tmp_path / "out",
        max_steps=1,
        batch_size=6,
        columns="messages=messages,system=sys",
    )
    wanted = {"messages": "messages", "system": "sys", "tools": "tools"}
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"] == wanted


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        eject(tmp_path, "script")


def test_a_small_learning_rate_stays_a_number(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, learning_rate=2e-5)
    assert yaml.safe_load(eject(tmp_path / "out", "axolotl"))["learning_rate"] == 2e-5


@pytest.mark.parametrize(
    ("name", "delimiter"), [("rows.csv", ","), ("rows.csv", ";"), ("rows.csv", "|"), ("rows.csv", "\t"), ("rows.tsv", "\t")]
)
def test_the_script_reads_a_table_as_the_run_did(name: str, delimiter: str, tmp_path: Path, tiny_model: Path) -> None:
    rows = [("What burns?", "The lamp, and fog; both."), ("Who keeps it?", "We do.")] * 3
    with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([("prompt", "completion"), *rows])
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert [(row["prompt"], row["completion"]) for row in known["rows_of_files"](known["FILES"], set())] == rows


def test_the_script_takes_no_space_behind_a_comma_for_a_part_of_the_words(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt, completion\n"Who, and when?", "We."\n', encoding="utf-8")
    rows = recipe.rows_of_files([(str(tmp_path / "rows.csv"), "utf-8", ",")], set())
    assert list(rows) == [{"prompt": "Who, and when?", "completion": "We."}]


THOUGHT = [{**turn, "reasoning_content": "hm"} if turn["role"] == "assistant" else turn for turn in CHAT]
UNSAID = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
CALL = [
    CHAT[0],
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "lamp", "arguments": {"on": True}}}]},
]
TEXT_CALL = [
    CHAT[0],
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "lamp", "arguments": '{"on": true}'}}],
    },
]
LIKE: dict[str, dict[str, Any]] = {
    "chat": {"messages": CHAT},
    "thoughts": {"messages": THOUGHT},
    "an answer of weight 0": {"messages": UNSAID},
    "a call": {"messages": CALL, "tools": [{"type": "function", "function": {"name": "lamp", "parameters": {}}}]},
    "a call with JSON text": {"messages": TEXT_CALL},
    "completion of turns": {"prompt": CHAT[:3], "completion": CHAT[3:]},
    "pair": {"prompt": "when? ", "completion": "at night"},
    "text": {"text": "the lamp burns"},
    "nothing to learn": {"messages": [CHAT[0], {"role": "assistant", "content": ""}]},
}


@pytest.mark.parametrize("limit", [1 << 20, 24])
@pytest.mark.parametrize("train_on", ["auto", "completion", "all"])
@pytest.mark.parametrize(("name", "training"), [*((name, False) for name in FAMILIES), ("llama3", True)])
def test_the_scripts_tokens_and_labels_are_the_runs(name: str, training: bool, train_on: str, limit: int) -> None:
    """With every template: rows of each kind, but for those that the run refuses."""
    tokenizer = family(name, training)
    compared = 0
    for row in LIKE.values():
        try:
            made = tokenize_chunk([(1, row)], tokenizer, "all" if "text" in row else train_on, limit)
        except ConfigError:
            continue
        if made.batch is not None:
            (ours,) = made.batch.to_pylist()
            theirs = recipe.as_tokens({"tools": None, **row}, tokenizer, "all" if "text" in row else train_on, limit)
            assert (theirs or ([], [])) == (ours["input_ids"], ours["labels"])
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize("end", ["", "\n", "{% if not loop.last or m.role == 'user' %}<|im_end|>{% endif %}"])
@pytest.mark.parametrize("train_on", ["auto", "completion", "all"])
def test_where_the_template_does_not_end_an_answer_the_script_does_as_the_run(end: str, train_on: str) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}" + end + "{% endfor %}"
    tokenizer = tokenizer_of(
        FAMILIES["qwen2_5"], template + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for turns in (CHAT, CHAT[:2], CHAT[:3]):
        (ours,) = tokenize_chunk([(1, {"messages": turns})], tokenizer, train_on, 1 << 20).batch.to_pylist()
        theirs = recipe.as_tokens({"messages": turns, "tools": None}, tokenizer, train_on, 1 << 20)
        assert theirs == (ours["input_ids"], ours["labels"])


@pytest.mark.parametrize("train_on", ["auto", "all"])
@pytest.mark.parametrize(
    "answer", ["{{ m.content }}", "{{ m.content + '\n' }}", "{% generation %}{{ m.content }}{% endgeneration %}{{ '\n' }}"]
)
def test_an_end_that_the_template_does_not_write_is_the_runs_in_the_script_too(answer: str, train_on: str) -> None:
    """Where it says itself what is generated, and writes a line break behind it, none is put there."""
    other = "{% if m.role == 'assistant' %}" + answer + "{% else %}{{ m.content + '\n' }}{% endif %}"
    template = "{% for m in messages %}{{ m.role + ': ' }}" + other + "{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    tokenizer, row = tokenizer_of(["<s>", "</s>"], template), {"messages": CHAT}
    made = tokenize_chunk([(1, row)], tokenizer, train_on, 1 << 20)
    assert made.batch is not None
    (ours,) = made.batch.to_pylist()
    assert recipe.as_tokens({"tools": None, **row}, tokenizer, train_on, 1 << 20) == (ours["input_ids"], ours["labels"])


@pytest.mark.parametrize("shape", KNOWN)
def test_the_scripts_rows_are_the_runs(shape: str) -> None:
    row, format, wanted = KNOWN[shape]
    made = getattr(recipe, f"from_{format}")(row, _columns(set(row), format), SPEAKERS if format == "sharegpt" else {})
    assert {name: part for name, part in made.items() if part is not None} == wanted


def test_the_columns_of_dolly_are_named_to_the_other_trainers(tmp_path: Path, tiny_model: Path) -> None:
    row = {"instruction": "Who", "context": "is there?", "response": "We.", "system_prompt": "Short."}
    data = write_jsonl(tmp_path / "rows.jsonl", [row] * 2)
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=2)
    wanted = {"prompt": "instruction", "query": "context", "response": "response", "system": "system_prompt"}
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"] == wanted
    assert '{"response": "output", "context": "input"}' in eject(tmp_path / "out", "axolotl")


def test_turns_that_the_other_trainers_do_not_read_are_told(tmp_path: Path, tiny_model: Path) -> None:
    swift = [CHAT[0], {"role": "tool_response", "content": "{}"}, *CHAT[1:]]
    for name, turns in (("pairs", [{"human": "Who?", "assistant": "We."}]), ("swift", swift), ("turns", CHAT)):
        data = write_jsonl(tmp_path / f"{name}.jsonl", [{"conversation": turns}] * 2)
        train(dataset=data, model=tiny_model, output=tmp_path / name, max_steps=1, batch_size=2)
        assert ("does not read turns as this dataset has them" in eject(tmp_path / name, "axolotl")) == (name != "turns")


def test_a_script_that_would_learn_something_else_is_not_written(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["messages"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert eject(tmp_path / "out", "script")
    monkeypatch.setattr(recipe, "span_of", lambda turns, index, text, write, tokenizer, closing, opens: (0, len(text)))
    with pytest.raises(ConfigError, match="Row 1 would become other tokens"):
        eject(tmp_path / "out", "script")


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SOURCES = {
    "rows.jsonl": b"\xef\xbb\xbf" + _lines(ROWS["text"]).replace(b"\n", b"\r\n\n"),
    "rows.jsonl.gz": gzip.compress(_lines(ROWS["text"])),
    "lines.json": _lines(ROWS["text"]),
    "array.json": json.dumps(ROWS["text"], indent=1).encode(),
    "data.json": json.dumps({"data": ROWS["text"]}).encode(),
    "rows.csv": b"content\n" + b"".join(row["content"].encode() + b"\n" for row in ROWS["text"]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_script_reads_the_rows_that_were_not_left_out(name: str, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / name).write_bytes(SOURCES[name])
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, skip_rows="2,4-5")
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert list(known["rows_of_files"](known["FILES"], known["SKIPPED"])) == [ROWS["text"][at] for at in (0, 2, 5)]


def test_a_damaged_row_that_was_left_out_does_not_stop_the_script(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(_lines(ROWS["text"]) + b'{"content": "\xff')
    train(
        dataset=tmp_path / "rows.jsonl", model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, skip_rows="7"
    )
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert list(known["rows_of_files"](known["FILES"], known["SKIPPED"])) == ROWS["text"]


def test_a_run_from_weights_is_refused_since_a_script_would_begin_with_none(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    flags: dict[str, Any] = {"dataset": data, "model": tiny_model, "max_steps": 1, "batch_size": 6}
    train(output=tmp_path / "one", **flags)
    train(output=tmp_path / "two", init_from=tmp_path / "one" / "checkpoint-1", **flags)
    with pytest.raises(ConfigError, match="began from the weights of"):
        eject(tmp_path / "two", "script")


def test_what_was_changed_in_the_middle_of_the_run_is_told(tmp_path: Path, tiny_model: Path, chat_file: Path) -> None:
    asked: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "output": tmp_path / "run", "batch_size": 4}
    train(**asked, max_steps=2)
    assert "behind step" not in eject(tmp_path / "run", "script")
    train(**asked | {"batch_size": 2}, grad_accum=2, max_steps=3, learning_rate=0.003)
    for to in ("script", "axolotl", "llamafactory"):
        (told,) = (line for line in eject(tmp_path / "run", to).splitlines() if "behind step 2" in line)
        assert told.startswith("# ") and "max_steps 2 -> 3" in told and "-> 0.003" in told
        assert "rows of a step" not in told


def test_a_run_that_was_extended_and_has_not_saved_since_is_as_long_as_asked(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1)
    assert "max_steps=" in eject(tmp_path / "run", "script")
    start = own_start(tmp_path / "run")
    assert start is not None
    write_run_toml(tmp_path / "run", start.model_copy(update={"epochs": 2.0}), "id")
    told = eject(tmp_path / "run", "script")
    assert "num_train_epochs=2," in told and "max_steps=" not in told


def test_names_of_any_letters_reach_the_script(tmp_path: Path, tiny_model: Path) -> None:
    """JSON writes those beyond the first plane in halves, of which Python makes two letters."""
    data = write_jsonl(tmp_path / "rows 🦊.jsonl", [{"ask 🦊": f"question {n}", "say": f" alpha {n}"} for n in range(6)])
    asked = {"columns": "prompt=ask 🦊,completion=say"}
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6, **asked)
    known: dict[str, Any] = {}
    exec(eject(tmp_path / "out", "script").partition("model = ")[0], known)
    assert known["NAMES"] == {"ask 🦊": "prompt", "say": "completion"}
    assert len(list(known["rows_of_files"](known["FILES"], set()))) == 6


def test_a_step_of_several_processes_stays_as_large_with_one(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=1, grad_accum=2)
    manifest = tmp_path / "out" / "checkpoint-1" / "manifest.json"
    geometry = undigested(manifest)["geometry"] | {"world_size": 3}
    change_json(manifest, geometry=geometry, others=[{"rng": "0" * 64, "loss_sum": None}] * 2)
    assert "gradient_accumulation_steps=6," in eject(tmp_path / "out", "script")
    for to in ("axolotl", "llamafactory"):
        text = eject(tmp_path / "out", to)
        assert yaml.safe_load(text)["gradient_accumulation_steps"] == 6
        assert "# lora-tui trained with 3 processes" in text


def test_what_an_adapter_is_beside_its_rank_goes_along(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert "use_" not in eject(tmp_path / "out", "script").partition("LoraConfig(\n")[2]
    change_json(tmp_path / "out" / "checkpoint-1" / "adapter_config.json", use_rslora=True, rank_pattern={"q_proj": 4})
    (adapter,) = [node for node in ast.walk(ast.parse(eject(tmp_path / "out", "script")))
                  if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoraConfig"]  # fmt: skip
    said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in adapter.keywords}
    assert (said["use_rslora"], said["rank_pattern"]) == (True, {"q_proj": 4})
    for to, name in (("axolotl", "peft_use_rslora"), ("llamafactory", "use_rslora")):
        text = eject(tmp_path / "out", to)
        assert yaml.safe_load(text)[name] is True
        assert '# It has no setting for what the adapter also is: {"rank_pattern": {"q_proj": 4}}' in text


def test_texts_are_not_packed_by_llama_factory(tmp_path: Path, tiny_model: Path) -> None:
    """It does where nobody says otherwise."""
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS["text"])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=6)
    assert yaml.safe_load(eject(tmp_path / "out", "llamafactory"))["packing"] is False


UNLIKE: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "a weight": ("rows.jsonl", _lines([{"messages": [*CHAT[:1], {**CHAT[1], "weight": 0}, *CHAT[2:]]}]), {}, "are learned there"),
    "turns as pairs": ("rows.jsonl", _lines([{"prompt": CHAT[:3], "completion": CHAT[3:]}]), {}, "no turns for prompts"),
    "a semicolon": ("rows.csv", b"prompt;completion\na;b\n", {}, 'parted by ";"'),
    "an encoding": ("rows.jsonl", '{"prompt": "你好", "completion": "再见"}\n'.encode("gb18030"), {"encoding": "gb18030"}, "gb18030"),
    "an early end": ("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n', {"stop_at_loss": 0.001}, "as low as 0.001"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_what_other_trainers_do_otherwise_is_told(case: str, tmp_path: Path, tiny_model: Path) -> None:
    name, content, asked, told = UNLIKE[case]
    (tmp_path / name).write_bytes(content)
    train(dataset=tmp_path / name, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=1, **asked)
    for to in ("axolotl", "llamafactory"):
        comments = [line for line in eject(tmp_path / "out", to).splitlines() if line.startswith("# ")]
        assert any(told in line for line in comments)


def test_a_column_that_the_first_row_lacks_is_named_to_the_other_trainers(tmp_path: Path, tiny_model: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [ROWS["messages"][0], {**ROWS["messages"][1], "system_prompt": "Be brief."}])
    train(dataset=data, model=tiny_model, output=tmp_path / "out", max_steps=1, batch_size=2)
    assert _entry(eject(tmp_path / "out", "llamafactory"))["columns"]["system"] == "system_prompt"
    (dataset,) = yaml.safe_load(eject(tmp_path / "out", "axolotl"))["datasets"]
    assert dataset["field_system"] == "system_prompt"
