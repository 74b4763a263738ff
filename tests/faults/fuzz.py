"""Mutated bytes into every reader of untrusted files: `python -m tests.faults.fuzz` (make fuzz).

Each target takes bytes, hands them to one reader as a file would, and lets pass only what that reader is documented to raise. Anything
else is a finding: another exception, more than two seconds, more memory than MOST. Inputs are mutations of real files: cut at a
byte, bits flipped, pieces doubled, swapped between seeds, numbers replaced by extreme ones, and in JSON whole values by others,
since few damaged bytes get past a strict reader. What a reader lets through goes on to those who use it: the plan, the monitor, the
screens' words, the model card. Where atheris is installed (`pip install atheris`) it guides the same targets by coverage:
`python -m tests.faults.fuzz --atheris TARGET`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.files import Unsound
from engine.checkpoints.manifest import MANIFEST_NAME
from engine.checkpoints.proof import read_manifest
from engine.checkpoints.safetensors_header import check_safetensors
from engine.checkpoints.scan import scan
from engine.checkpoints.state import read_state
from engine.checkpoints.torch_file import check_torch_file
from engine.config import RunConfig
from engine.course.monitor import LossMonitor
from engine.data.read import Reading
from engine.data.report import dataset_report
from engine.errors import LoraTuiError
from engine.events import (
    CheckpointSaved,
    Evaluated,
    LossJumped,
    ResumeChecked,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Warned,
    as_record,
)
from engine.export.card import model_card
from engine.export.source import ExportSource
from engine.folder import RUN_TOML, last_run, run_id_of, source_of_run
from engine.journal import JOURNAL_NAME, fold, read_journal
from engine.resume.plan import plan_run
from engine.resume.report import check_report
from engine.sources import Resolved, read_toml, resolve
from engine.training.expect import pace_of
from engine.watch import event_of, standing
from tests.conftest import chats, write_jsonl
from tests.engine.checkpoints.folders import seal, write_checkpoint
from tui.event_text import stop_words
from tui.live import begun
from tui.live import fold as fold_live
from tui.plan_text import plan_lines
from tui.runs import _record, state_words
from tui.show import Show
from tui.widgets.checkpoint_table import CheckpointTable, saved_words

SLOW = 2.0
MOST = 600 * 2**20
"""Bytes that the process may grow by."""


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path, bytes], object]
    """Given an empty folder and the bytes."""
    expected: tuple[type[BaseException], ...]


def targets(folder: Path) -> list[Target]:
    """All readers, with seeds made in `folder`."""
    monitor = LossMonitor()
    for number in range(1, 327):
        monitor.observe(number, 4.4 / number**0.4, False)
    probe = {"rows": ["0" * 64], "loss": 0.2, "base_loss": 4.4, "precision": "float32", "tokens": 50}
    whole = seal(
        write_checkpoint(folder / "checkpoint-327", 327, 2.9, [0.5, 0.3, 0.2]), monitor=monitor.state(), probe=probe,
        versions={"torch": "2.13"}, logs={"loss_sum": 0.5, "last_logged_step": 320, "metrics": {"a": [0.5, None]}, "tokens": 90},
    )  # fmt: skip

    def content(name: str) -> bytes:
        return (whole / name).read_bytes()

    def put(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
        def reader(room: Path, data: bytes) -> object:
            (room / name).write_bytes(data)
            return read(room / name)

        return reader

    def in_checkpoint(name: str) -> Callable[[Path, bytes], object]:
        def reader(room: Path, data: bytes) -> object:
            copy = Path(shutil.copytree(whole, room / "checkpoint-327"))
            (copy / name).write_bytes(data)
            (
                copy / MANIFEST_NAME
            ).unlink()  # it would tell at once, and who uses what a stranger's folder says is asked for here
            return told(room)

        return reader

    def told(room: Path) -> object:
        (one,) = scan(room).checkpoints
        table = CheckpointTable()
        report = json.dumps(check_report(scan(room)), allow_nan=False)
        return one, table._cells(one, True, True, True), saved_words(one), report, carded(one)

    def planned(room: Path, data: bytes) -> object:
        copy = Path(shutil.copytree(whole, room / "checkpoint-327"))
        (copy / MANIFEST_NAME).write_bytes(data)
        saved = read_manifest(copy).model_dump()  # most end here
        shape: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "target_modules": "q_proj"}
        words = [told(room)]
        for more in (
            {},
            {"max_steps": 400},
            {"epochs": 5.5, "batch_size": 3},
            {"nproc": 3},
            {"scheduler": "linear", "warmup": 7},
        ):
            config = RunConfig(dataset=str(folder / "rows.jsonl"), model="tiny", output=str(room), **shape, **more)
            with contextlib.suppress(LoraTuiError):
                words.append(plan_lines(plan_run(Resolved(config, dict.fromkeys(more, "flag")))))
        monitor = LossMonitor()
        with contextlib.suppress(ValueError):
            monitor.restore(saved["monitor"])
        for step in range(400, 420):
            for loss in (0.3, 1e-300, 1e300, math.nan, 4.4):
                monitor.observe(step, loss, step < 405)
        return words, json.dumps(monitor.state(), allow_nan=False), monitor.good_for_sure

    def carded(one: Checkpoint) -> str:
        return (
            model_card(ExportSource(one, folder, "tiny", RunConfig(), False), merged=True) if one.adapter is not None else ""
        )

    def shown(room: Path, data: bytes) -> object:
        (room / JOURNAL_NAME).write_bytes(data)
        (room / RUN_TOML).write_text("schema_version = 1")
        live = begun()
        with Show(io.StringIO()) as show:
            for record in read_journal(room):
                event = event_of(record)
                if event is not None:
                    show.event(event)
                    live = fold_live(live, event, 1.0)
        words = [(live.seconds_left, stop_words(one.why), state_words(one), _record(one)) for one in [standing(room)]]
        json.dumps(words, default=str, allow_nan=False)
        (copied,) = scan(folder).checkpoints
        return words, carded(replace(copied, path=room / "checkpoint-327"))

    def journal(room: Path) -> object:
        return fold(read_journal(room.parent)), pace_of(room.parent), last_run(room.parent.parent)

    def settings(path: Path) -> object:
        return resolve([read_toml(path)]), run_id_of(path.parent), source_of_run(path.parent)

    def named(room: Path, data: bytes) -> object:
        name = data.replace(b"/", b"").replace(b"\0", b"")[:200] or b"x"
        if name not in (b".", b".."):
            (Path(room) / name.decode("utf-8", "surrogateescape")).mkdir()
        return scan(room)

    rows = write_jsonl(folder / "rows.jsonl", chats(4)).read_bytes()
    # Without its own digest, which any change would fail by.
    older_manifest = json.dumps(
        {key: value for key, value in json.loads(content(MANIFEST_NAME)).items() if key != "digest"}
    ).encode()
    step = b'{"v":1,"t":1.5,"attempt":1,"type":"step","step":3,"epoch":0.5,"loss":0.2,"learning_rate":1e-4,"grad_norm":1,'
    events = step + b'"tokens":5,"tokens_per_second":9.5}\n{"v":1,"t":1,"attempt":1,"type":"run_started","step":0}\n'
    toml = b'schema_version = 1\nrun_id = "abc"\ndataset = "d"\nmodel = "m"\nepochs = 3.0\nbatch_size = "auto"\naccept = ["dataset"]\n'
    return [
        Target("trainer_state.json", (content("trainer_state.json"),), put("trainer_state.json", read_state), (Unsound,)),
        Target("manifest.json", (content("manifest.json"), older_manifest),
               put("manifest.json", lambda path: read_manifest(path.parent)), (Unsound,)),
        Target("adapter_config.json", (content("adapter_config.json"),), in_checkpoint("adapter_config.json"), ()),
        Target("safetensors", (content("adapter_model.safetensors"),),
               put("a.safetensors", lambda path: check_safetensors(path, True)), (Unsound,)),
        Target("torch zip", tuple(content(name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
               put("a.pt", lambda path: check_torch_file(path, True)), (Unsound,)),
        Target("names", (b"checkpoint-12", b"checkpoint-\xff", "checkpoint-٣".encode()), named, ()),
        Target("run.toml", (toml,), put(RUN_TOML, settings), (LoraTuiError,)),
        Target("events.jsonl", (events,), put(JOURNAL_NAME, journal), ()),
        Target("manifest.json, used", (older_manifest,), planned, (Unsound,)),
        Target("trainer_state.json, used", (content("trainer_state.json"),), in_checkpoint("trainer_state.json"), ()),
        Target("events.jsonl, shown", (b"\n".join(every_event()) + b"\n",), shown, ()),
        Target("dataset.jsonl", (rows,), put("rows.jsonl", _dataset), (LoraTuiError,)),
        Target("dataset.json", (b"[" + b",".join(rows.splitlines()) + b"]",), put("rows.json", _dataset), (LoraTuiError,)),
        Target("dataset.csv", (b'instruction,output\n"a, b","c\nd"\nx,y\n',), put("rows.csv", _dataset), (LoraTuiError,)),
    ]  # fmt: skip


def every_event() -> list[bytes]:
    """A line of a journal for each kind of event."""
    item = {"item": "optimizer", "expected": "step 3", "found": "step 3", "verdict": "changed", "detail": "why"}
    events = [
        RunStarted("abc", "out", "checkpoint-327", 327, 2.9, 339, 3.0, 10, 500, {"device": "cpu: none other"}, {"seed": 42}),
        ResumeChecked("checkpoint-327", (item,)),
        Step(328, 2.95, 0.2, 1e-4, 1.0, 500, 99.5),
        Step(329, 2.96, None, 1e-4, None, 500, 99.5),
        Evaluated(329, 2.96, 0.3, 1.5),
        LossJumped(330, "divergence", 0.2, 4.4, 22.0, True, 327, "checkpoint-327", ("a rate too high",)),
        RolledBack(330, "checkpoint-327", 327, 5e-5, 1, ("checkpoint-330",)),
        CheckpointSaved("checkpoint-339", 339, 3.0, 0.2, 0.3, 1000, 0.5, ("checkpoint-12",)),
        Warned("data", "two rows are copies"),
        RunStopped(339, 3.0, "TERM", "checkpoint-339"),
        RunFailed(339, "full", "no room", "make some", 5),
        RunFinished(339, 3.0, 0.2, 0.3, 9.5, "out/final", {"state": "reached", "message": "try it"}),
    ]
    return [json.dumps(as_record(event, 1, 1_700_000_000.0)).encode() for event in events]


def _dataset(path: Path) -> object:
    return dataset_report(str(path), Reading.of(RunConfig()), None, "auto", 1024).to_json()


EXTREMES = (
    b"1e999",
    b"-1",
    b"NaN",
    b"9" * 400,
    b"\\ud800",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"true",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\x1b]0;",
)


VALUES: tuple[object, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 10**300, -0.0, 0.5,
    1e-320, 1e-9, 1e9, 1e18, 1e299, 1.7e308,
    "", "x" * 3000, "\x1b]0;x\x07", "\ud800", "[b]", "0" * 64, "checkpoint-9", [], [1e300] * 70, {}, {"a": [None]},
)  # fmt: skip
"""What a value of JSON may be replaced by."""


def revalued(chance: random.Random, data: bytes) -> bytes:
    """JSON, one document or one a line, with one to four of its values replaced: mostly by others of their kind, which a reader
    lets through more often."""
    try:
        documents = [json.loads(data)]
    except ValueError:
        documents = [json.loads(line) for line in data.splitlines()]
    places = [place for document in documents for place in _places(document)]
    for _time in range(chance.randint(1, 4)):
        parent, key = chance.choice(places)
        alike = [value for value in VALUES if type(value) is type(parent[key])]
        if isinstance(parent, list) or chance.randrange(8):
            parent[key] = chance.choice(alike if alike and chance.randrange(4) else VALUES)
        else:
            parent[key] = None
    return b"\n".join(json.dumps(document).encode() for document in documents) + b"\n"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each (object or list, key) within `value`."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()):
        yield value, key
        yield from _places(part)


def mutate(chance: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with one to four things wrong."""
    seed = chance.choice(seeds)
    if seed[:1] == b"{" and chance.randrange(2):
        return revalued(chance, seed)
    data = bytearray(seed)
    for _time in range(chance.randint(1, 4)):
        at, other = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        match chance.randrange(6):
            case 0:
                del data[at:]
            case 1 if data:
                data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = chance.choice(EXTREMES)
            case 3:
                data[at:other] = b""
            case 4:
                data[at:at] = data[at:other]
            case _:
                data[at : at + 8] = chance.randbytes(8)
    return bytes(data)


@dataclass
class Run:
    """What one target was given, and what came of it."""

    inputs: int = 0
    slowest: float = 0.0
    findings: int = 0


def try_one(target: Target, data: bytes, run: Run, quiet: bool = False) -> None:
    """Give `data` to the target; a finding is printed and counted."""
    with tempfile.TemporaryDirectory(dir=_fast()) as room:
        begun = time.process_time()
        words = ""
        try:
            target.read(Path(room), data)
        except target.expected:
            pass
        except BaseException:
            words = traceback.format_exc()
        took = time.process_time() - begun
        run.inputs += 1
        run.slowest = max(run.slowest, took)
        if took > SLOW:
            words += f"took {took:.1f} s"
        if words:
            run.findings += 1
            if not quiet:
                sys.stderr.write(f"FINDING in {target.name}: {words}\n{data[:300]!r}\n")


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    """Fuzz for a time; prints a table, and exits 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", metavar="TARGET")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORA_TUI_CACHE"] = f"{folder}/cache"
        found = targets(Path(folder))
        if options.atheris:
            return _guided(next(one for one in found if one.name == options.atheris))
        runs = {target.name: Run() for target in found}
        chance = random.Random(options.seed)
        for target in found:
            for seed in target.seeds:  # every truncation of small files, at each byte
                for cut in range(0, len(seed) + 1, 1 if len(seed) <= 2048 else len(seed) // 512):
                    try_one(target, seed[:cut], runs[target.name])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end:
            for target in found:
                try_one(target, mutate(chance, target.seeds), runs[target.name])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    rows = [f"| {name} | {run.inputs} | {run.slowest:.2f} | {run.findings} |" for name, run in runs.items()]
    sys.stdout.write("\n".join(["| reader | inputs | slowest, s of CPU | findings |", "|---|---|---|---|", *rows]) + "\n")
    sys.stdout.write(f"\n{options.minutes:g} minutes; the process grew by {grown / 1e6:.0f} MB.\n")
    return 1 if grown > MOST or any(run.findings for run in runs.values()) else 0


def _guided(target: Target) -> int:
    import atheris  # type: ignore[import-not-found]

    def one(data: bytes) -> None:
        run = Run()
        try_one(target, data, run)
        assert not run.findings

    atheris.instrument_all()
    atheris.Setup([sys.argv[0]], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
