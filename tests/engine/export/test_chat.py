"""The adapter beside the bare base: the same prompt, the same seed, one model."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.data.tokens import tokenize
from engine.errors import ConfigError, OutputError
from engine.export.chat import SIDES, Chat, Sampling, open_chat, question
from engine.export.loading import answer_ends
from engine.export.samples import row_after, row_of
from engine.export.source import find_source
from engine.folder import write_run_toml
from engine.models.folder import load_tokenizer
from tests.conftest import write_jsonl
from tests.engine.export.families import adapter_on, build
from tests.engine.runs import train
from tui.chat import _typed


def test_a_folder_for_temporary_files_without_room_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_folder: Path, _size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left for another 1 MB")

    source = find_source(adapter_on(build(tmp_path / "base", "llama"), tmp_path / "out"), model=str(tmp_path / "base"))
    monkeypatch.setattr("engine.checkpoints.verified.need_room", full)
    with pytest.raises(OutputError, match=r"(?s)temporary files.*no space left.*TMPDIR"), open_chat(source):
        pass


def test_each_side_answers_as_its_model_does_alone_and_again_with_the_same_seed(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out", lora_alpha=400)
    sampling = Sampling(max_new_tokens=12, temperature=0.05, seed=7)
    with open_chat(find_source(out, model=str(base))) as chat:
        pieces: list[str] = []
        answers = {side: chat.answer(question("question 3"), side, sampling, pieces.append) for side in SIDES}
        assert "".join(pieces).replace(" ", "") == "".join(answers.values()).replace(" ", "")
        assert answers == {side: chat.answer(question("question 3"), side, sampling) for side in reversed(SIDES)}
        asked = chat._tokens(question("question 3"))
    assert answers["adapter"] != answers["base"]
    bare = AutoModelForCausalLM.from_pretrained(base)
    other = AutoModelForCausalLM.from_pretrained(base)
    drawn = {}
    for side, model in (("base", bare), ("adapter", PeftModel.from_pretrained(other, out / "final"))):
        torch.manual_seed(7)
        drawn[side] = model.eval().generate(
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=12,
            do_sample=True,
            temperature=0.05,
            top_k=0,
        )
    assert answers == {
        side: chat.tokenizer.decode(ids[0, asked.shape[1] :], skip_special_tokens=True) for side, ids in drawn.items()
    }


def test_a_thought_that_no_row_was_trained_with_is_not_invited(tiny_model: Path) -> None:
    """As DeepSeek-R1's distilled models do: their template ends its header with <think>, and writes none before an answer."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    text = tokenizer.decode(Chat(None, tokenizer)._tokens(question("why"))[0])
    assert text.endswith("<|im_start|>assistant\n")


def test_the_thought_that_answers_were_trained_behind_is_invited_though_the_prompt_opens_another(tiny_model: Path) -> None:
    """As Nemotron 3's template: an open <think> in its header, and an empty thought before an answer that had none."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ '<think>' }}"
        "{% if m.reasoning_content %}{{ '\n' + m.reasoning_content }}{% endif %}{{ '</think>' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    ends = {
        thinks: tokenizer.decode(Chat(None, tokenizer, thinks=thinks)._tokens(question("why"))[0])
        for thinks in (False, True)
    }
    assert ends[False].endswith("assistant\n<think></think>") and ends[True].endswith("assistant\n<think>\n")


@pytest.mark.parametrize("apart", [True, False])
def test_a_thought_is_invited_where_rows_had_thoughts(apart: bool, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    thought = "{% if m.thinking %}{{ '<think>\n' + m.thinking + '</think>' }}{% endif %}" if apart else ""
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        + thought
        + "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    text = tokenizer.decode(Chat(None, tokenizer, thinks=True)._tokens(question("why"))[0])
    assert text.endswith("assistant\n<think>\n")


def test_the_words_of_a_thought_are_never_put_into_the_models_mouth(tiny_model: Path) -> None:
    """Where the template refuses an answer without one, and its header is not the one that rows had."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' and '<think>' not in m.content %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<thinking>' }}{% endif %}"
    )
    text = tokenizer.decode(Chat(None, tokenizer, thinks=True)._tokens(question("why"))[0])
    assert text.endswith("assistant\n<thinking>")


@pytest.mark.parametrize("behind", ["", " + '\n'"], ids=["nothing", "a line break"])
def test_an_answer_ends_with_the_users_turn_where_the_template_writes_no_mark_behind_it(
    behind: str, tiny_model: Path
) -> None:
    """As GLM-4's."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content" + behind + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    assert tokenizer.convert_tokens_to_ids("<|user|>") in answer_ends(model, tokenizer, False)


def test_an_answer_ends_where_the_template_ends_it_though_the_model_names_another_mark(tiny_model: Path) -> None:
    """As with a base model that was trained on conversations."""
    tokenizer = load_tokenizer(tiny_model)
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|endoftext|>"
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    assert answer_ends(model, tokenizer, False) == sorted([end, tokenizer.eos_token_id])
    assert answer_ends(model, tokenizer, True) == [tokenizer.eos_token_id]


def test_a_run_of_another_machine_is_talked_to_on_this_one(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    trained = RunConfig(
        model=str(base), precision="float16", parallel="deepspeed", nproc=2, nnodes=2, rendezvous="head:29400"
    )
    write_run_toml(out, trained, "0" * 32)
    with open_chat(find_source(out)) as chat:
        assert chat.answer(question("question 1"), "adapter", Sampling(max_new_tokens=12))
        assert str(chat.model.dtype) == "torch.float32"


def test_the_command_answers_as_json_and_refuses_bad_settings(lora_tui: Any, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    asked = ("chat", out, "--model", base, "--prompt", "question 1", "--max-new-tokens", "5")
    code, said, error = lora_tui(*asked, "--json")
    assert code == 0, error
    assert {"adapter", "base", "prompt", "sampling"} <= json.loads(said).keys()
    assert lora_tui(*asked)[1].count("── ") == 2
    code, _said, error = lora_tui(*asked, "--temperature", "-1")
    assert code == 2 and "\n  temperature -1\n" in error


def test_a_system_turn_is_not_taken_where_no_template_could_write_it(lora_tui: Any, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    for template in tmp_path.rglob("chat_template.jinja"):
        template.unlink()
    asked = ("chat", out, "--model", base, "--prompt", "question 1", "--max-new-tokens", "2")
    assert [lora_tui(*asked, *more)[0] for more in ((), ("--system", ""), ("--system", "Be brief."))] == [0, 0, 2]


def test_lines_of_a_pipe_are_a_conversation_that_each_side_remembers(lora_tui: Any, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out", lora_alpha=400)
    (tmp_path / "stdin.txt").write_text("question 1\n\nquestion 2\n/new\nquestion 2\n/quit\nnever\n")
    code, said, error = lora_tui("chat", out, "--model", base, "--max-new-tokens", 6, "--json")
    assert code == 0, error
    told = [json.loads(line) for line in said.splitlines()]
    assert [one["prompt"] for one in told] == ["question 1", "question 2", "question 2"]
    with open_chat(find_source(out, model=str(base))) as chat:
        for side in SIDES:
            said = question("question 1")
            for answer, following in ((told[0][side], "question 2"), (told[1][side], "")):
                assert chat.answer(said, side, Sampling(max_new_tokens=6)) == answer
                said = [*said, {"role": "assistant", "content": answer}, *question(following)]
            assert chat.answer(question("question 2"), side, Sampling(max_new_tokens=6)) == told[2][side]


def test_a_python_without_readline_takes_questions_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["hello"])

    def ask(_prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr("builtins.input", ask)
    assert list(_typed()) == ["hello"]


def test_a_row_of_the_dataset_is_asked_and_its_own_answer_shown(
    lora_tui: Any, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", max_steps=2)
    third = json.loads(chat_file.read_text(encoding="utf-8").splitlines()[2])["messages"]
    code, said, error = lora_tui("chat", tmp_path / "run", "--row", 3, "--max-new-tokens", 3, "--json")
    assert code == 0, error
    told = json.loads(said)
    assert (told["prompt"], told["wanted"]) == (third[-2]["content"], third[-1]["content"])
    assert lora_tui("chat", tmp_path / "run", "--row", 9999)[0] == 2
    assert lora_tui("chat", tmp_path / "run", "--row", 1, "--prompt", "x")[0] == 2


def test_the_next_row_is_the_next_that_was_trained_on_and_behind_the_last_comes_the_first(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{number}:", "completion": " x"} for number in range(1, 7)])
    source: Any = SimpleNamespace(config=RunConfig(dataset=str(data), skip_rows="1,3,4"))
    number, seen = 0, []
    for _time in range(4):
        number, row = row_after(source, number)
        seen.append((number, row.said[-1]["content"]))
    assert seen == [(2, "2:"), (5, "5:"), (6, "6:"), (2, "2:")]


def test_without_an_adapter_of_the_end_the_furthest_of_the_folder_s_run_speaks(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    asked: dict[str, Any] = {"dataset": chat_file, "model": tiny_model, "save_steps": 2}
    train(**asked, output=tmp_path / "other", max_steps=4)
    train(**asked, output=tmp_path / "out", max_steps=2, seed=5)
    shutil.rmtree(tmp_path / "out" / "final")
    (tmp_path / "other" / "checkpoint-4").rename(tmp_path / "out" / "checkpoint-4")
    assert find_source(tmp_path / "out").adapter.name == "checkpoint-2"


PAIRS = [{"prompt": f"Question {number}:", "completion": f" answer {number}"} for number in range(8)]


@pytest.mark.parametrize(
    "rows", [PAIRS, [{"text": row["prompt"] + row["completion"]} for row in PAIRS]], ids=["pairs", "texts"]
)
def test_a_run_on_plain_text_is_asked_as_it_was_trained_and_not_in_the_chat_template(
    rows: list[dict[str, str]], lora_tui: Any, tmp_path: Path, tiny_model: Path
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    train(dataset=data, model=tiny_model, output=tmp_path / "run", max_steps=1)
    source = find_source(tmp_path / "run")
    with open_chat(source) as chat:
        row = row_of(source, 3)
        asked = row.said
        assert asked[-1]["content"] + row.wanted == "Question 2: answer 2"
        trained = tokenize([(1, rows[2])], chat.tokenizer, "auto", 99).row(0)["input_ids"]
        for said in (asked, question(asked[-1]["content"])):
            ids = chat._tokens(said)[0].tolist()
            assert ids == list(trained[: len(ids)]) and chat.continues(said)
    code, told, error = lora_tui("chat", source.adapter.path.parent, "--row", 3, "--max-new-tokens", 2)
    assert code == 0, error
    assert "trained on plain text" in told
    assert lora_tui("chat", source.adapter.path.parent, "--prompt", "x", "--system", "Be brief.")[0] == 2


def test_text_that_holds_the_template_s_marks_was_trained_with_the_template(tmp_path: Path, tiny_model: Path) -> None:
    written = "<|im_start|>user\nquestion<|im_end|>\n<|im_start|>assistant\nanswer<|im_end|>"
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": written}] * 4)
    train(dataset=data, model=tiny_model, output=tmp_path / "run", max_steps=1)
    source = find_source(tmp_path / "run")
    with open_chat(source) as chat:
        assert not chat.continues(question("question"))
        asked = row_of(source, 1).said
        assert chat.tokenizer.decode(chat._tokens(asked)[0]) == asked[-1]["content"]


def test_what_is_no_utf_8_is_refused_with_words_and_the_lines_behind_it_are_answered(lora_tui: Any, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama")
    out = adapter_on(base, tmp_path / "out")
    code, _said, error = lora_tui("chat", out, "--model", base, "--prompt", "bad \udcff")
    assert code == 2 and "not UTF-8" in error and "Traceback" not in error
    (tmp_path / "stdin.txt").write_bytes(b"bad \xff\nquestion 1\n")
    code, said, error = lora_tui("chat", out, "--model", base, "--max-new-tokens", 2, "--json")
    assert code == 0 and "not UTF-8" in error, error
    assert [json.loads(line)["prompt"] for line in said.splitlines()] == ["question 1"]


def test_an_answer_ends_at_the_last_place_that_was_learned_and_a_question_beyond_it_is_refused_alone(
    lora_tui: Any, tmp_path: Path
) -> None:
    base = build(tmp_path / "base", "gpt2", max_position_embeddings=32)
    out = adapter_on(base, tmp_path / "out")
    (tmp_path / "stdin.txt").write_text("question " * 40 + "\nquestion 1\n")
    code, said, error = lora_tui("chat", out, "--model", base, "--max-new-tokens", 100, "--json")
    assert code == 0 and "this model takes no more than 32 tokens" in error, error
    assert [json.loads(line)["prompt"] for line in said.splitlines()] == ["question 1"]
    with open_chat(find_source(out, model=str(base))) as chat:
        assert chat.places == 32 and chat._room(30, Sampling(max_new_tokens=100)) == 3


def test_a_question_is_asked_behind_the_system_turn_that_all_rows_share(
    lora_tui: Any, tmp_path: Path, tiny_model: Path
) -> None:
    brief = {"role": "system", "content": "Be brief."}
    rows = [{"messages": [brief, *question(f"why {n}"), {"role": "assistant", "content": f"so {n}"}]} for n in range(8)]
    train(dataset=write_jsonl(tmp_path / "rows.jsonl", rows), model=tiny_model, output=tmp_path / "run", max_steps=1)
    asked = ("chat", tmp_path / "run", "--prompt", "why 3", "--max-new-tokens", 4)
    told = {flags: lora_tui(*asked, *flags, "--json") for flags in ((), ("--system", "Be long."), ("--system", ""))}
    assert [json.loads(said)["system"] for _code, said, _error in told.values()] == ["Be brief.", "Be long.", None]
    assert "Be brief." in lora_tui(*asked)[1]
    with open_chat(find_source(tmp_path / "run")) as chat:
        trained = tokenize([(1, rows[3])], chat.tokenizer, "auto", 99).row(0)["input_ids"]
        ids = chat._tokens([*chat.beginning, *question("why 3")])[0].tolist()
    assert ids == list(trained[: len(ids)])


def test_a_row_is_asked_with_the_tools_it_was_trained_with(tmp_path: Path, tiny_model: Path) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "home"}}}
    turns = [{"role": "user", "content": "fog?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    template = model / "chat_template.jinja"
    written = "{% if tools %}{{ tools | tojson }}{% endif %}" + template.read_text().replace(
        "<|im_end|>", "{{ message.tool_calls | tojson if message.tool_calls else '' }}<|im_end|>"
    )
    template.write_text(written)
    data = write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns, "tools": [tool]}])
    source: Any = SimpleNamespace(config=RunConfig(dataset=str(data)))
    row, tokenizer = row_of(source, 1), load_tokenizer(model)
    asked = Chat(None, tokenizer)._tokens(row.said, row.tools)[0].tolist()
    trained = list(tokenize([(1, {"messages": turns, "tools": [tool]})], tokenizer, "auto", 999).row(0)["input_ids"])
    assert "weather" in tokenizer.decode(asked) and asked == trained[: len(asked)]
    assert '"city": "home"' in row.wanted


def test_calls_of_a_row_that_is_asked_are_written_as_they_were_trained(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_end|>", "{{ message.tool_calls | tojson if message.tool_calls else '' }}<|im_end|>"
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "home"}'}}
    turns = [{"role": "user", "content": "fog?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns = [*turns, {"role": "tool", "content": "fog"}]
    asked = Chat(None, tokenizer)._tokens(turns)[0].tolist()
    trained = tokenize([(1, {"messages": [*turns, {"role": "assistant", "content": "Fog."}]})], tokenizer, "auto", 999)
    assert asked == list(trained.row(0)["input_ids"])[: len(asked)]


def test_a_tokenizer_that_ends_texts_itself_ends_a_row_once_and_a_question_never(tiny_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(tiny_model)
    end = tokenizer.eos_token_id
    tokenizer.chat_template = None
    row = {"prompt": "question", "completion": " home"}
    before = tokenize([(1, row)], tokenizer, "auto", 99).row(0)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, end)]
    )
    found = tokenize([(1, row)], tokenizer, "auto", 99).row(0)
    assert [list(found[key]) for key in ("input_ids", "labels")] == [list(before[key]) for key in ("input_ids", "labels")]
    assert list(found["labels"])[-2:] == list(found["input_ids"])[-2:] and list(found["input_ids"]).count(end) == 1
    assert end not in Chat(None, tokenizer)._tokens(question("question"))[0]


def test_the_command_that_lists_what_is_there_can_be_typed(tmp_path: Path) -> None:
    out = tmp_path / "it's here"
    out.mkdir()
    with pytest.raises(ConfigError) as refused:
        find_source(out, "checkpoint-9")
    assert str(out) in shlex.split(refused.value.fix)
