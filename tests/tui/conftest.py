"""What tests of the wizard need: a state folder of their own, and a hand to drive it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual._wait import SLEEP_GRANULARITY, wait_for_idle
from textual.pilot import Pilot
from textual.screen import Screen

from engine.remembered import Remembered
from tests.engine.runs import train
from tui import i18n
from tui.app import LoraTui
from tui.at_work import RunAtWork
from tui.screens.review import ReviewScreen
from tui.widgets.setting import Setting

RUN = {"epochs": 2, "batch_size": 4, "max_length": 64, "save_steps": 3, "learning_rate": 1e-3}
"""Settings of a short run on 26 chats: 7 steps an epoch."""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LORA_TUI_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    i18n.install("en")
    yield
    i18n.install("en")  # the engine's tests, which come next in this process, know of no language


@pytest.fixture(autouse=True)
def _no_waiting_for_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual's pilot waits up to a second, at each key and twice more, for a process that computes nothing. One that trains or
    imports torch never is that; what a test waits for it asks itself (`Hand.until`)."""

    async def wait(min_sleep: float = SLEEP_GRANULARITY, max_sleep: float = 0.1) -> None:
        await wait_for_idle(min_sleep, max_sleep)

    for name in ("textual.pilot", "textual.app"):
        monkeypatch.setattr(f"{name}.wait_for_idle", wait)


class Hand:
    """Drives the wizard as a person would: keys, and waiting until something is to be seen."""

    def __init__(self, app: LoraTui, pilot: Pilot[Any]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def screen(self) -> Screen[Any]:
        return self.app.screen

    def at(self, name: str) -> bool:
        return type(self.screen).__name__ == name

    async def until(self, true: Callable[[], Any], seconds: float = 30) -> None:
        """Wait for `true()`, at most `seconds`."""
        for _turn in range(round(seconds / 0.05)):
            await self.pilot.pause()
            if true():
                await self.pilot.pause()
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"waited in vain on {type(self.screen).__name__}:\n{self.text()}")

    async def arrive(self, name: str) -> None:
        await self.until(lambda: self.at(name))

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    def text(self) -> str:
        """The screen as text."""
        return "\n".join("".join(segment.text for segment in strip) for strip in self.screen._compositor.render_strips())

    def shows(self, words: str) -> bool:
        return words in self.text()

    async def go_on(self, to: str, seen: str) -> None:
        """Wait for `seen`, take the main button, arrive at `to`."""
        await self.until(lambda: self.shows(seen))
        await self.press("ctrl+n")
        await self.arrive(to)

    async def to_start(self) -> None:
        """From the first step to the fourth, with the answers given as flags."""
        await self.go_on("ModelScreen", "26 rows")
        await self.go_on("OutputScreen", "context 256 tokens")
        await self.go_on("StartScreen", "are free there")
        await self.until(lambda: not self.shows("Looking"))

    async def to_review(self) -> None:
        """From the fourth step, having chosen, to the review."""
        await self.arrive("SettingsScreen")
        await self.go_on("ReviewScreen", "learning rate")
        await self.until(lambda: self.shows("the same without the wizard") or self.screen.query_one("#closed").display)

    async def straight_to_start(self) -> None:
        """To the fourth step, with the answers given as flags; the steps before it have tests of their own."""
        await self.arrive("DatasetScreen")
        self.app.go_to(3)
        await self.arrive("StartScreen")
        await self.until(lambda: not self.shows("Looking"))

    async def straight_to_settings(self) -> None:
        """To the fields of the fifth step, likewise."""
        await self.arrive("DatasetScreen")
        self.app.go_to(4)
        await self.arrive("SettingsScreen")
        await self.until(lambda: self.screen.query(Setting))

    async def straight_to_review(self, seen: str = "the same without the wizard") -> None:
        """To the review of a run with the answers given as flags; the steps before it have tests of their own."""
        await self.arrive("DatasetScreen")
        self.app.show_screen(ReviewScreen())
        await self.arrive("ReviewScreen")
        await self.until(lambda: self.shows(seen))

    async def run_to_end(self) -> None:
        """Start from the review and wait for the result."""
        await self.press("ctrl+n")
        await self.arrive("ResultScreen")


@asynccontextmanager
async def driven(app: LoraTui, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Hand]:
    """The app at work on a terminal of that size (columns, lines), and a hand on its keys."""
    async with app.run_test(size=size) as pilot:
        yield Hand(app, pilot)


def at_work(app: LoraTui) -> RunAtWork:
    """The run that `app` has started."""
    assert isinstance(app.shown, RunAtWork)
    return app.shown


def answers(model: Path, dataset: Path) -> dict[str, Any]:
    """As they stand on the command line."""
    return {"dataset": str(dataset), "model": str(model), "output": "out/w", **{k: str(v) for k, v in RUN.items()}}


@pytest.fixture
def flags(tiny_model: Path, chat_file: Path) -> dict[str, Any]:
    """Answers as they stand on the command line."""
    return answers(tiny_model, chat_file)


@pytest.fixture
def wizard() -> Callable[..., LoraTui]:
    """Makes a wizard that remembers nothing but what it is told."""

    def make(flags: dict[str, Any] | None = None, **options: Any) -> LoraTui:
        options.setdefault("remembered", Remembered())
        return LoraTui(flags, **options)

    return make


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, chat_file: Path) -> Path:
    """A run in a folder out/w that was stopped at step 8 of 14: checkpoints 6 and 8 (and 3)."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(stop_at=8, **answers(tiny_model, chat_file))
    return folder / "out" / "w"


@pytest.fixture
def trained(stopped: Path) -> Path:
    """That run in out/w of this test's folder."""
    return Path(shutil.copytree(stopped, "out/w"))
