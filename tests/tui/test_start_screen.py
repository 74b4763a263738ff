"""The checkpoint browser: choosing, branching off, the trash, with real checkpoints."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Button

from engine.checkpoints.choose import choose
from engine.checkpoints.scan import Scan
from engine.resume.seen import Seen
from tests.engine.checkpoints.test_lineage import made
from tests.engine.runs import train
from tests.tui.conftest import driven
from tui.app import LoraTui
from tui.screens.start import StartScreen
from tui.widgets.checkpoint_table import CheckpointTable
from tui.wizard import Wizard

Make = Callable[..., LoraTui]


async def test_another_than_the_recommended_branches_off(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-6"))
        await hand.press("down", "c")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-6")
        await hand.run_to_end()
    assert Path("out/w-2/checkpoint-14").is_dir()
    assert not Path("out/w/checkpoint-14").exists()


async def test_while_the_folder_is_looked_at_nothing_is_offered_and_the_way_on_says_so(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, look_at = threading.Event(), Wizard.look_at

    def slow(self: Wizard, folder: Path) -> Seen:
        goes_on.wait(30)
        return look_at(self, folder)

    monkeypatch.setattr(Wizard, "look_at", slow)
    app = wizard(flags)
    async with driven(app) as hand:
        app.go_to(3)
        await hand.arrive("StartScreen")
        await hand.press("ctrl+n")
        await hand.until(lambda: hand.shows("Still looking."))
        assert not hand.shows("Trash") and hand.shows("Back")
        goes_on.set()
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        assert hand.shows("Trash") and not hand.shows("Still looking.")


async def test_the_cursor_is_never_on_the_line_of_a_run(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    train(stop_at=5, **{**flags, "output": "out/other"})
    Path("out/other/checkpoint-5").rename(trained / "checkpoint-5")
    app = wizard(flags)
    async with driven(app, (140, 40)) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        table = hand.screen.query_one("#table", CheckpointTable)
        rows = [row.key.value or "" for row in table.ordered_rows]
        headings = [number for number, key in enumerate(rows) if key.startswith("run:")]
        assert headings == [0, len(rows) - 2]
        for keys in (["up"], ["down"] * (len(rows) - 3), ["down"], ["up"], ["home"], ["end"], ["pageup"], ["pagedown"]):
            await hand.press(*keys)
            assert table.chosen is not None
        await hand.pilot.click("#table", offset=(5, 1 + headings[1]))
        await hand.pilot.click("#table", offset=(5, 1 + headings[1]))
        assert hand.at("StartScreen")
        await hand.until(lambda: hand.shows("Continue from checkpoint-5"))
        await hand.press("enter")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-5")


async def test_the_main_button_says_what_it_does_with_weights_from_elsewhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard({**flags, "output": "out/new", "init_from": str(trained / "checkpoint-8")})
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Start from these weights"))


async def test_new_run_from_weights(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("w")
        await hand.to_review()
        assert hand.shows("from the weights of")
        await hand.run_to_end()
        assert app.shown.live.join is None
    assert Path("out/w-2/final").is_dir()


async def test_fresh_beside_a_run_goes_to_a_new_folder(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    before = sorted(path.name for path in trained.iterdir())
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8"))
        await hand.press("f")
        await hand.to_review()
        assert hand.shows("starting fresh in out/w-2")
        await hand.press("escape")
        await hand.arrive("SettingsScreen")
    assert sorted(path.name for path in trained.iterdir()) == before


async def test_trash_and_undo_move_one_checkpoint_and_bring_it_back(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        whole = (trained / "checkpoint-8" / "manifest.json").read_bytes()
        await hand.press("d")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        assert not (trained / "checkpoint-8").exists()
        await hand.press("z")
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        assert [told.message for told in app._notifications] == ["checkpoint-8 is back"]
        assert (trained / "checkpoint-8" / "manifest.json").read_bytes() == whole


async def test_what_was_put_into_the_trash_can_be_taken_back_after_going_elsewhere(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        await hand.press("d")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        await hand.press("escape")
        await hand.go_on("StartScreen", "are free there")
        await hand.until(lambda: hand.shows("checkpoint-6 is the furthest"))
        await hand.press("z")
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        app.wizard.answer("output", "out/elsewhere")
        app.wizard.trashed.append(trained / ".trash" / "checkpoint-8.1")
        app.go_to(3)
        await hand.until(lambda: hand.shows("a fresh run starts"))
        assert not hand.screen.query_one("#undo").display  # it lies in another folder


async def test_what_an_earlier_look_found_does_not_take_the_place_of_a_later_one(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        look_at, looked, may_answer = app.wizard.look_at, [], threading.Event()

        def slow_at_first(folder: Path) -> Any:
            found = look_at(folder)
            looked.append(found)
            if len(looked) == 1:
                may_answer.wait(30)
            return found

        monkeypatch.setattr(app.wizard, "look_at", slow_at_first)
        await hand.press("d")
        await hand.until(lambda: len(looked) == 1)
        await hand.press("z")
        await hand.until(lambda: len(looked) == 2 and hand.shows("Continue from checkpoint-8"))
        may_answer.set()
        await hand.until(lambda: not [one for one in app.workers if one.is_running])
        assert hand.shows("checkpoint-8 is the furthest")


async def test_a_broken_checkpoint_cannot_be_continued_and_says_why(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    weights = trained / "checkpoint-8" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    app = wizard(flags)
    async with driven(app, (140, 40)) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))
        assert hand.shows("Passed over checkpoint-8")
        await hand.press("up")
        await hand.until(lambda: hand.shows("broken: It is broken."))
        assert hand.screen.query_one("#main", Button).disabled
        await hand.press("c")
        await hand.press("ctrl+n")
        assert hand.at("StartScreen")
        assert hand.shows("This one cannot be continued")


async def test_hundreds_of_checkpoints_are_listed_before_they_are_judged(
    wizard: Make, flags: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000, 1300):
        shutil.copytree(
            trained / "checkpoint-6", trained / f"checkpoint-{number}", copy_function=lambda a, b: Path(b).hardlink_to(a)
        )
    judged: list[Path] = []
    monkeypatch.setattr(StartScreen, "_judge", lambda screen: judged.append(screen._folder))
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        table = hand.screen.query_one("#table", CheckpointTable)
        await hand.until(lambda: table.row_count > 300)
        assert isinstance(hand.screen, StartScreen) and hand.screen._seen is not None
        assert hand.screen._seen.found is not None and len(hand.screen._seen.found.unverified) > 290
        assert judged  # from here on, while the person looks
        await hand.press("down")
        await hand.until(lambda: table.chosen is not None and table.chosen.name != "checkpoint-8")


async def test_the_detail_of_a_checkpoint_tells_its_files_and_whether_it_goes_on(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    (trained / "checkpoint-6" / "optimizer.pt").unlink()
    app = wizard(flags)
    async with driven(app, (180, 50)) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("It can be continued."))
        assert hand.shows("adapter_model.safetensors")
        await hand.press("down")
        await hand.until(lambda: hand.shows("It cannot be continued here."))


async def test_after_one_is_put_away_the_cursor_is_on_its_neighbour(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        await hand.press("down")
        await hand.until(lambda: hand.shows("Continue from checkpoint-6"))
        await hand.press("d")
        await hand.until(lambda: hand.shows("Continue checkpoint-3"))
        await hand.press("d")
        await hand.until(lambda: not (trained / "checkpoint-3").exists() and hand.shows("Continue checkpoint-8"))


async def test_the_name_on_the_button_is_whole_on_a_narrow_terminal_too(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app, (80, 24)) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        await hand.pilot.resize_terminal(60, 20)
        await hand.until(lambda: hand.shows("Continue checkpoint-8"))
        await hand.press("d")
        await hand.until(lambda: hand.shows("Undo  Continue "))


async def test_what_is_recommended_is_what_the_plan_goes_on_from(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    """A further checkpoint of another tool's run over other rows lies in the folder: neither offers it."""
    further = Path(shutil.copytree(trained / "checkpoint-8", trained / "checkpoint-900"))
    (further / "manifest.json").unlink()
    state = json.loads((further / "trainer_state.json").read_text())
    (further / "trainer_state.json").write_text(
        json.dumps({**state, "global_step": 900, "epoch": 9.0, "max_steps": 1000, "num_train_epochs": 10, "log_history": []})
    )
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Continue from checkpoint-8"))
        await hand.press("ctrl+n")
        await hand.to_review()
        assert hand.shows("continuing from checkpoint-8")


class Table(App[None]):
    def compose(self) -> ComposeResult:
        yield CheckpointTable(id="table")

    def on_mount(self) -> None:
        found = (
            made("checkpoint-7", [], step=7, loss=0.000012, eval_loss=0.00988, epoch=1.0),
            made("checkpoint-9", [], step=123456789, loss=0.0288, eval_loss=1234.5, epoch=12345.678),
        )
        self.query_one(CheckpointTable).show(Scan(Path(), found, ()), choose(found))


async def test_numbers_in_the_table_are_rounded_and_one_that_is_cut_says_so() -> None:
    app = Table()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        table = app.query_one(CheckpointTable)
        for row in table.rows:
            for column, cell in zip(table.ordered_columns, table.get_row(row), strict=True):
                assert cell.cell_len <= column.width
        cells = [[cell.plain.strip() for cell in table.get_row(name)] for name in ("checkpoint-7", "checkpoint-9")]
        assert cells[0][2:6] == ["1.00", "7", "1.2e-05", "0.00988"]
        assert cells[1][2:6] == ["12345…", "12345…", "0.0288", "1234.50"]


async def test_home_and_end_lead_to_the_first_and_the_last_checkpoint(
    wizard: Make, flags: dict[str, Any], trained: Path
) -> None:
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("checkpoint-8 is the furthest"))
        screen = hand.screen
        assert isinstance(screen, StartScreen)
        for key, name in (("end", "checkpoint-3"), ("home", "checkpoint-8")):
            await hand.press(key)
            assert screen.chosen is not None and screen.chosen.name == name


async def test_reasons_that_have_no_room_can_be_scrolled_to(wizard: Make, flags: dict[str, Any], trained: Path) -> None:
    for number in (20, 30, 40, 50, 60):
        (trained / f"checkpoint-{number}").mkdir()
    app = wizard(flags)
    async with driven(app) as hand:
        await hand.straight_to_start()
        await hand.until(lambda: hand.shows("Passed over checkpoint-60"))
        reasons = hand.screen.query_one("#reasons")
        assert reasons.show_vertical_scrollbar and not hand.shows("Passed over checkpoint-40")
        reasons.scroll_end(animate=False)
        await hand.until(lambda: hand.shows("Passed over checkpoint-40"))
