"""How OpenMP's threads wait: seconds of 60 training steps of the small model, alone and beside one process that is always busy.

As libgomp does by itself, spinning for long, which is how a headless run trains; spinning for a tenth of a
millisecond or less first, which is how the wizard does (`engine.hardware.share_the_processor`); and asleep at once. Each a process of
its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS: dict[str, dict[str, str]] = {
    "as libgomp does (headless)": {},
    **{
        f"spinning {count} times": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": count}
        for count in ("1000", "10000", "100000")
    },
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def seconds(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of training of one run of `variants.ours`."""
    code = "import sys; from pathlib import Path; from tests.bench.variants import ours; print(ours(Path(sys.argv[1]))[0])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    from tests.bench.variants import prepare

    print("| | alone, s | beside one busy process, s |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for way, environment in WAYS.items():
            alone = seconds(Path(name), environment)
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                beside = seconds(Path(name), environment)
            finally:
                busy.kill()
                busy.wait()
            print(f"| {way} | {alone:.1f} | {beside:.1f} |", flush=True)
