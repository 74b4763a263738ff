"""How a dataset becomes tokens in a script. These functions stand in it word for word, so they need nothing of lora-tui.

They say again, in fewer words, what engine/data does (files, formats, masks, turns, tokens). That both say the same is not hoped for:
before a script is written, both are asked about the run's own rows (script.py). A row is a dict, a turn too; spans are of characters.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re


def rows_of_files(files, skipped):
    """The rows of files (path, encoding, delimiter), but for those whose numbers, from 1, are in `skipped`."""
    number = 0
    for path, encoding, delimiter in files:
        for row in read_file(path, encoding, delimiter, number + 1, skipped):
            number += 1
            if number not in skipped and row is not None:
                yield row


def read_file(path, encoding, delimiter, first, skipped):
    """The rows of one file, which are numbered from `first`; those of JSON lines that are in `skipped` are not looked at, and None
    stands for one of a table in which nothing stands."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet

        yield from map(unpadded, pyarrow.parquet.read_table(path).to_pylist())
        return
    with gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb") as file:
        data = file.read().removeprefix(b"\xef\xbb\xbf")
    if delimiter is not None:
        text = data.decode(encoding)
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        spaced = len(names) > 1 and all(name.startswith(" ") for name in names[1:])
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced)
        header, *records = (one for one in table if one)
        for record in records:
            empty = not any(field.strip() for field in record)
            yield None if empty else dict(zip((column.strip() for column in header), record, strict=True))
        return
    lines = [line for line in data.split(b"\n") if line.strip()]
    if name.endswith(".json") and not (len(lines) > 1 and lines[0].startswith(b"{") and lines[0].rstrip().endswith(b"}")):
        found = json.loads(data.decode(encoding))
        if isinstance(found, dict):
            lists = {
                name: some for name, some in found.items() if isinstance(some, list) and some and isinstance(some[0], dict)
            }
            found = lists["data"] if "data" in lists else next(iter(lists.values()))
        yield from found
        return
    for number, line in enumerate(lines, first):
        yield None if number in skipped else json.loads(line.decode(encoding))


def rows_of_datasets(found, skipped):
    """The same of what the library datasets loaded."""
    if isinstance(found, dict):
        found = found["train" if "train" in found else next(iter(found))]
    return (unpadded(row) for number, row in enumerate(found, 1) if number not in skipped)


def unpadded(value):
    """A value as it was before Arrow gave all structs of a column the same fields."""
    if isinstance(value, dict):
        return {name: unpadded(part) for name, part in value.items() if part is not None}
    return [unpadded(part) for part in value] if isinstance(value, list) else value


def renamed(row, names):
    """A row with its columns, and those of its turns, under the names they stand for."""

    def one(parts):
        left = {name: part for name, part in parts.items() if name not in names}
        return left | {names[name]: part for name, part in parts.items() if name in names}

    def turns(value):
        return [one(turn) if isinstance(turn, dict) else turn for turn in value] if isinstance(value, list) else value

    return one({name: turns(value) for name, value in row.items()})


def as_turn(turn, roles):
    """A turn as chat templates take it."""
    content = turn.get("content") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if isinstance(turn.get("tool_calls"), str):
        turn = turn | {"tool_calls": json.loads(turn["tool_calls"].strip() or "[]")}
    kept = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
    role = {"tool_call": "assistant", "tool_response": "tool"}.get(turn["role"], turn["role"].lower())
    found = {
        "role": roles.get(role, role),
        "content": content,
        **{key: turn[key] for key in kept if turn.get(key)},
    }
    unlearned = turn.get("weight") == 0 or turn.get("train") is False or turn.get("loss") is False
    return found | ({"weight": 0} if found["role"] == "assistant" and unlearned else {})


def beside(row, turns):
    """(the system turn that stands in a column of its own, as a list, tools)"""
    found = [row[name] for name in ("system", "system_prompt") if isinstance(row.get(name), str) and row[name]]
    system = [{"role": "system", "content": words} for words in found[:1]]
    tools = row.get("tools") or None
    tools = (json.loads(tools) if tools.strip() else None) if isinstance(tools, str) else tools
    bare = [isinstance(tool, dict) and "name" in tool and not {"type", "function"} & tool.keys() for tool in tools or ()]
    tools = [
        {"type": "function", "function": tool} if alone else tool for tool, alone in zip(tools or (), bare, strict=True)
    ]
    return [] if system == turns[:1] else system, tools or None


def spoken(turns):
    """Turns that may be written as JSON text, part by part, as pairs of question and answer, or as texts of both sides in turn."""
    turns = json.loads(turns) if isinstance(turns, str) else turns
    if isinstance(turns, dict):
        turns = [dict(zip(turns, parts, strict=True)) for parts in zip(*turns.values(), strict=True)]
    if all(isinstance(turn, str) for turn in turns):
        return [{"role": ("user", "assistant")[at % 2], "content": words} for at, words in enumerate(turns)]
    found = []
    for turn in turns:
        exchanges = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("query", "response"))
        names = next((names for names in exchanges if {*names} <= turn.keys() and not {"role", "from"} & turn.keys()), None)
        found += (
            [{"role": ("user", "assistant")[at], "content": turn[name]} for at, name in enumerate(names)]
            if names
            else [turn]
        )
    return found


def called(words, speaker):
    """What a turn says, or the calls that its words are as JSON."""
    try:
        calls = json.loads(words) if speaker == "tool_call" or speaker.lower() == "function_call" else None
    except ValueError:
        calls = None
    calls = [calls] if isinstance(calls, dict) else calls
    if (
        not calls
        or not isinstance(calls, list)
        or not all(isinstance(one, dict) and isinstance(one.get("name"), str) and "arguments" in one for one in calls)
    ):
        return {"content": words}
    functions = [{"name": one["name"], "arguments": one["arguments"]} for one in calls]
    return {"content": "", "tool_calls": [{"type": "function", "function": one} for one in functions]}


def from_messages(row, columns, roles):
    """A conversation out of turns with role and content."""
    turns, before = [], None
    for turn in spoken(row[columns[0]]):
        made = as_turn({**turn, **called(turn.get("content"), turn["role"])}, roles)
        if before == turn["role"] == "tool_call" and made.get("weight") == turns[-1].get("weight"):
            turns[-1]["tool_calls"] += made["tool_calls"]
        else:
            turns.append(made)
        before = turn["role"]
    system, tools = beside(row, turns)
    return {"messages": system + turns, "tools": tools}


def from_sharegpt(row, columns, roles):
    """A conversation out of turns with from and value."""
    weights = ("weight", "train", "loss")
    turns = [
        as_turn(
            {"role": turn["from"], **called(turn["value"], turn["from"]), **{name: turn.get(name) for name in weights}},
            roles,
        )
        for turn in spoken(row[columns[0]])
    ]
    system, tools = beside(row, turns)
    return {"messages": system + turns, "tools": tools}


def from_alpaca(row, columns, roles):
    """A conversation out of instruction, input and output, with what was said before."""
    history = row["history"] if isinstance(row.get("history"), list) else []
    extra = row.get("context" if columns[0] == "response" and "input" not in row else "input")
    question = "\n\n".join(part for part in (row["instruction"], extra) if part and part.strip())
    pairs = [*history, (question, row[columns[0]])]
    turns = [
        {"role": role, "content": words} for pair in pairs for role, words in zip(("user", "assistant"), pair, strict=True)
    ]
    turns[-1] |= {
        name: row[name] for name in ("reasoning_content", "thinking") if isinstance(row.get(name), str) and row[name]
    }
    system, tools = beside(row, turns)
    return {"messages": system + turns, "tools": tools}


def from_prompt_completion(row, columns, roles):
    """Prompt and completion, as texts or as turns."""
    prompt, completion = (row[name] for name in columns)
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": completion}
    prompt, completion = ([as_turn(turn, roles) for turn in side] for side in (prompt, completion))
    system, tools = beside(row, prompt)
    return {"prompt": system + prompt, "completion": completion, "tools": tools}


def from_text(row, columns, roles):
    """A text."""
    return {"text": row[columns[0]]}


def as_tokens(row, tokenizer, train_on, max_length):
    """(input_ids, labels) of a row, cut to `max_length` so that something is left to learn; None where there was nothing."""
    chat = "messages" in row or isinstance(row.get("prompt"), list)
    text, spans = chat_as_text(row, tokenizer, train_on) if chat else plain_as_text(row, tokenizer, train_on)
    found = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True, verbose=False)
    ids, labels = found["input_ids"], [-100] * len(found["input_ids"])
    for low, high in spans:
        inside = [
            at for at, (begin, end) in enumerate(found["offset_mapping"]) if begin < end and begin < high and end > low
        ]
        if inside:
            labels[inside[0] : inside[-1] + 1] = ids[inside[0] : inside[-1] + 1]
    learned = [at for at, label in enumerate(labels) if at and label != -100]
    if not learned:
        return None
    end = max_length if len(ids) <= max_length or learned[0] < max_length else learned[-1] + 1
    return ids[end - max_length : end], labels[end - max_length : end]


def plain_as_text(row, tokenizer, train_on):
    """(text, what is learned of it) of a row that no chat template writes; the tokenizer puts the begin token before it."""
    own = list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
    begin, end = tokenizer.bos_token if own else "", tokenizer.eos_token
    prompt = row["prompt"].removeprefix(begin) if "prompt" in row else ""
    text = prompt + row["completion"] if "prompt" in row else row["text"].removeprefix(begin)
    text = text if text.endswith(end) else text + end
    return text, [(0 if train_on == "all" else len(prompt), len(text))]


def chat_as_text(row, tokenizer, train_on):
    """(text, what is learned of it) of a conversation: answers with the marks that end them, or all of a completion."""
    from transformers.utils.chat_template_utils import render_jinja_template

    turns, tools = row["messages"] if "messages" in row else row["prompt"] + row["completion"], row["tools"]
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    answers = [index for index in (answers[-1:] if train_on == "completion" else answers) if "weight" not in turns[index]]
    weighed = any("weight" in turn for turn in turns)
    turns = [{name: part for name, part in turn.items() if name != "weight"} for turn in turns]

    def write(turns, prompt=False):
        return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=prompt)

    def closed(text, spans):
        if not answered or not spans or spans[-1][1] < len(text):
            return text, spans
        return text + closing, [*spans[:-1], (spans[-1][0], len(text + closing))]

    turns = calls_as_taken(turns, write)
    text = write(turns)
    template = tokenizer.get_chat_template(None, tools)
    last = turns[-1]
    answered = last["role"] == "assistant" and "tool_calls" not in last
    ends = answered and not text.rstrip().endswith(last["content"].strip())
    closing, opens = ("", False) if ends else closing_mark(tokenizer, template)
    if train_on == "all":
        return closed(text, [(0, len(text))])
    if "messages" not in row:
        first = len(row["prompt"])
        own = turns[first]["role"] == "assistant"
        begin = span_of(turns, first, text, write, tokenizer, closing, opens)[0] if own else len(write(turns[:first]))
        return closed(text, [(begin, len(text))])
    if not any(
        turns[at]["content"].strip() or turns[at].keys() & {"tool_calls", "reasoning_content", "thinking"} for at in answers
    ):
        return text, []
    if train_on != "completion" and not weighed and re.search(r"\{%-?\s*generation\s*-?%\}", template):
        written, spans = render_jinja_template(
            conversations=[turns], tools=tools, chat_template=template, return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )  # fmt: skip
        if written[0] == text and spans[0]:
            return closed(text, spans[0])
    return closed(text, [span_of(turns, index, text, write, tokenizer, closing, opens) for index in answers])


def calls_as_taken(turns, write):
    """The turns with the arguments of their calls as the template takes them: most want an object, some JSON text."""
    mark = "argument_of_a_call"

    def form(as_text, marked):
        def changed(call):
            function = call.get("function", call)
            found = as_object(function.get("arguments"))
            if isinstance(found, dict):
                found = found | ({mark: mark} if marked else {})
                found = json.dumps(found, ensure_ascii=False) if as_text else found
            function = function | ({"arguments": found} if "arguments" in function else {})
            return call | {"function": function} if "function" in call else function

        return [
            turn | {"tool_calls": [changed(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn
            for turn in turns
        ]

    for as_text in (False, True) if any("tool_calls" in turn for turn in turns) else ():
        try:
            written = write(form(as_text, True))
        except Exception:  # the other form, or what is wrong is told of the turns as they are
            continue
        if f'\\"{mark}' not in written and f"'{mark}': '" not in written:
            return form(as_text, False)
    return turns


def as_object(arguments):
    """Arguments as an object, where they are JSON text of one."""
    try:
        found = json.loads(arguments.strip() or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def span_of(turns, index, text, write, tokenizer, closing, opens):
    """Where turn `index` stands in the text: behind the header that invites it, up to its end mark. Where the template writes a turn
    otherwise once others follow, a marker in its place tells."""

    def attempt(turns, prompt=False):
        try:
            return write(turns, prompt)
        except Exception:  # a part of a conversation need not be one
            return ""

    marks = marks_of(tokenizer)
    head = attempt(turns[:index], True)
    upto = text if index == len(turns) - 1 else attempt(turns[: index + 1])
    follows = turns[index + 1]["role"] if index + 1 < len(turns) else ""
    ends = [mark for mark in (closing, *(marks if opens and follows in ("user", "tool") else ())) if mark]
    if head and upto and text.startswith(upto) and upto.startswith(head):
        stripped = upto.rstrip()
        end = max(len(head), len(stripped if stripped.endswith(tuple(marks)) else upto))
        return len(head), behind_mark(text, end, ends)
    marker = "\u27e6words\u27e7"
    words = {name: part for name, part in turns[index].items() if name != "tool_calls"} | {"content": marker}
    before, behind = write([*turns[:index], words, *turns[index + 1 :]]).split(marker)
    if not text.startswith(before) or not text.endswith(behind):
        raise ValueError("it cannot be told which of a row's tokens are the assistant's")
    begin, end = len(before), len(text) - len(behind)
    mark = re.compile("|".join(map(re.escape, marks)) or "(?!)")
    last = attempt([*turns[:index], words])
    ended = mark.match(behind.lstrip())
    if ended and mark.match(last.split(marker)[-1].lstrip() if last else behind.lstrip()):
        end += len(behind) - len(behind.lstrip()) + ended.end()
    end = behind_mark(text, end, ends)
    return (len(head) if head and len(head) <= begin and text.startswith(head) else begin), end


def marks_of(tokenizer):
    """The tokens that are marks rather than words, the longest first."""
    marks = [str(token) for token in tokenizer.added_tokens_decoder.values()] + tokenizer.all_special_tokens
    return sorted({mark for mark in marks if mark.strip()}, key=len, reverse=True)


def behind_mark(text, at, marks):
    """Where the mark at `at` in the text ends."""
    return at + len(next((mark for mark in marks if text.startswith(mark, at)), ""))


def closing_mark(tokenizer, template):
    """(mark, opens): what ends an answer behind which the template writes nothing: the mark that then opens the user's turn alone, or
    else the tokenizer's end token."""
    user, answer = {"role": "user", "content": "\u27e6asked\u27e7"}, {"role": "assistant", "content": "\u27e6answered\u27e7"}

    def tail(turns, words):
        try:
            text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
            return text.rpartition(words["content"])[2]
        except Exception:  # the template refuses them
            return None

    alone = tail([user, answer], answer)
    if alone is None or alone.strip():
        return "", False
    marks = marks_of(tokenizer)
    opening, header = tail([user, answer, user], answer) or "", tail([user, answer, user, answer], user) or ""
    asks, answers = (text[: behind_mark(text, 0, marks)] for text in (opening.lstrip(), header.lstrip()))
    return (asks, True) if asks and answers and asks != answers else (tokenizer.eos_token or "", False)
