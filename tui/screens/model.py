"""Step 2: which model to fine-tune, and whether it fits this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Input, Static

from engine.clock import moment
from engine.demo import demo_answers
from engine.errors import LoraTuiError
from engine.i18n import _
from engine.models.local import WELL_KNOWN, LocalModel, cached_models
from engine.models.report import ModelReport, to_be_fetched
from engine.models.templates import MODELS_OWN
from engine.paths import is_file, path_of
from engine.sizes import size_words
from engine.training.expect import Fit
from tui.dataset_text import preview_texts, problem_lines, rows_words, summary_lines
from tui.fields import lines_text, named_in, told
from tui.i18n import N_
from tui.lookups import fit_of, model_with_template, report_with_model
from tui.messages import Found, Progressed
from tui.model_text import fit_lines, model_lines
from tui.plain import visible
from tui.screens.base import PathStep
from tui.widgets.path_input import PathInput
from tui.widgets.setting import Setting
from tui.wizard import TEMPLATE


class ModelScreen(PathStep):
    """Choose and see the model."""

    STEP = 1
    HEADING = N_("Which model should learn it?")
    HELP_TEXT: ClassVar[str] = N_(
        "A folder with config.json and *.safetensors, or a hub id such as Qwen/Qwen3-0.6B. Models in the local Hugging Face cache "
        "are offered with their sizes.\n\nTake an instruct or chat version when your rows are conversations: it brings a chat "
        "template. A model of 0.5 to 1.5 billion parameters learns on a laptop; 7 billion want a GPU of 16 GB or more, or "
        "4-bit weights.\n\nGGUF files cannot be trained: take the original model, and turn the result into GGUF afterwards. Code "
        "that comes with a model is never run."
    )

    def __init__(self) -> None:
        super().__init__()
        self._report: ModelReport | None = None
        self._refused: LoraTuiError | None = None
        """Why the dataset's rows cannot be trained on with it; a setting that stands in the way is asked for only later."""
        self._new = False
        """Whether nothing was named so far that a person would have to have."""

    def compose_body(self) -> ComposeResult:
        yield PathInput("folder", _("folder or hub id"), self.HELP_TEXT, id="model")
        yield Static("", id="summary", markup=False)
        yield Setting(TEMPLATE, self.wizard.answers.get(TEMPLATE, MODELS_OWN))
        yield Static("", id="fit", markup=False)
        yield Static("", id="seen", markup=False)

    def fill(self) -> None:
        self._offer_template(None)
        field = self.query_one("#model", PathInput)
        self._offer((), looked=False)
        self.ask("cache", None, cached_models)
        remembered = self.wizard.remembered
        known = self.wizard.answers.get("model") or remembered.answers.get("model")
        self._new = known in (None, demo_answers()["model"])
        if known is None:
            field.focus_input()
            return
        field.value = str(known)
        self._look(str(known))
        self.focus_main_or(field)

    def _offer(self, cached: tuple[LocalModel, ...], looked: bool = True) -> None:
        """What was used before and what lies in the cache; once it was `looked` into, and neither is there, what could be fetched."""
        demo = str(demo_answers()["model"])
        offers = [(one, "") for one in self.wizard.remembered.models[:4]]
        offers += [(one.name, _kept_words(one)) for one in cached if one.name not in dict(offers)]
        if looked and self._new and not {*dict(offers)} - {demo}:
            to_fetch = _("about {size} to fetch from the hub")
            offers += [(name, to_fetch.format(size=size_words(size))) for name, size in WELL_KNOWN]
        if Path(demo).is_dir() and demo not in dict(offers):
            offers.append((demo, _("the demo's model")))
        self.query_one("#model", PathInput).offer(offers[:12])

    def take(self) -> str | None:
        value = self.query_one("#model", PathInput).value
        if not value:
            return _("Name a model.")
        self.wizard.choose("model", value)
        if self._report is None or self._asked != value:
            return _("Still reading it.")
        if self._report.stopped is not None and not to_be_fetched(self._report):
            return told(self._report.stopped)
        return told(self._refused) if self._refused is not None else None

    # -- how turns are written -----------------------------------------------------------------------------------------

    def _offer_template(self, report: ModelReport | None) -> None:
        """The field for the template: where the model has none, or one was named."""
        setting = self.query_one(Setting)
        lacking = report is not None and report.folder is not None and not report.chat_template
        setting.display = lacking or TEMPLATE in self.wizard.answers
        setting.raw = self._template()

    def action_next(self) -> None:
        if self._take_template():
            super().action_next()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A template was named; the path's own field keeps its message to itself."""
        event.stop()
        value = self.query_one("#model", PathInput).value
        if self._take_template() and value:
            self._look(value)

    def _take_template(self) -> bool:
        """Keep what the field says; False where it cannot be used. What was found out with another template no longer counts."""
        setting = self.query_one(Setting)
        if setting.check() is not None:
            setting.focus_field()
            return False
        if setting.raw != self._template():
            self.wizard.answer(TEMPLATE, None if setting.raw == MODELS_OWN else setting.raw)
            self.wizard.counted_for = None  # what was counted are tokens of other texts
            self._begin_anew(None)
        return True

    def _template(self) -> str:
        return str(self.wizard.answers.get(TEMPLATE, MODELS_OWN))

    def _written(self) -> tuple[str | None, str]:
        """The model that is looked at, and how turns are written for it."""
        return self._asked, self._template()

    def _knows(self, value: str) -> bool:
        return self._report is not None and self._asked == value

    def _look_if_there(self, value: str) -> None:
        if value and is_file(path_of(value) / "config.json"):
            self._look(value)

    def _find_out(self, value: str) -> None:
        self.wizard.written_as_before(value)
        self.query_one("#summary", Static).update(_("Reading {path}").format(path=visible(value)))
        self.ask("report", self._written(), partial(model_with_template, value, self._template()))

    def _begin_anew(self, asked: str | None) -> None:
        """What was found out is of another model than the one that is named now."""
        self._asked, self._report, self._going, self._refused = asked, None, False, None
        self.close("")
        for name in ("#summary", "#fit", "#seen"):
            self.query_one(name, Static).update("")

    def on_found(self, event: Found) -> None:
        event.stop()
        if event.what == "cache":
            self._offer(event.value if not isinstance(event.value, LoraTuiError) else ())
        elif event.asked not in (self._asked, self._written()):
            return
        elif isinstance(event.value, LoraTuiError) and event.what == "report":
            self._refuse(event.value)
        elif event.what == "report":
            self._show(event.value)
        elif event.what == "fit":
            fit = event.value  # what stands in its way is told by the rows, or by the review
            self.query_one("#fit", Static).update(lines_text(fit_lines(fit)) if isinstance(fit, Fit) else "")
        elif event.what == "tokens":
            self._show_tokens(event.value)

    def _refuse(self, error: LoraTuiError) -> None:
        self._going = False
        self.query_one("#summary", Static).update("")
        self.close(told(error))
        if TEMPLATE in named_in(error.title):
            self._offer_template(None)
            self.query_one(Setting).focus_field()

    def _show(self, report: ModelReport) -> None:
        self._report = report
        self._offer_template(report)
        self.query_one("#summary", Static).update(lines_text(model_lines(report, self._template())))
        self.close(told(report.stopped) if report.stopped is not None and not to_be_fetched(report) else "")
        if report.folder is not None and report.stopped is None:
            so_far = self.wizard.so_far()
            self.query_one("#fit", Static).update(_("Looking at this machine"))
            self.ask("fit", report.model, partial(fit_of, report, self.wizard.report_by(report.model), so_far))
            dataset = self.wizard.answers.get("dataset")
            if dataset:
                self.query_one("#seen", Static).update(_("Counting tokens"))
                counted = partial(self._counted, report.model)
                self.ask("tokens", self._written(), partial(report_with_model, dataset, report.model, so_far, counted))
        going, self._going = self._going, False
        if report.stopped is not None and not to_be_fetched(report):
            self.back_to(self.query_one("#model", PathInput))
        elif going:
            self.action_next()

    def _counted(self, model: str, done: int, total: int | None, seconds: float) -> None:
        if model == self._asked:  # the tokens of another one may still be counted
            self.post_message(Progressed(rows_words(done, total, seconds), done / total if total else None))

    def on_progressed(self, event: Progressed) -> None:
        event.stop()
        if self._report is not None:
            far = "" if event.share is None else f" · {event.share:.0%}"
            self.query_one("#seen", Static).update(event.words + far)

    def _show_tokens(self, value: Any) -> None:
        seen = self.query_one("#seen", Static)
        if isinstance(value, LoraTuiError):
            seen.update(Text(told(value), style="bold red"))
        else:
            self.wizard.keep(value, self._asked)
            if value.refused_by_model:
                self._refused = value.stopped
                self.close(told(value.stopped))
                if TEMPLATE in named_in(value.stopped.fix):  # the way on is in that field
                    self.query_one(Setting).focus_field()
                else:
                    self.back_to(self.query_one("#model", PathInput))
            if self._report is not None:  # now the length of the rows is known
                self.ask("fit", self._report.model, partial(fit_of, self._report, value, self.wizard.so_far()))
            plain = self.owner.no_color or self.owner.ascii_only
            lines = [*summary_lines(value, ""), *problem_lines(value, stops_too=True)]
            seen.update(Text("\n").join([lines_text(lines), *preview_texts(value, plain)]))


def _kept_words(one: LocalModel) -> str:
    """How large a model in the cache is, and when it was used last."""
    used = moment(one.used_at)
    size = size_words(one.bytes)
    return _("{size} · last used {date}").format(size=size, date=f"{used:%Y-%m-%d}") if used is not None else size
