"""The wizard as plain questions, one line each: for screen readers, dumb terminals, and whoever wants no screen taken over.

The same answers, plan and words as the screens (tui/wizard.py), asked with `input` and told in lines that stay. Enter keeps what
stands in brackets, so that here too a run can be begun with Enter alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from engine.checkpoints.checkpoint import Checkpoint
from engine.config import RunConfig
from engine.data.formats import CONVERSATIONS
from engine.errors import ConfigError, LoraTuiError
from engine.i18n import _
from engine.models.templates import MODELS_OWN, template_source
from engine.paths import pasted, path_of
from engine.remembered import load_remembered
from engine.resume.plan import ResumePlan
from engine.sources import problem_of
from tui.dataset_text import preview_texts, problem_lines, rows_words, summary_lines
from tui.expected_text import expected_lines
from tui.fields import done_words, label
from tui.folder_text import choice_lines, held_words, seen_lines
from tui.headless import carry_out
from tui.lookups import expect_counted, report_of
from tui.plain import visible
from tui.plan_text import plan_lines
from tui.show import Show
from tui.standard import make_input_editable
from tui.streams import duplicate
from tui.wizard import FIRST_SETTINGS, TEMPLATE, Start, Wizard

LEFT = 130
"""Exit code where a person leaves in the middle (Ctrl-C, or the end of the input)."""


def run_prompts(flags: dict[str, Any], demo: bool) -> int:
    """Ask, then train; the exit code."""
    make_input_editable()
    return Questions(
        Wizard(demo=demo, answers=flags, remembered=load_remembered()), Show(duplicate(2), lines_only=True)
    ).run()


class Questions:
    """One conversation."""

    def __init__(self, wizard: Wizard, show: Show, read: Callable[[str], str] = input) -> None:
        """`read` asks a question and gives what a person types; EOFError and KeyboardInterrupt leave."""
        self.wizard, self.show, self._read = wizard, show, read

    def run(self) -> int:
        """Ask everything, then carry out what was agreed to."""
        try:
            self.dataset()
            self.model()
            self.output()
            self.start()
            self.settings()
            planned = self.review()
        except (EOFError, KeyboardInterrupt):
            self.show.line("")
            return LEFT
        if planned is None:
            return 0
        self.wizard.remember(planned)
        return carry_out(planned, self.show)

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, question: str, kept: str = "") -> str:
        """The answer to a question; `kept` where nothing was typed."""
        return self._read(visible(f"{question} [{kept}]: " if kept else f"{question}: ")).strip() or kept

    def agreed(self, question: str, kept: bool) -> bool:
        """A yes or no."""
        yes, no = _("y"), _("n")
        while True:
            word = self.ask(f"{question} ({yes}/{no})", yes if kept else no).lower()
            if word in (yes, "y", "yes"):
                return True
            if word in (no, "n", "no"):
                return False

    def told(self, error: LoraTuiError) -> None:
        """What is wrong, and what to do."""
        self.show.line(error.title, "bold red")
        for part in (error.detail, error.fix):
            for line in part.splitlines():
                self.show.line(f"  {line}")

    # -- the steps of the wizard ---------------------------------------------------------------------------------------

    def dataset(self) -> None:
        from engine.demo import demo_answers, ensure_demo

        remembered = self.wizard.remembered.answers.get("dataset")
        kept = str(self.wizard.answers.get("dataset") or ("demo" if self.wizard.demo else remembered or "demo"))
        while True:
            word = self.ask(_("Dataset: a file, folder, hub id, or demo"), kept)
            if word == "demo":
                self.wizard.demo = True
                ensure_demo(self.show.progress)
                self.wizard.answers.setdefault("model", demo_answers()["model"])
                word = str(demo_answers()["dataset"])
            word = pasted(word)
            self.wizard.read_as_before(word)
            self.wizard.choose("dataset", word)
            report = report_of(word, self.wizard.reading())
            if report.stopped is not None and report.columns is not None:
                self.told(report.stopped)
                self.columns(report.columns)
                report = report_of(word, self.wizard.reading())
            self.show.lines([*summary_lines(report, ""), *problem_lines(report)])
            if report.stopped is None:
                self.wizard.report = report
                for text in preview_texts(report, plain=True):
                    self.show.console.print(text)
                return
            self.told(report.stopped)
            kept = ""

    def columns(self, proposed: str) -> None:
        """Which columns the dataset has."""
        while True:
            word = self.ask(_("Columns"), proposed)
            problem = problem_of("columns", word)
            if problem is None:
                self.wizard.answer("columns", word)
                return
            self.show.line(problem, "bold red")

    def model(self) -> None:
        from engine.models.report import model_report, to_be_fetched

        kept = str(self.wizard.answers.get("model") or self.wizard.remembered.answers.get("model") or "")
        while True:
            word = pasted(self.ask(_("Model: a folder or hub id"), kept))
            if not word:
                continue
            report = model_report(word)
            if report.stopped is None or to_be_fetched(report):
                self.wizard.written_as_before(word)
                self.wizard.choose("model", word)
                if report.architecture is not None:
                    self.show.line(report.architecture)
                if report.folder is not None and not report.chat_template:
                    self.template()
                return
            self.told(report.stopped)
            kept = ""

    def template(self) -> None:
        """How turns are written for a model that has no template."""
        data, given = self.wizard.report, MODELS_OWN
        with contextlib.suppress(LoraTuiError):  # told where it is planned
            given = self.wizard.base().chat_template
        kept = "plain" if given == MODELS_OWN and data is not None and data.format in CONVERSATIONS else given
        self.show.line(_(str(RunConfig.model_fields[TEMPLATE].description)))
        while True:
            word = pasted(self.ask(label(TEMPLATE), kept))
            try:
                template_source(word)
            except ConfigError as error:
                self.told(error)
                continue
            if word != given:
                self.wizard.answer(TEMPLATE, word)
            return

    def output(self) -> None:
        kept = str(self.wizard.answers.get("output") or self.wizard.proposed_output())
        while True:
            word = pasted(self.ask(_("Folder of the run"), kept))
            self.wizard.answer("output", word)
            try:
                self.seen = self.wizard.look_at(path_of(word))
            except LoraTuiError as error:
                self.told(error)
                continue
            if self.seen.place.problem is None:
                self.show.lines(seen_lines(self.seen)[: 2 if self.seen.held else 1])
                return
            self.told(self.seen.place.problem)

    def start(self) -> None:
        found, choice = self.seen.found, self.seen.choice
        if found is None or choice is None or self.wizard.start.how != "auto":
            return
        self.show.lines(choice_lines(choice))
        names = {one.name: one for one in found.checkpoints}
        best = choice.checkpoint
        kept = "c" if best is not None else "f"
        while True:
            word = self.ask(_("c continue, f fresh, w NAME only its weights, or the NAME of another checkpoint"), kept)
            how, _space, name = word.partition(" ")
            if word == "c" and best is not None:
                self._say_if_done(best)
                return
            if word == "f":
                self.wizard.start = Start("fresh")
                return
            if how == "w" and name.strip() in names:
                self.wizard.start = Start("weights", names[name.strip()].path)
                return
            if word in names:
                self.wizard.start = Start("continue", names[word].path)
                self._say_if_done(names[word])
                return
            self.show.line(_("There are: {names}").format(names=", ".join(names)))

    def _say_if_done(self, one: Checkpoint) -> None:
        """Of a run of which nothing is left, while it can still be answered otherwise."""
        if self.wizard.is_done(one) and self.wizard.base().max_steps is None:
            self.wizard.done_by = "epochs"
            self.show.line(done_words("epochs"), "yellow")

    def settings(self) -> None:
        base = self.wizard.base()
        shown = {name: str(self.wizard.answers.get(name, getattr(base, name))) for name in FIRST_SETTINGS}
        self.show.line(", ".join(f"{label(name)} {value}" for name, value in shown.items()))
        if not self.agreed(_("Change settings?"), kept=self.wizard.done_by is not None):
            return
        for name, value in shown.items():
            while True:
                word = self.ask(label(name), value)
                problem = problem_of(name, word)
                if problem is None:
                    break
                self.show.line(problem, "bold red")
            if word != value:
                self.wizard.answer(name, word)

    def counted(self, done: int, total: int | None, seconds: float) -> None:
        """How far the rows have come on their way to tokens."""
        self.show.progress(rows_words(done, total, seconds), done / total if total else None)

    def review(self) -> ResumePlan | None:
        """The plan that a person agreed to; None where not."""
        planned = self.wizard.planned = self.wizard.make_plan()
        self.show.lines(plan_lines(planned.plan))
        if planned.held:
            self.show.line(held_words(planned.plan.output_dir), "yellow")
        if planned.plan.mode == "complete":
            return planned.plan
        with contextlib.suppress(LoraTuiError):  # the run itself will say it, with its exit code
            self.show.lines(expected_lines(expect_counted(planned.plan, self.counted)))
        self.show.line(_("the same without the wizard:"), "dim")
        self.show.line(self.wizard.command_line())
        return planned.plan if self.agreed(_("Start training?"), kept=True) else None
