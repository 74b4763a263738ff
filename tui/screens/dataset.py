"""Step 1: what to learn from. The engine's report appears at once; what stops a start closes the way on with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Button, Collapsible, Input, Select, Static

from engine.config import RunConfig
from engine.data.files import data_files
from engine.errors import LoraTuiError
from engine.i18n import _
from engine.paths import is_there, path_of
from engine.sizes import size_words
from tui.dataset_text import preview_texts, problem_lines, rows_words, summary_lines
from tui.fields import lines_text, named_in, told
from tui.i18n import N_
from tui.lookups import last_run, report_of, report_with_model
from tui.messages import Found, Progressed
from tui.plain import visible
from tui.screens.base import PathStep
from tui.widgets.path_input import PathInput
from tui.widgets.setting import Setting
from tui.wizard import READING

if TYPE_CHECKING:
    from engine.data.read import Reading
    from engine.data.report import DatasetReport


class DatasetScreen(PathStep):
    """Choose and see the dataset."""

    STEP = 0
    HEADING = N_("What should the model learn from?")
    HELP_TEXT: ClassVar[str] = N_(
        "A file (.jsonl, .json, .csv, .parquet), a folder written by save_to_disk, or a hub id such as "
        "HuggingFaceH4/no_robots.\n\nA row is a conversation (messages), a prompt with its completion, or plain text; Alpaca and "
        "ShareGPT are recognised too. The most common form is one JSON object a line:\n\n"
        '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}\n\n'
        "Only what the assistant says is learned, with the mark that ends its turn. A few hundred good rows teach more than "
        "thousands of careless ones."
    )

    def __init__(self) -> None:
        super().__init__()
        self._report: DatasetReport | None = None
        self._key: tuple[str, Reading] | None = None
        """What is asked for now: the dataset, and how it is read."""
        self._uncounted = ""
        """Why the tokens cannot be counted."""

    def compose_body(self) -> ComposeResult:
        yield Static("", id="last", markup=False)
        yield PathInput("file", _("file, folder or hub id"), self.HELP_TEXT, id="dataset")
        with Collapsible(title=_("How it is read"), id="reading"):
            yield Vertical(id="ways")
        yield Static("", id="summary", markup=False)
        yield Static("", id="problems", markup=False)
        yield Static("", id="preview", markup=False)

    def compose_buttons(self) -> ComposeResult:
        yield Button(_("Try the demo"), id="demo", compact=True)
        yield Button(_("Continue the last run"), id="continue", compact=True)

    def _answered(self, name: str) -> Any:
        return self.wizard.answers.get(name, RunConfig.model_fields[name].default)

    def fill(self) -> None:
        for name in ("#last", "#continue", "#reading"):
            self.query_one(name).display = False
        folder = self.wizard.last_folder()
        if folder is not None:
            self.ask("last", folder, partial(last_run, folder))
        field = self.query_one("#dataset", PathInput)
        remembered = self.wizard.remembered
        self._offer(())
        self.ask("here", None, partial(data_files, Path()))
        known = self.wizard.answers.get("dataset")
        if known is None and self.wizard.demo:
            self._build_demo()
            return
        if known is None and remembered.answers.get("dataset"):
            known = str(remembered.answers["dataset"])
        if known is None:
            field.focus_input()
            return
        field.value = known
        self._look(known)
        self.focus_main_or(field)

    def _offer(self, here: tuple[tuple[str, int], ...]) -> None:
        """What was used before, then what lies in the current folder."""
        offers = [(one, "") for one in self.wizard.remembered.datasets[:4]]
        if here:  # which says too that there is a current folder
            named = {path_of(one).absolute() for one, _note in offers}
            offers += [(name, size_words(size)) for name, size in here if Path(name).absolute() not in named]
        self.query_one("#dataset", PathInput).offer(offers)

    def take(self) -> str | None:
        value = self.query_one("#dataset", PathInput).value
        if self.query_one("#demo", Button).disabled:
            return _("The demo is still being built.")
        if not value:
            return _("Name a dataset, or try the demo.")
        self.wizard.choose("dataset", value)
        if self._report is None or self._asked != value:
            return _("Still reading it.")
        if self._report.stopped is not None and self._report.rows is None:
            return told(self._report.stopped)
        return None

    def action_next(self) -> None:
        known = self._asked
        if not self._take_reading():
            return
        if known is not None and self._asked is None:
            # What was found by other answers is not what one may go on with unseen.
            self._look_anew()
            return
        super().action_next()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "back" and super().check_action(action, parameters)  # this is the first step

    # -- looking -------------------------------------------------------------------------------------------------------

    def _knows(self, value: str) -> bool:
        return self._report is not None and self._asked == value

    def _look_if_there(self, value: str) -> None:
        if value and is_there(path_of(value)):
            self._look(value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """How it is read was said; the path's own field keeps its message to itself."""
        event.stop()
        if self._take_reading():
            self._look_anew()

    def on_select_changed(self, event: Select.Changed) -> None:
        """A list also says so when it is made; what stands in the other fields is not taken for that."""
        event.stop()
        setting = next(one for one in event.select.ancestors if isinstance(one, Setting))
        if setting.raw != Setting.text_of(self._answered(setting.setting)) and self._take_reading([setting]):
            self._look_anew()

    def _look_anew(self) -> None:
        value = self.query_one("#dataset", PathInput).value
        if value and self._asked is None:
            self._look(value)

    def _take_reading(self, fields: Iterable[Setting] | None = None) -> bool:
        """Keep what `fields`, else all, say of how it is read; False where one of them cannot be used. What was found out by other
        answers no longer counts."""
        for setting in fields if fields is not None else self.query(Setting):
            if setting.check() is not None:
                setting.focus_field()
                return False
            raw = setting.raw
            if raw != Setting.text_of(self._answered(setting.setting)):
                as_usual = raw == Setting.text_of(RunConfig.model_fields[setting.setting].default)
                self.wizard.answer(setting.setting, None if as_usual else raw)
                self._begin_anew(None)
        return True

    def _find_out(self, value: str) -> None:
        self.wizard.read_as_before(value)
        for setting in self.query(Setting):
            setting.raw = Setting.text_of(self._answered(setting.setting))
        self.query_one("#summary", Static).update(_("Reading {path}").format(path=visible(value)))
        model = self.wizard.answers.get("model")
        key = self._key = value, self.wizard.reading()
        self.ask("report", key, partial(report_of, *key))
        if model is not None:
            counted = partial(self._counted, key)
            self.ask("tokens", key, partial(report_with_model, value, model, self.wizard.so_far(), counted))

    def _begin_anew(self, asked: str | None) -> None:
        """What was found out is of another dataset than the one that is named now."""
        self._asked, self._report, self._going, self._uncounted = asked, None, False, ""
        self._key = None
        self.close("")
        for name in ("#problems", "#preview"):
            self.query_one(name, Static).update("")

    async def on_found(self, event: Found) -> None:
        event.stop()
        if event.what == "here":
            if event.value and not isinstance(event.value, LoraTuiError):
                self._offer(event.value)
        elif event.what == "last":
            self._show_last(event.value)
        elif event.what == "demo":
            self._demo_built(event.value)
        elif event.asked != self._key:
            return
        elif isinstance(event.value, LoraTuiError):
            await self._failed(event.what, event.value)
        elif event.what == "tokens" or self._report is None or self._report.tokens is None:
            # The report with tokens may come before or after the one without; it always counts.
            await self._show(event.value)

    async def _failed(self, what: str, error: LoraTuiError) -> None:
        if what == "tokens":  # the report without them stands
            self._uncounted = _("The tokens cannot be counted: {reason}").format(reason=visible(error.title))
            if self._report is not None:
                await self._show(self._report)
            return
        self._going = False
        self.query_one("#summary", Static).update("")
        self.close(told(error))
        self.back_to(self.query_one("#dataset", PathInput))

    async def _show(self, report: DatasetReport) -> None:
        self._report = report
        self.wizard.keep(report, self.wizard.answers.get("model"))
        counting = (
            _("Counting tokens")
            if self.wizard.answers.get("model")
            else _("Lengths in tokens are known once there is a model.")
        )
        hint = self._uncounted or counting
        self.query_one("#summary", Static).update(lines_text(summary_lines(report, hint)))
        problems = [*problem_lines(report, stops_too=report.rows is not None)]
        if report.refused_by_model:
            problems.append((_("Another model can be named in the next step."), ""))
        self.query_one("#problems", Static).update(lines_text(problems))
        plain = self.owner.no_color or self.owner.ascii_only
        self.query_one("#preview", Static).update(Text("\n").join(preview_texts(report, plain)))
        self.close(self._why_closed(report))
        going, self._going = self._going, False
        await self._offer_reading(report)
        if self._why_closed(report):
            self.back_to(self.query_one("#dataset", PathInput))
        elif going:
            self.action_next()

    def _guess(self, report: DatasetReport) -> str | None:
        """What is proposed for the columns, where nobody has said what they are."""
        return report.columns if "columns" not in self.wizard.answers else None

    def _why_closed(self, report: DatasetReport) -> str:
        if report.stopped is None or report.rows is not None:  # what else may stand in the way is asked for in a later step
            return ""
        if self._guess(report) is None:
            return told(report.stopped)
        # With a way on in the field, the formats that the rows could be brought to instead would only hide it.
        guess = _("What stands at columns is a guess: Enter takes it.")
        return told(LoraTuiError(report.stopped.title, report.stopped.detail, guess))

    async def _offer_reading(self, report: DatasetReport) -> None:
        """The fields for how it is read: open where one of them may be what is missing, or was answered."""
        reading = self.query_one("#reading", Collapsible)
        reading.display = report.rows is not None or report.stopped is not None
        told_of = named_in(report.stopped.fix if report.stopped is not None else None)
        needed = report.columns is not None or not told_of.isdisjoint(READING)
        reading.collapsed = not needed and not any(name in self.wizard.answers for name in READING)
        guess = self._guess(report)
        if not self.query(Setting):  # made now, for the first frame does not wait for what nobody sees
            await self.query_one("#ways", Vertical).mount_all(Setting(name, self._answered(name)) for name in READING)
        if guess is not None:
            setting = next(one for one in self.query(Setting) if one.setting == "columns")
            setting.raw = guess
            self.call_after_refresh(setting.focus_field)  # until it is drawn it takes no focus

    def _show_last(self, value: Any) -> None:
        """A run that has not come to its end is offered at once."""
        if value is None or isinstance(value, LoraTuiError):
            return
        words, goes_on = value
        last = self.query_one("#last", Static)
        last.update(Text(words, style="yellow"))
        last.display = True
        self.query_one("#continue").display = goes_on

    # -- the demo ------------------------------------------------------------------------------------------------------

    def on_button_pressed(self, event: Button.Pressed) -> None:
        actions = {"continue": self._continue_last, "demo": self._try_demo}
        if event.button.id in actions:
            event.stop()
            actions[event.button.id]()

    def commands(self) -> Iterable[tuple[str, Callable[[], Any]]]:
        if not self.query_one("#demo", Button).disabled:
            yield _("Try the demo"), self._try_demo
        if self.query_one("#continue").display:
            yield _("Continue the last run"), self._continue_last

    def _continue_last(self) -> None:
        self.wizard.take_up_last()
        self.owner.go_to(3)

    def _try_demo(self) -> None:
        self.wizard.demo = True
        for name in ("dataset", "model", "output"):
            self.wizard.answer(name, None)
        self._build_demo()

    def _build_demo(self) -> None:
        self.query_one("#demo", Button).disabled = True
        self.query_one("#summary", Static).update(_("Looking for the demo's model and dataset"))
        self.ask("demo", None, self._ensure_demo)
        self.focus_main()

    def _ensure_demo(self) -> Any:
        from engine.demo import ensure_demo

        return ensure_demo(self._post)

    def _counted(self, key: tuple[str, Reading], done: int, total: int | None, seconds: float) -> None:
        if key == self._key:  # the rows of another dataset, or read otherwise, may still be counted
            self.post_message(Progressed(rows_words(done, total, seconds), done / total if total else None))

    def _post(self, words: str, share: float) -> None:
        self.post_message(Progressed(words, share))

    def on_progressed(self, event: Progressed) -> None:
        event.stop()
        if self._asked is not None or self.query_one("#demo", Button).disabled:
            far = "" if event.share is None else f" · {event.share:.0%}"
            self.query_one("#summary", Static).update(event.words + far)

    def _demo_built(self, value: Any) -> None:
        self.query_one("#demo", Button).disabled = False
        self.close("")
        if isinstance(value, LoraTuiError):
            self.close(told(value))
            return
        from engine.demo import demo_answers

        answers = demo_answers()
        self.wizard.answer("model", self.wizard.answers.get("model") or answers["model"])
        self.query_one("#dataset", PathInput).value = str(answers["dataset"])
        self._look(str(answers["dataset"]))
        self.focus_main()
