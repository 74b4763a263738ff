"""llama.cpp's own converters and quantiser, found or fetched, each run in a process of its own.

Never a copy of ours: they change with every model family. They travel in the source package of llama-cpp-python, which pip fetches
at one version whose hash is known here. They load tokenizers with trust_remote_code, so what they are given holds no code and names
none (gguf.py), and they run without the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from engine.cache import cache_root
from engine.devices import processors
from engine.durable import sha256_of
from engine.errors import Cancelled, ConfigError, ModelError, OutputError
from engine.export.place import disk_error
from engine.i18n import _
from engine.lock import has_no_locks

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MEGABYTES = 77
HF, LORA = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
NEEDED = (HF, LORA, "LICENSE", "conversion/", "gguf-py/")
"""What is kept of the package: two scripts and the libraries they bring along, two megabytes."""
OUTTYPES = ("f32", "f16", "bf16", "q8_0")
"""What the converters write themselves."""
FTYPES = {"q2_k": 10, "q3_k_m": 12, "q4_0": 2, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""What the quantiser makes of that; llama_ftype in llama.h."""
QUANTIZATIONS = (*OUTTYPES, *FTYPES)
_BY_LIBRARY = """
import ctypes, sys, llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype, parameters.nthread = int(sys.argv[3]), int(sys.argv[4])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(parameters)))
"""

LOOK, PATIENCE = 0.25, 120.0
"""Seconds between two looks at what pip has fetched, and those in which no byte may come."""

Tell = Callable[[str], None]
Stopped = Callable[[], bool]
"""Whether somebody has it end."""


@dataclass(frozen=True)
class LlamaCpp:
    """A folder of llama.cpp with its converters."""

    folder: Path
    given: bool
    """Whether a person named it (--llama-cpp)."""

    def convert(self, script: str, arguments: Sequence[str | Path]) -> None:
        """Run a converter. Raises ModelError with its own words where it refuses, OSError where the disk does."""
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONSAFEPATH": "", "PYTHONUTF8": "1"}
        command = [sys.executable, str(self.folder / script), *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            if (full := disk_error(_last_words(done.stderr))) is not None:
                raise full
            raise ModelError(
                _("llama.cpp's converter refuses this model"),
                _last_words(done.stderr),
                _("Name a newer llama.cpp with --llama-cpp DIR, or use --to merged, which needs no converter."),
            )

    def quantize(self, plain: Path, into: Path, kind: str) -> None:
        """Make `into` of the type `kind` (a key of FTYPES) from the file `plain`. Raises ConfigError where there is no quantiser."""
        threads = str(processors())
        tool = self.quantizer()
        if tool is None and not has_library():
            raise _no_quantiser(kind)
        command = (
            [str(tool), str(plain), str(into), kind.upper(), threads]
            if tool is not None
            else [sys.executable, "-c", _BY_LIBRARY, str(plain), str(into), str(FTYPES[kind]), threads]
        )
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode != 0 or not into.is_file():
            raise ModelError(
                _("llama.cpp's quantiser refuses this model"), _last_words(done.stderr or done.stdout),
                _("Use --quantize q8_0 or another kind."),
            )  # fmt: skip

    def quantizer(self) -> Path | None:
        """The program llama-quantize: of the folder that was named, else on PATH."""
        places = (
            [self.folder / "build" / "bin", self.folder / "build" / "bin" / "Release", self.folder] if self.given else []
        )
        found = next((one for place in places if (one := shutil.which("llama-quantize", path=str(place)))), None)
        found = found or shutil.which("llama-quantize")
        return Path(found) if found else None


def has_library() -> bool:
    """Whether llama-cpp-python, the extra that runs GGUF files, is installed."""
    from importlib.util import find_spec

    return find_spec("llama_cpp") is not None


def refuse_impossible(kind: str | None, given: Path | None) -> None:
    """Tell before any work whether `kind` can be had, and the converters. Raises ConfigError."""
    from importlib.util import find_spec

    if given is None and to_be_fetched() and find_spec("pip") is None:  # as in environments that uv makes
        raise ConfigError(
            _("llama.cpp's converters are fetched by pip, and {python} has none").format(python=sys.executable),
            fix=_(
                "Install it there (python -m ensurepip, or uv pip install pip), or name a clone of llama.cpp with --llama-cpp DIR."
            ),
        )
    if given is not None and not (given / HF).is_file():
        raise ConfigError(
            _("{folder}: this is no folder of llama.cpp").format(folder=given),
            _("There is no {name} in it.").format(name=HF),
            _("Name a clone of llama.cpp, or leave --llama-cpp out."),
        )
    if (
        kind is not None
        and kind in FTYPES
        and LlamaCpp(given or Path(), given is not None).quantizer() is None
        and not has_library()
    ):
        raise _no_quantiser(kind)


def to_be_fetched() -> bool:
    """Whether the pinned converters are not here yet, so that the first export that needs them fetches MEGABYTES."""
    return not _pinned().is_dir()


def _pinned() -> Path:
    return cache_root() / f"llama.cpp-{VERSION}"


def find_llama_cpp(given: Path | None, tell: Tell = lambda text: None, stopped: Stopped = lambda: False) -> LlamaCpp:
    """The folder a person named, else the pinned one in the cache, fetched there first. `tell` is told how the fetching goes.

    Raises ConfigError where the named folder is none, OutputError where it cannot be fetched or kept, Cancelled where `stopped` says
    so while it is fetched; nothing is left of it then.
    """
    if given is not None:
        refuse_impossible(None, given)
        return LlamaCpp(given.absolute(), True)
    folder = _pinned()
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(filelock.FileLock(folder.parent / f".{folder.name}.lock"), stopped):
                if not folder.is_dir():
                    tell(_("fetching llama.cpp's converters: {megabytes} MB, once").format(megabytes=MEGABYTES))
                    _fetch(folder, tell, stopped)
            if stopped():  # in the last moment: they are here now, and what they are wanted for has not begun
                raise _cancelled()
        except OSError as error:
            raise OutputError(
                _("{folder}: llama.cpp's converters cannot be kept here").format(folder=folder), str(error),
                _("Make room there, or name another cache folder in LORA_TUI_CACHE."),
            ) from error  # fmt: skip
    return LlamaCpp(folder, False)


def _no_quantiser(kind: str) -> ConfigError:
    return ConfigError(
        _("{kind} needs llama.cpp's quantiser, and there is none here").format(kind=kind),
        _("Looked for llama-quantize on PATH and in the folder that was named, and for llama-cpp-python."),
        _("pip install llama-cpp-python, or name a built llama.cpp with --llama-cpp DIR, or use --quantize q8_0."),
    )


@contextlib.contextmanager
def _alone(lock: filelock.BaseFileLock, stopped: Stopped) -> Iterator[None]:
    """Hold `lock`; another process that fetches has it for minutes. Raises Cancelled where `stopped` says so meanwhile."""
    while True:
        try:
            lock.acquire(timeout=LOOK)
            break
        except filelock.Timeout:
            if stopped():
                raise _cancelled() from None
        except (OSError, NotImplementedError) as error:
            if not has_no_locks(error):
                raise
            break  # of two at once the second finds the first's in its place, and says so
    try:
        yield
    finally:
        lock.release()


def _cancelled() -> Cancelled:
    return Cancelled(_("The export was cancelled; nothing of it is there."))


def _fetch(folder: Path, tell: Tell, stopped: Stopped) -> None:
    # What pip is killed in the middle of may still be going away while its folder is removed.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as temporary:
        wanted, complaints = Path(temporary) / "requirements.txt", Path(temporary) / "stderr"
        wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary",
                   ":all:", "--require-hashes", "--dest", temporary, "--requirement", str(wanted)]  # fmt: skip
        with open(complaints, "wb") as stderr:
            pip = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
                env=os.environ | {"TMPDIR": temporary},  # where it can be seen how far it is, and what goes with the folder
            )  # fmt: skip
            try:
                _follow(pip, Path(temporary), tell, stopped)
            finally:
                _end(pip)
        package = next(Path(temporary).glob("*.tar.gz"), None)
        if package is None or sha256_of(package) != SHA256:
            raise _not_fetched(_last_words(complaints.read_text(encoding="utf-8", errors="replace")))
        unpacked = Path(temporary) / "unpacked"
        with tarfile.open(package) as archive:
            # Not as an argument, which Python 3.11 takes from 3.11.4 on only.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(unpacked, members=_members(archive))
        unpacked.rename(folder)


def _follow(pip: subprocess.Popen[bytes], folder: Path, tell: Tell, stopped: Stopped) -> None:
    """Wait until `pip`, whose temporary folders lie in `folder`, has the package, and tell how far it is: before 24.1 it tells a pipe
    nothing itself. With the package's every byte there it is not waited for: what it does next, a build environment to ask the
    package for its dependencies, takes minutes and is of no use here.

    Raises Cancelled, and OutputError where no byte comes any more.
    """
    begun = grown = time.monotonic()
    before = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(LOOK)
            return
        if stopped():
            raise _cancelled()
        now = time.monotonic()
        # What goes while it is looked at, or a disk without links: then pip ends by itself.
        with contextlib.suppress(OSError):
            for file in folder.glob("pip-*/*.tar.gz"):
                if (size := file.stat().st_size) > before:
                    before, grown = size, now
                    words = _("fetching llama.cpp's converters: {done:.1f} of {megabytes} MB · {rate:.1f} MB/s")
                    tell(words.format(done=size / 1e6, megabytes=MEGABYTES, rate=size / 1e6 / (now - begun)))
                elif sha256_of(file) == SHA256:
                    tell(_("unpacking llama.cpp's converters"))
                    os.link(file, folder / file.name)
                    return
        if before < (MEGABYTES - 1) * 1e6 and now - grown > PATIENCE:
            raise _not_fetched(_("No byte has come for {seconds:.0f} seconds.").format(seconds=now - grown))


def _end(pip: subprocess.Popen[bytes]) -> None:
    """End `pip` and all it has started, if it is still at work."""
    if pip.poll() is None:
        if sys.platform == "win32":
            pip.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pip.pid, signal.SIGKILL)
        pip.wait()


def _not_fetched(reason: str) -> OutputError:
    return OutputError(
        _("llama.cpp's converters could not be fetched"),
        reason,
        _("Try again with a network, or name a clone of llama.cpp with --llama-cpp DIR."),
    )


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        name = re.sub(r"^[^/]+/vendor/llama\.cpp/", "", member.name)
        if name != member.name and member.isfile() and name.startswith(NEEDED):
            member.name = name
            yield member


def _last_words(stderr: str) -> str:
    """The end of what a program complained about: its last line, and the last one it logged as an error where that is another."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    with contextlib.suppress(IndexError):
        return "\n".join(dict.fromkeys([*errors[-1:], lines[-1]]))[:1000]
    return _("It said nothing.")
