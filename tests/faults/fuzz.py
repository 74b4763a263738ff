"""Mutated bytes into every reader of untrusted files: `python -m tests.faults.fuzz` (make fuzz).

Each target takes bytes, hands them to one reader as a file would, and lets pass only what that reader is documented to raise. Anything
else is a finding: another exception, more than two seconds, more memory than MOST. Inputs are mutations of real files: cut at a
byte, bits flipped, pieces doubled, swapped between seeds, numbers replaced by extreme ones. Where atheris is installed
(`pip install atheris`) it guides the same targets by coverage: `python -m tests.faults.fuzz --atheris TARGET`.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoints.files import Unsound
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.proof import read_manifest
from engine.checkpoints.safetensors_header import check_safetensors
from engine.checkpoints.scan import scan
from engine.checkpoints.state import read_state
from engine.checkpoints.torch_file import check_torch_file
from engine.errors import LoraTuiError
from engine.events import JOURNAL_NAME, fold, read_journal
from engine.folder import RUN_TOML, last_run, run_id_of, source_of_run
from engine.sources import read_toml, resolve
from engine.training.expect import pace_of
from tests.conftest import chats, write_jsonl
from tests.engine.checkpoints.folders import seal, write_checkpoint

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
    whole = seal(write_checkpoint(folder / "checkpoint-327", 327, 2.9, [0.5, 0.3, 0.2]))

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
            return inspect_folder(copy)

        return reader

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
    step = b'{"v":1,"t":1.5,"attempt":1,"type":"step","step":3,"epoch":0.5,"loss":0.2,"learning_rate":1e-4,"grad_norm":1,'
    events = step + b'"tokens":5,"tokens_per_second":9.5}\n{"v":1,"t":1,"attempt":1,"type":"run_started","step":0}\n'
    toml = b'schema_version = 1\nrun_id = "abc"\ndataset = "d"\nmodel = "m"\nepochs = 3.0\nbatch_size = "auto"\naccept = ["dataset"]\n'
    return [
        Target("trainer_state.json", (content("trainer_state.json"),), put("trainer_state.json", read_state), (Unsound,)),
        Target("manifest.json", (content("manifest.json"),),
               put("manifest.json", lambda path: read_manifest(path.parent)), (Unsound,)),
        Target("adapter_config.json", (content("adapter_config.json"),), in_checkpoint("adapter_config.json"), ()),
        Target("safetensors", (content("adapter_model.safetensors"),),
               put("a.safetensors", lambda path: check_safetensors(path, True)), (Unsound,)),
        Target("torch zip", tuple(content(name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
               put("a.pt", lambda path: check_torch_file(path, True)), (Unsound,)),
        Target("names", (b"checkpoint-12", b"checkpoint-\xff", "checkpoint-٣".encode()), named, ()),
        Target("run.toml", (toml,), put(RUN_TOML, settings), (LoraTuiError,)),
        Target("events.jsonl", (events,), put(JOURNAL_NAME, journal), ()),
        Target("dataset.jsonl", (rows,), put("rows.jsonl", _dataset), (LoraTuiError,)),
        Target("dataset.json", (b"[" + b",".join(rows.splitlines()) + b"]",), put("rows.json", _dataset), (LoraTuiError,)),
        Target("dataset.csv", (b'instruction,output\n"a, b","c\nd"\nx,y\n',), put("rows.csv", _dataset), (LoraTuiError,)),
    ]  # fmt: skip


def _dataset(path: Path) -> object:
    from engine.config import RunConfig
    from engine.data.read import Reading
    from engine.data.report import dataset_report

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


def mutate(chance: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with one to four things wrong."""
    data = bytearray(chance.choice(seeds))
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
