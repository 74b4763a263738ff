"""Each screen as it looks, at 80x24 and 140x40, dark and light, in English and Chinese.

What differs from machine to machine (free memory and disk, the hour) is fixed; all else is the real screen over real data. After a
change that was meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at the pictures before committing them.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pytest_textual_snapshot import SVGImageExtension

from engine.course.advice import advise, likely_causes
from engine.events import CheckpointSaved, LossJumped, ResumeChecked, RunFinished
from engine.folder import Place
from engine.hardware import Hardware
from engine.remembered import Remembered
from engine.resume import seen
from engine.training.estimate import Fitted, Memory
from engine.training.expect import Expected, Fit
from tests.conftest import chats, write_jsonl
from tests.engine.runs import train
from tests.tui.conftest import RUN, Hand, driven
from tests.tui.scripted import Scripted, started, step
from tui import i18n
from tui.app import LoraTui
from tui.screens import model as model_screen
from tui.screens import start as start_screen
from tui.screens import training as training_screen
from tui.widgets import checkpoint_table


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a model, a dataset and a stopped run, under names that are the same everywhere."""
    folder = tmp_path_factory.mktemp("played")
    shutil.copytree(tiny_model, folder / "tiny-llama")
    write_jsonl(folder / "chats.jsonl", chats(26))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(stop_at=8, **answers())
    return folder


def answers() -> dict[str, Any]:
    return {"dataset": "chats.jsonl", "model": "tiny-llama", "output": "out/w", **{k: str(v) for k, v in RUN.items()}}


@pytest.fixture
def fixed(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine and the hour hold still; what lies in a person's caches is not offered."""
    monkeypatch.chdir(played)
    monkeypatch.setenv("LORA_TUI_CACHE", "no-cache")
    monkeypatch.setattr(model_screen, "cached_models", tuple)
    memory = Memory(1_200_000, 400_000, 30_000_000, 12_000_000, 700_000_000)
    fitted = Fitted(4, "as set", False, "it fits without", memory)
    less = replace(memory, activations=9_000_000)
    fit = Fit(fitted, less, None, 12_000_000_000, 16_000_000_000, "cpu", 46)
    monkeypatch.setattr(model_screen, "fit_of", lambda *_: fit)
    hardware = Hardware("cpu", "no GPU", "float32", "exact")
    expected = Expected(6, 90.0, hardware, fitted, 12_000_000_000, 1_000_000, 50_000_000_000)
    for asked in ("tui.screens.review.expect", "engine.training.expect.expect"):
        monkeypatch.setattr(asked, lambda *_: expected)
    monkeypatch.setattr(seen, "look_at", lambda folder: Place(folder, folder.exists(), 50 * 10**9, None))
    monkeypatch.setattr(training_screen, "_memory", lambda: "615 MB")
    monkeypatch.setattr(training_screen, "CHART", 0.0)

    for module in (start_screen, checkpoint_table):  # a manifest is as long as the path of the model
        monkeypatch.setattr(module, "size_words", lambda count: "1.5 MB")
        monkeypatch.setattr(module, "saved_words", lambda one: "2026-11-24 09:41")


RECEIPT = ResumeChecked(
    "checkpoint-8",
    tuple(
        {"item": name, "expected": saved, "found": now, "verdict": verdict, "detail": detail}
        for name, saved, now, verdict, detail in (
            ("adapter_keys", "28", "28 of 28", "ok", ""),
            ("adapter_values", "a1b2c3", "a1b2c3", "ok", ""),
            ("optimizer", "step 8", "step 8", "ok", ""),
            ("schedule", "14 steps", "100 steps", "changed", "What was asked wins."),
            ("probe_loss", "5.8012", "5.8012 (base 6.0341)", "ok", ""),
        )
    ),
)


def script() -> list[Any]:
    """What a continued run tells: the receipt, fifty falling losses, a checkpoint."""
    curve = [step(number, round(6 / (1 + number / 12) + (number * 7 % 5) / 20, 4)) for number in range(9, 61)]
    saved = CheckpointSaved("checkpoint-30", 30, 1.2, 1.9, None, 1_500_000, 0.1)
    return [started(checkpoint="checkpoint-8", step=8, epoch=1.15), RECEIPT, *curve, saved]


class Album:
    """Takes the screen in each look and holds it against the picture that was accepted."""

    def __init__(self, hand: Hand, snapshot: Any, name: str) -> None:
        self.hand, self.snapshot, self.name = hand, snapshot, name
        self.differing: list[str] = []

    async def take(self, screen: str) -> None:
        await self.hand.arrive(screen)
        await self._still()
        for theme in ("textual-light", "textual-dark"):
            self.hand.app.theme = theme
            await self.hand.pilot.pause()
            for field in self.hand.screen.query("Input"):
                field.cursor_blink = False  # type: ignore[attr-defined]
            await self.hand.pilot.pause()
            name = f"{screen}-{self.name}-{theme.removeprefix('textual-')}"
            if self.snapshot(name=name) != self.hand.app.export_screenshot():
                self.differing.append(name)

    async def _still(self) -> None:
        """Wait until two looks see the same and nothing but the run is at work."""
        last = ""
        for _turn in range(200):
            await self.hand.pilot.pause()
            await asyncio.sleep(0.1)
            seen, app = self.hand.text(), self.hand.app
            if seen == last and not [one for one in app.workers if one.is_running and one.name != "run"]:
                return
            last = seen
        raise AssertionError(f"does not come to rest:\n{last}")


@pytest.mark.parametrize(
    ("size", "language"),
    [
        pytest.param((80, 24), "en", id="80x24-en"),
        pytest.param((140, 40), "zh_CN", id="140x40-zh_CN"),
        pytest.param((80, 24), "zh_CN", id="80x24-zh_CN", marks=pytest.mark.slow),
        pytest.param((140, 40), "en", id="140x40-en", marks=pytest.mark.slow),
    ],
)
async def test_every_screen_looks_as_accepted(
    snapshot: Any, fixed: None, size: tuple[int, int], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    i18n.install(language)
    finished = RunFinished(100, 2.0, 0.21, None, 60.0, "out/w/final", asdict(advise([0.21] * 10)))
    causes = likely_causes("divergence", {}, 1e-4, 1e-4)
    jump = LossJumped(60, "divergence", 1.0, 4.4, 4.4, False, 59, "checkpoint-30", causes)
    runner = Scripted(*script(), jump, then=finished)
    app = LoraTui(answers(), remembered=Remembered(), runner=runner)
    monkeypatch.setattr(app, "_preload", lambda: None)
    async with driven(app, size) as hand:
        album = Album(hand, snapshot.use_extension(SVGImageExtension), f"{size[0]}x{size[1]}-{language}")
        for screen in ("DatasetScreen", "ModelScreen", "OutputScreen", "StartScreen", "SettingsScreen", "ReviewScreen"):
            await album.take(screen)
            await hand.press("enter" if screen == "StartScreen" else "ctrl+n")
        await album.take("TrainingScreen")
        await hand.press("s")
        await album.take("ResultScreen")
        await hand.press("e")
        await album.take("ExportScreen")
    assert not album.differing, "look at them: pytest tests/tui/test_snapshots.py --snapshot-update, then git diff"
