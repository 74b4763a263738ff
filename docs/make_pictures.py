"""Makes the README's pictures from the real app: `make pictures`.

The demo's model is trained on the demo's dataset, stopped half way and continued, in a folder of its own; what the wizard shows
meanwhile is saved as SVG.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from engine.demo import demo_answers, ensure_demo
from engine.remembered import Remembered
from tui import i18n
from tui.app import LoraTui

HERE = Path(__file__).parent / "pictures"
SIZE = (120, 34)


async def until(pilot: Pilot[Any], true: Callable[[], Any]) -> None:
    """Wait for `true()`, two minutes at most: the first time the demo is built."""
    for _turn in range(2400):
        await pilot.pause()
        if true():
            await pilot.pause()
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"still on {type(pilot.app.screen).__name__}")


def text(app: LoraTui) -> str:
    """The screen as text."""
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


def save(app: LoraTui, name: str) -> None:
    """The screen as docs/pictures/<name>.svg."""
    HERE.mkdir(exist_ok=True)
    (HERE / f"{name}.svg").write_text(app.export_screenshot(title="lora-tui"), encoding="utf-8")


async def play(stop_at: int | None, shots: dict[str, str]) -> None:
    """Once through the wizard. `stop_at`: stop at that step. `shots`: screen -> name of its picture."""
    ours = {"dataset": "persona.jsonl", "model": "tiny-llama", "output": "out/persona", "epochs": 4.0, "batch_size": 8}
    app = LoraTui({**demo_answers(), **ours}, remembered=Remembered())
    async with app.run_test(size=SIZE) as pilot:

        def at(name: str) -> bool:
            return type(app.screen).__name__ == name

        for name, words in (
            ("DatasetScreen", "tokens,"),
            ("ModelScreen", "fits"),
            ("OutputScreen", "are free there"),
            ("StartScreen", "Start" if stop_at else "is the furthest"),
            ("SettingsScreen", "learning rate"),
            ("ReviewScreen", "disk:"),
        ):
            await until(pilot, lambda name=name, words=words: at(name) and words in text(app))
            await asyncio.sleep(0.5)  # the panes beside it are filled by workers of their own
            if name in shots:
                save(app, shots[name])
            if name == "ReviewScreen":  # not through the pilot, which waits: a run of the demo may be over by then
                app.simulate_key("ctrl+n")
            else:
                await pilot.press("enter" if name == "StartScreen" else "ctrl+n")
        while not at("TrainingScreen") or app.live.step is None or app.live.step.step < (stop_at or 95):
            if at("ResultScreen"):
                raise TimeoutError("the run was over before its picture was taken")
            await asyncio.sleep(0.02)
        if "TrainingScreen" in shots:
            save(app, shots["TrainingScreen"])
        if stop_at:
            await pilot.press("s")
        await until(pilot, lambda: at("ResultScreen"))
        if "ResultScreen" in shots:
            save(app, shots["ResultScreen"])


def main() -> None:
    i18n.install("en")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["LORA_TUI_STATE"] = folder
        demo = ensure_demo()
        shutil.copy(demo.dataset, "persona.jsonl")
        shutil.copytree(demo.model, "tiny-llama")
        asyncio.run(play(60, {"DatasetScreen": "dataset"}))
        asyncio.run(play(None, {"StartScreen": "checkpoints", "TrainingScreen": "training", "ResultScreen": "result"}))


if __name__ == "__main__":
    main()
