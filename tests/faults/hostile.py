"""The 33 rows of hostile or damaged input, each made for real and shown to the real command: `make hostile`.

The table it prints is docs/hostile.md; tests/faults/test_hostile.py holds each row against it. Every payload that could run would
make a folder named `owned`, and every row looks for it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import build_tiny_model, chats, write_jsonl
from tests.engine.checkpoints.folders import adapter_config, write_checkpoint, write_json

Arguments = list[object]


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    number: int
    what: str
    make: Callable[[Room], Arguments]
    """Makes the input, gives the command."""
    code: int
    told: str
    """Stands in what the user sees."""
    shown: str = ""
    """Lines for the table are those with this in them; empty: `told`."""


@dataclass
class Room:
    """Where a row is made."""

    folder: Path
    model: Path

    @property
    def out(self) -> Path:
        """An output folder with one whole checkpoint of another tool."""
        out = self.folder / "OUT"
        if not out.exists():
            shutil.copytree(self.model.parent / "whole", out / "checkpoint-327")
        return out

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint-327"

    def payload(self) -> bytes:
        """A pickle that makes the folder `owned` when it is loaded."""
        return pickle.dumps(_Payload(self.folder / "owned"), protocol=2)

    def torch_file(self, name: str, pickled: bytes, compression: int = zipfile.ZIP_STORED, data: bytes = b"") -> None:
        """A file in torch's layout around `pickled`."""
        with zipfile.ZipFile(self.checkpoint / name, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
            if data:
                archive.writestr("archive/data/0", data)

    def dataset(self, *lines: str | bytes, name: str = "chats.jsonl") -> Path:
        path = self.folder / name
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) for line in lines))
        return path

    def copied_model(self) -> Path:
        return Path(shutil.copytree(self.model, self.folder / "model"))

    def train(self, **changed: object) -> Arguments:
        flags = {"dataset": self.model.parent / "chats.jsonl", "model": self.model, "output": self.folder / "RUN", **changed}
        return ["--yes", *(word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value))]


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def check(room: Room) -> Arguments:
    return ["check", room.out]


def _safetensors(room: Room, header: bytes, data: bytes = b"", length: int | None = None) -> Arguments:
    content = struct.pack("<Q", len(header) if length is None else length) + header + data
    (room.checkpoint / "adapter_model.safetensors").write_bytes(content)
    return check(room)


def _entry(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


def row_1(room: Room) -> Arguments:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"):
        room.torch_file(name, room.payload())
    return check(room)


def row_2(room: Room) -> Arguments:
    (room.checkpoint / "training_args.bin").write_bytes(room.payload())
    return check(room)


def row_3(room: Room) -> Arguments:
    (room.checkpoint / "adapter_model.bin").write_bytes(room.payload())
    return check(room)


def row_4(room: Room) -> Arguments:
    (room.checkpoint / "optimizer.pt").write_bytes(room.payload())
    with tarfile.open(room.checkpoint / "scheduler.pt", "w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(room.payload())
        archive.addfile(member, io.BytesIO(room.payload()))
    return check(room)


def row_5(room: Room) -> Arguments:
    room.torch_file("optimizer.pt", b"\x80\x02cbuiltins\neval\n.")
    return check(room)


def row_6(room: Room) -> Arguments:
    room.torch_file("optimizer.pt", b"\x80\x02N.", zipfile.ZIP_DEFLATED, bytes(200 * 2**20))
    return check(room)


def row_7(room: Room) -> Arguments:
    with zipfile.ZipFile(room.checkpoint / "optimizer.pt") as archive:
        kept = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(room.checkpoint / "optimizer.pt", "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content[:-4] if "/data/" in name else content)
    return check(room)


def row_11(room: Room) -> Arguments:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (room.checkpoint / name).unlink()
    index = {"metadata": {}, "weight_map": {"a": "../../../etc/passwd", "b": "/etc/passwd"}}
    write_json(room.checkpoint / "config.json", {})
    write_json(room.checkpoint / "model.safetensors.index.json", index)
    return check(room)


def row_12(room: Room) -> Arguments:
    elsewhere = room.folder / "elsewhere"
    room.checkpoint.rename(elsewhere)
    (room.out / "checkpoint-1").symlink_to(elsewhere)
    os.mkfifo(room.out / "checkpoint-2")
    (room.out / "checkpoint-3").write_text("x")
    (room.out / "checkpoint-4").symlink_to("/dev/zero")
    return check(room)


def row_13(room: Room) -> Arguments:
    room.checkpoint.rename(room.out / "checkpoint-9999")
    return check(room)


def row_14(room: Room) -> Arguments:
    state = (room.checkpoint / "trainer_state.json").read_text()
    for number, step in enumerate(("-1", "true", "1e400", "NaN", '"7"'), 1):
        copy = shutil.copytree(room.checkpoint, room.out / f"checkpoint-{number}")
        (copy / "trainer_state.json").write_text(state.replace('"global_step": 327', f'"global_step": {step}'))
    shutil.rmtree(room.checkpoint)
    return check(room)


def row_15(room: Room) -> Arguments:
    (room.checkpoint / "trainer_state.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    (room.checkpoint / "adapter_config.json").write_text("[" * 100_000)
    return check(room)


def row_16(room: Room) -> Arguments:
    for name in ("checkpoint-٣", "checkpoint-007", "checkpoint-5\n", "checkpoint-100-backup"):
        room.checkpoint.rename(room.out / name) if name.endswith("٣") else (room.out / name).mkdir()
    return check(room)


CONTROL = "\x1b[2J\x1b]52;c;bG9sCg==\x07\x9b31m\u202egnp.exe"


def row_17(room: Room) -> Arguments:
    (room.out / f"checkpoint-1{CONTROL.replace('/', '')}").mkdir()
    write_json(room.checkpoint / "adapter_config.json", adapter_config(base_model_name_or_path=CONTROL, r=CONTROL))
    return check(room)


def row_18(room: Room) -> Arguments:
    rows = chats(3)
    rows[0]["messages"][0]["content"] = "[/ [bold] [@click=app.quit]press[/] [link=file:///etc]x"
    return ["data", write_jsonl(room.folder / "[bold]chats[@click=app.quit].jsonl", rows)]


def _template(room: Room, template: str) -> Arguments:
    model = room.copied_model()
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = model / name
        if path.exists() and name.endswith("json"):
            settings = json.loads(path.read_text())
            settings["chat_template"] = template
            path.write_text(json.dumps(settings))
        elif path.exists():
            path.write_text(template)
    return ["data", room.model.parent / "chats.jsonl", "--model", model]


def row_19(room: Room) -> Arguments:
    reach = "{{ cycler.__init__.__globals__.os.mkdir('" + str(room.folder / "owned") + "') }}"
    return _template(room, reach)


def row_20(room: Room) -> Arguments:
    return _template(room, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x")


def row_22(room: Room) -> Arguments:
    mapping = {"parent_library": "subprocess", "base_model_class": "Popen"}
    write_json(room.checkpoint / "adapter_config.json", adapter_config(auto_mapping=mapping))
    return check(room)


def row_23(room: Room) -> Arguments:
    model = room.copied_model()
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", {**config, "_attn_implementation": "someone/their-kernel"})
    return room.train(model=model)


def row_23b(room: Room) -> Arguments:
    model = room.copied_model()
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", {**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    (model / "evil.py").write_text(f"import os; os.mkdir({str(room.folder / 'owned')!r})")
    return room.train(model=model)


def row_24(room: Room) -> Arguments:
    folder = room.folder / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"import os; os.mkdir({str(room.folder / 'owned')!r})")
    return ["data", folder]


def row_25(room: Room) -> Arguments:
    row = json.dumps(chats(1)[0])
    twice = '{"text": "a", "text": "b"}'
    return ["data", room.dataset(b"\xef\xbb\xbf", row, "\n", '{"messages": [{"role": "user", "content": "\\ud800"}]}\n', "a\0b\n",
                                 twice, "\n", '{"text": "' + "x" * 1000, name="mixed.jsonl")]  # fmt: skip


def row_26(room: Room) -> Arguments:
    import pyarrow
    import pyarrow.parquet

    path = room.folder / "small.parquet"
    piece = pyarrow.table({"text": ["x" * 2**20] * 100})
    with pyarrow.parquet.ParquetWriter(path, piece.schema, compression="zstd") as writer:
        for _piece in range(60):
            writer.write_table(piece)
    return ["data", path]


def row_27(room: Room) -> Arguments:
    path = room.folder / "set.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../owned")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    return ["data", path]


def row_28(room: Room) -> Arguments:
    (room.checkpoint / "adapter_model.safetensors").chmod(0o666)
    return check(room)


def row_30(room: Room) -> Arguments:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    for name in ("adapter_model.safetensors", "trainer_state.json", "optimizer.pt"):
        (room.checkpoint / name).write_bytes(pointer)
    return check(room)


def row_32(room: Room) -> Arguments:
    for number in range(100_000):
        os.mknod(room.out / f"entry-{number}")
    return check(room)


def row_33(room: Room) -> Arguments:
    with open(room.checkpoint / "trainer_state.json", "wb") as file:
        file.write(b'{"global_step": 327, "x": "')
        for _block in range(100):
            file.write(b"x" * 10**6)
        file.write(b'"}')
    return check(room)


ROWS = [
    Row(1, "`__reduce__` in optimizer, scheduler, rng, scaler", row_1, 3, "pickle"),
    Row(2, "the same in training_args.bin", row_2, 0, "checkpoint-327"),
    Row(3, "a pickle adapter_model.bin beside safetensors", row_3, 0, "unused_pickle"),
    Row(4, "bare or tar pickle named .pt", row_4, 3, "pickle_legacy"),
    Row(5, "pickle with an unknown global", row_5, 3, "builtins"),
    Row(6, "zip bomb .pt", row_6, 3, "archive_bomb"),
    Row(7, "zip storage sizes that disagree", row_7, 3, "storage_mismatch"),
    Row(8, "safetensors header length 2^63", lambda room: _safetensors(room, b"{}", length=2**63), 3, "safetensors_invalid"),
    Row(9, "overlapping or out-of-range offsets",
        lambda room: _safetensors(room, json.dumps({"a": _entry(0, 8), "b": _entry(4, 12)}).encode(), bytes(12)), 3, "overlaps"),
    Row(10, "duplicate header keys", lambda room: _safetensors(
        room, b'{"a":' + json.dumps(_entry(0, 4)).encode() + b',"a":' + json.dumps(_entry(0, 4)).encode() + b"}", bytes(4)),
        3, "stands twice"),
    Row(11, "weight_map with `../../` or absolute paths", row_11, 3, "index_escapes"),
    Row(12, "checkpoint-N as symlink, FIFO, device or file", row_12, 3, "is a link"),
    Row(13, "folder number ≠ state's step", row_13, 0, "step_mismatch"),
    Row(14, "step negative, bool, 1e400, NaN, string", row_14, 3, "step_invalid"),
    Row(15, "JSON 100,000 levels deep", row_15, 3, "nested too deeply"),
    Row(16, "`checkpoint-٣`, `checkpoint-007`, trailing newline, `-backup`", row_16, 3, "not exactly checkpoint-<number>"),
    Row(17, "ESC, OSC 52, C1, bidi in names and configurations", row_17, 3, "^[[2J"),
    Row(18, "`[/`, `[bold`, `[@click=...]` in labels and rows", row_18, 0, "[@click=app.quit]"),
    Row(19, "a template that reaches for `__globals__`", row_19, 4, "unsafe"),
    Row(20, "a template with nested 10^9 loops", row_20, 4, "template"),
    Row(21, '`target_modules="(a+)+$"`', lambda room: room.train(target_modules="(a+)+$"), 2, "never a pattern"),
    Row(22, "an adapter config that names imports", row_22, 3, "adapter_config_imports"),
    Row(23, "private attention keys in config.json", row_23, 4, "code from elsewhere"),
    Row(23, "`auto_map` in config.json", row_23b, 4, "brings its own code"),
    Row(24, "a dataset folder with a .py loader", row_24, 4, ""),
    Row(25, "JSONL: NUL, BOM, lone surrogates, keys twice, torn last line", row_25, 4, ""),
    Row(26, "parquet that unpacks to 6 GB", row_26, 4, "no sound parquet file"),
    Row(27, "an archive with `../`", row_27, 4, ""),
    Row(28, "a world-writable checkpoint", row_28, 0, "world_writable"),
    Row(30, "Git LFS pointers in place of JSON or weights", row_30, 3, "lfs_pointer"),
    Row(31, "an output folder without write permission", lambda room: room.train(output="/proc/lora-tui"), 5, "cannot write here"),
    Row(32, "100,000 entries in the output folder", row_32, 0, "checkpoint-327"),
    Row(33, "trainer_state.json of 100 MB", row_33, 3, "too_large"),
]  # fmt: skip
"""29, a file swapped between check and load, needs a hand in between: tests/faults/test_swapped.py."""


def prepare(folder: Path) -> Path:
    """What all rows share; the model's folder."""
    write_checkpoint(folder / "whole", 327, 2.9, [0.5, 0.3, 0.2])
    write_jsonl(folder / "chats.jsonl", chats(12))
    return build_tiny_model(folder / "tiny-model")


def talk(arguments: Arguments) -> tuple[int, bytes]:
    """Run the command in this process: its exit code, and what it wrote to both descriptors."""
    from tui.cli import main

    with tempfile.TemporaryFile() as written:
        saved, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
        try:
            sys.stdout.flush()
            os.dup2(written.fileno(), 1)
            os.dup2(written.fileno(), 2)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            code = main([str(word) for word in arguments])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            sys.stdout, sys.stderr = streams
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for descriptor, original in enumerate(saved, 1):
                os.dup2(original, descriptor)
                os.close(original)
        written.seek(0)
        return code, written.read()


def harmless(output: bytes) -> bool:
    """Whether nothing in it could move a cursor, turn a line around or reach a clipboard."""
    return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output.decode("utf-8"))


def seen(row: Row, text: str, folder: Path) -> str:
    """The line of the table: what the user sees, without what is the same in all."""
    text = text.replace(str(folder), "").replace("|", "\\|")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if (row.shown or row.told) and (row.shown or row.told) in line]
    errors = [line for line in lines if line.startswith("error:")]
    chosen = errors[:1] + [line for line in marked if line not in errors][:2] or lines[-2:]
    return " · ".join(chosen)[:400]


def answer(row: Row, folder: Path, model: Path) -> str:
    """The row's line of the table. In a process of its own, so that one that hangs or kills it is told and not waited for."""
    import multiprocessing

    def inside(end: Any) -> None:
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        code, output = talk(row.make(Room(folder, model)))
        end.send(f"{code} | {seen(row, output.decode(), folder)}")

    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=inside, args=(there,))
    process.start()
    said = here.recv() if here.poll(LIMIT) else f"- | NOTHING: still busy after {LIMIT} s, or it died"
    process.kill()
    process.join()
    return f"| {row.number} | {row.what} | {said} |" + (" CODE WAS RUN" if (folder / "owned").exists() else "")


LIMIT = 60
"""Seconds for one row."""
MEMORY = 3 * 2**30
"""Bytes that a row may take beyond what the libraries do."""


def main() -> int:
    """Print docs/hostile.md."""
    lines = []
    with tempfile.TemporaryDirectory() as shared:
        model = prepare(Path(shared))
        for row in ROWS:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(answer(row, Path(folder), model))
    lines.append(
        "| 29 | files swapped between check and load | 3 | error: it was changed between being checked and being loaded |"
    )
    sys.stdout.write("\n".join([*HEAD, *sorted(lines, key=_number)]) + "\n")
    return 0


HEAD = (
    "# Hostile and damaged input: what the user sees",
    "",
    "Made by `make hostile`: each row is made for real and shown to the real command. Nothing of it is executed, nothing is lost,",
    "nothing hangs. tests/faults/test_hostile.py holds the command against every row; 29 needs a hand in between and is in",
    "test_swapped.py. Exit codes: 0 something can be continued or trained on, 2 usage, 3 nothing can be continued, 4 dataset or model",
    "unusable, 5 output folder.",
    "",
    "| # | input | exit | what the user sees |",
    "|---|---|---|---|",
)


def _number(line: str) -> int:
    return int(line.split("|")[1])


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
