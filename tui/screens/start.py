"""Step 4: start fresh or continue. The checkpoint browser, with the reason for every verdict.

The default is what `--resume auto` would do: the furthest checkpoint that can be continued, else a fresh start. Enter takes it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Static

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.choose import Choice, distance, grade_words, last_good, weights_fallback
from engine.checkpoints.inspect import inspect_folder
from engine.checkpoints.scan import Scan, verified
from engine.checkpoints.trash import put_away, take_back
from engine.config import REACHED, TOO_LOW
from engine.errors import LoraTuiError
from engine.i18n import _, n_, sentences
from engine.paths import path_of
from engine.resume.seen import Seen
from engine.sizes import loss_words, size_words
from tui.fields import in_fields, lines_text, told
from tui.folder_text import choice_lines, held_words
from tui.i18n import N_
from tui.keys import bound
from tui.messages import Found
from tui.plain import visible
from tui.screens.base import StepScreen
from tui.widgets.chart import Line, LossChart, Picture
from tui.widgets.checkpoint_table import CheckpointTable, saved_words
from tui.wizard import Start
from tui.words import epochs_words

USUAL, ROOMY = 80, 100
"""Columns from which on the main button has room for all of its words beside all others; the same with the one that takes back too.
A name that is cut is another checkpoint's."""
FILES = 30
"""Files of a checkpoint that are listed."""
JUDGED = 8
"""Checkpoints that are judged between two looks at the screen."""


class StartScreen(StepScreen):
    """Choose how to begin."""

    STEP = 3
    HEADING = N_("Start fresh or continue?")
    MAIN = N_("Continue")
    HELP_TEXT: ClassVar[str] = N_(
        "Continuing restores the adapter, the optimizer, the learning rate's schedule, the random states and the place in the data, "
        "and proves each before the first step. The furthest checkpoint is recommended: by epoch, then by step, never by the time "
        "of its files.\n\nproven: every byte is as it was saved. complete: made by another tool, all there and sound. "
        "weights-only: can start a new run, cannot be continued. broken: torn, damaged, or not what it says.\n\n"
        "c continues from the chosen one; one that is not the furthest of its run branches off into a new folder. w starts a new "
        "run from its weights alone. f starts fresh. d moves it to the trash inside the folder, z takes that back. Nothing is "
        "ever deleted here."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        bound("continue", "continue", N_("Go on")),
        bound("weights", "weights", N_("Weights")),
        bound("fresh", "fresh", N_("Fresh")),
        bound("trash", "trash", N_("Trash")),
        bound("undo", "undo", N_("Undo")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._seen: Seen | None = None
        self._looks = 0
        """How often the folder was looked at: what an earlier look found may no longer be so."""
        self._cursor: str | None = None

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="reasons", can_focus=False):
            yield Static("", id="reason", markup=False)
        with Horizontal(id="browser"):
            yield CheckpointTable(id="table")
            with Vertical(id="detail"):
                with VerticalScroll(id="facts-scroll"):
                    yield Static("", id="facts", markup=False)
                yield LossChart(ascii_only=self.owner.ascii_only, id="curve")

    def compose_buttons(self) -> ComposeResult:
        yield Button(_("Weights"), id="weights", compact=True)
        yield Button(_("Fresh"), id="fresh", compact=True)
        yield Button(_("Trash"), id="trash", compact=True)
        yield Button(_("Undo"), id="undo", compact=True)

    def fill(self) -> None:
        self.query_one("#reason", Static).update(_("Looking"))
        for one in self.query("#buttons Button").exclude("#back"):
            one.display = False  # nobody knows yet what can be done
        self._look()

    @property
    def _folder(self) -> Path:
        return path_of(str(self.wizard.answers["output"]))

    @property
    def _trashed(self) -> list[Path]:
        """What was put into this folder's trash, since the wizard was opened."""
        return [place for place in self.wizard.trashed if place.parent.parent == self._folder]

    def _look(self) -> None:
        self._looks += 1
        self.ask("seen", self._looks, partial(self.wizard.look_at, self._folder))

    def on_found(self, event: Found) -> None:
        event.stop()
        if event.what in ("put away", "taken back"):
            self._moved(event.asked, event.value)
            return
        if event.asked != self._looks:
            return
        if isinstance(event.value, LoraTuiError):
            if event.what == "seen":
                self.query_one("#reason", Static).update("")
            self.close(told(event.value))
            return
        if event.what == "judged":
            self._judged(event.value)
            return
        self._show(event.value)

    def _judge(self) -> None:
        """The rest of the folder, a handful at a time, while the person looks."""
        seen = self._seen
        if seen is None or seen.found is None or not seen.found.unverified:
            return
        chosen = self.chosen
        rest = sorted(
            (one for one in seen.found.checkpoints if one.name in seen.found.unverified), key=distance, reverse=True
        )
        first = [one for one in rest if chosen is not None and one.name == chosen.name]
        names = [one.name for one in [*first, *rest]][:JUDGED]
        folder = seen.found.output_dir
        self.ask("judged", self._looks, lambda: [inspect_folder(folder / name) for name in dict.fromkeys(names)])

    def _judged(self, found: list[Checkpoint]) -> None:
        seen = self._seen
        if seen is None or seen.found is None:
            return
        scan = seen.found
        for one in found:
            if one.name in scan.unverified:
                scan = verified(scan, one)
        self._seen = replace(seen, found=scan)
        table = self.query_one("#table", CheckpointTable)
        table.judge(scan)
        self._judge()

    def _show(self, seen: Seen) -> None:
        self._seen = seen
        self.close("")
        self.query_one("#main").display = True
        table = self.query_one("#table", CheckpointTable)
        there = seen.found is not None and bool(seen.found.checkpoints)
        self.query_one("#browser").display = there
        for name in ("#weights", "#trash"):
            self.query_one(name).display = there
        self.query_one("#fresh").display = there
        self.query_one("#undo").display = bool(self._trashed)
        if seen.found is not None and seen.choice is not None and there:
            asked = self.wizard.start.path.name if self.wizard.start.path is not None else None
            table.show(seen.found, seen.choice, self._cursor or self._preferred(seen.found) or asked)
            self._judge()
            (self.query_one("#fresh") if self.wizard.start.how == "fresh" else table).focus()
        else:
            self.focus_main()
        self.query_one("#reason", Static).update(self._reason(seen))
        self._label_main()
        self.refresh_bindings()

    def _preferred(self, found: Scan) -> str | None:
        """After a jump: the last checkpoint from before the loss left its path."""
        jump, plan = self.owner.shown.live.jump, self.owner.shown.plan
        if jump is None or plan is None or plan.output_dir != found.output_dir:
            return None
        until = jump.good_until if jump.good_until is not None else jump.step - 1
        good = last_good(found.checkpoints, plan.run_id, until)
        return good.name if good is not None else None

    def _reason(self, seen: Seen) -> Text:
        held = [(held_words(seen.place.folder), "yellow")] if seen.held else []
        if seen.choice is not None:
            return lines_text([*held, *self._back_from_jump(seen.found), *choice_lines(seen.choice)])
        words = _("No checkpoint is there yet: a fresh run starts.")
        if self.wizard.start.how == "weights":
            words = _("A new run starts from the weights of {path}.").format(path=self.wizard.start.path)
        return lines_text([*held, (visible(words), "")])

    def _back_from_jump(self, found: Scan | None) -> list[tuple[str, str]]:
        good, jump = self._preferred(found) if found is not None else None, self.owner.shown.live.jump
        if good is None or jump is None or self.wizard.halved is None:
            return []
        words = _("Back from the jump at step {step}: {name} is the last good one; the learning rate is halved to {rate}.")
        return [(visible(words.format(step=jump.step, name=good, rate=self.wizard.halved)), "bold yellow")]

    # -- the chosen one ------------------------------------------------------------------------------------------------

    @property
    def chosen(self) -> Checkpoint | None:
        """The checkpoint under the cursor."""
        return self.query_one("#table", CheckpointTable).chosen if self._seen is not None and self._seen.choice else None

    def on_checkpoint_table_highlighted(self, event: CheckpointTable.Highlighted) -> None:
        event.stop()
        choice = self._seen.choice if self._seen is not None else None
        self.query_one("#facts", Static).update(facts(event.checkpoint, choice))
        self.query_one("#curve", LossChart).show(curve(event.checkpoint))
        self._label_main()
        self.refresh_bindings()

    def on_checkpoint_table_chosen(self, event: CheckpointTable.Chosen) -> None:
        event.stop()
        if event.checkpoint.continuable:
            self.action_continue()
        else:
            self.close(visible(grade_words(event.checkpoint.grade)))

    def on_resize(self) -> None:
        if self._seen is not None:
            self._label_main()

    def _label_main(self) -> None:
        one = self.chosen
        main = self.query_one("#main", Button)
        if one is None:
            weights = self.wizard.start.how == "weights"
            main.label = _("Start from these weights") if weights else _("Start fresh")
        else:
            name = visible(one.name)
            words = _("Continue from {name}")
            if self.size.width < (ROOMY if self._trashed else USUAL):
                words = _("Continue") if self._trashed and self.size.width < USUAL else _("Continue {name}")
            main.label = words.format(name=name) if one.continuable else _("Continue")
        main.disabled = one is not None and not one.continuable
        main.refresh(layout=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        one = self.chosen if self.is_mounted else None
        if one is None and action in ("continue", "weights", "trash"):
            return False
        match action:
            case "continue":
                return True if one is not None and one.continuable else None
            case "weights":
                return True if one is not None and weights_fallback([one]) is not None else None
            case "undo":
                return bool(self._trashed)
        return True

    # -- ways to begin -------------------------------------------------------------------------------------------------

    def action_next(self) -> None:
        one = self.chosen
        if one is not None and one.continuable:
            self.action_continue()
        elif one is not None:
            self.close(_("This one cannot be continued: choose another, start from its weights, or start fresh."))
        elif self._seen is not None:
            self._begin(Start("weights", self.wizard.start.path) if self.wizard.start.how == "weights" else Start("auto"))
        elif not self.query_one("#closed").display:  # else it could not be looked at, and why stands there
            self.close(_("Still looking."))

    def action_continue(self) -> None:
        one = self.chosen
        if one is None or not one.continuable:
            return
        choice = self._seen.choice if self._seen is not None else None
        recommended = choice is not None and choice.checkpoint is not None and choice.checkpoint.name == one.name
        done_by = "epochs" if self.wizard.is_done(one) else None
        self._begin(Start("auto") if recommended else Start("continue", one.path), done_by)

    def action_weights(self) -> None:
        one = self.chosen
        if one is not None:
            self._begin(Start("weights", one.path))

    def action_fresh(self) -> None:
        self._begin(Start("fresh"))

    def _begin(self, start: Start, done_by: str | None = None) -> None:
        self.wizard.done_by = done_by
        if start != self.wizard.start:
            self.wizard.start = start
            self.wizard.planned = None
        self.owner.go_to(4)

    # -- trash ---------------------------------------------------------------------------------------------------------

    def action_trash(self) -> None:
        one = self.chosen
        if one is not None:
            self.ask("put away", one.path, partial(put_away, one.path))

    def action_undo(self) -> None:
        if self._trashed:
            self.ask("taken back", self._trashed[-1], partial(take_back, self._trashed[-1]))

    def _moved(self, asked: Path, value: Any) -> None:
        if isinstance(value, LoraTuiError):
            self.close(told(value))
            return
        self.owner.clear_notifications()  # where it is now is no longer what the last one says
        if asked in self.wizard.trashed:
            self.wizard.trashed.remove(asked)
            self._cursor = value.name
            self.notify(_("{name} is back").format(name=visible(value.name)), markup=False)
        else:
            self.wizard.trashed.append(value)
            self._cursor = self.query_one("#table", CheckpointTable).beside(asked.name)
            name = visible(asked.name)
            self.notify(_("{name} is in the trash of its folder; z takes it back").format(name=name), markup=False)
        self.close("")
        self._look()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        actions = {
            "weights": self.action_weights,
            "fresh": self.action_fresh,
            "trash": self.action_trash,
            "undo": self.action_undo,
        }
        if event.button.id in actions:
            event.stop()
            actions[event.button.id]()


def facts(one: Checkpoint, choice: Choice | None) -> Text:
    """What a person wants to know of a checkpoint before continuing from it."""
    text = Text(visible(one.name), style="bold")
    parts = []
    if one.epoch is not None:
        total = epochs_words(one.planned_epochs)
        parts.append(_("epoch {epoch} of {total}").format(epoch=f"{one.epoch:.2f}", total=total))
    if one.step is not None:
        parts.append(_("step {step}").format(step=one.step))
    parts.append(_("last loss {loss}").format(loss=loss_words(one.loss)))
    if one.remaining_epochs is not None:
        parts.append(_("{left} epochs left").format(left=f"{one.remaining_epochs:.2f}"))
    text.append("\n" + " · ".join(parts), style="not bold")
    can = _("It can be continued.") if one.continuable else _("It cannot be continued here.")
    style = "not bold" if one.continuable else "not bold yellow"
    words = _("{grade}: {words}").format(grade=one.grade, words=sentences(grade_words(one.grade), can))
    text.append("\n" + words, style=style)
    if choice is not None and choice.checkpoint is not None and choice.checkpoint.name == one.name:
        text.append("\n" + visible(choice.reason), style="not bold green")
    for problem in one.problems:
        text.append("\n! " + visible(in_fields(sentences(problem.message, problem.fix))), style="not bold yellow")
    made = _("made by {tool} · saved {time} · {size}").format(
        tool=visible(one.made_by), time=saved_words(one), size=size_words(one.bytes)
    )
    text.append("\n" + made, style="not bold dim")
    for name, size in one.files[:FILES]:
        text.append(f"\n{size_words(size):>8}  {visible(name)}", style="not bold dim")
    if (more := len(one.files) - FILES) > 0:
        words = n_("and {count} more file", "and {count} more files", more).format(count=more)
        text.append(f"\n{'':8}  {words}", style="not bold dim")
    return text


def curve(one: Checkpoint) -> Picture:
    """The loss up to a checkpoint."""
    losses = tuple((row.step, row.loss) for row in one.history if row.loss is not None)
    evals = tuple((row.step, row.eval_loss) for row in one.history if row.eval_loss is not None)
    return Picture((Line(losses, "loss", "*"), Line(evals, "eval", "o", joined=False)), band=(TOO_LOW, REACHED))
