"""The answers of the wizard: the one thing that outlives a screen.

They are kept as a person gave them, under the names of RunConfig, and are flags of a run like any others: the plan is made by the
same `gather` and `plan_run` as headless, so the wizard cannot mean anything else than the command line it shows.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.config import RunConfig, field_meta
from engine.errors import LoraTuiError
from engine.paths import is_folder, path_of
from engine.remembered import Remembered, after_run, save_remembered, usable

if TYPE_CHECKING:
    from engine.checkpoints.checkpoint import Checkpoint
    from engine.data.read import Reading
    from engine.data.report import DatasetReport
    from engine.resume.plan import ResumePlan
    from engine.resume.seen import Seen
    from engine.sources import Source

SETTINGS = tuple(name for name in RunConfig.model_fields if field_meta(name)["group"] not in ("What", "Continue"))
"""Fields of the settings step."""
READING = ("format", "columns", "encoding", "skip_rows")
"""How the dataset is read, where that should not be found out (engine.data.read.Reading)."""
TEMPLATE = "chat_template"
"""How turns are written, which is an answer about the model."""
FIRST_SETTINGS = ("epochs", "learning_rate", "batch_size", "lora_r", "max_length", "save_steps")
"""Those that matter; the rest stands behind "more"."""


@dataclass(frozen=True)
class Start:
    """How the run begins."""

    how: Literal["auto", "fresh", "continue", "weights"] = "auto"
    """auto: from the furthest checkpoint where there is one, else fresh."""
    path: Path | None = None
    """The checkpoint of continue and weights."""


@dataclass(frozen=True)
class Planned:
    """What a run with these answers would do."""

    plan: ResumePlan
    config: RunConfig
    held: bool
    """Whether another run is at work in the plan's folder."""


@dataclass
class Wizard:
    """What has been answered so far."""

    demo: bool = False
    answers: dict[str, Any] = field(default_factory=dict)
    """Field -> raw value, only what a person chose."""
    start: Start = Start()
    done_by: str | None = None
    """The setting (epochs, max_steps, stop_at_loss) by which nothing is left of the run that is to go on; None where something is,
    as far as is known. Who goes on with it is asked for that one first."""
    remembered: Remembered = field(default_factory=Remembered)
    planned: Planned | None = None
    report: DatasetReport | None = None
    """What was found out about the dataset."""
    counted_for: str | None = None
    """The model whose tokens it counts."""
    halved: str | None = None
    """The learning rate that was halved after a jump."""
    trashed: list[Path] = field(default_factory=list)
    """Places in the trash of checkpoints that were put there, the latest last."""
    read_for: str | None = None
    """The dataset that the answers about how it is read are about; None where they were given before any was named."""
    written_for: str | None = None
    """The model that the answer about the chat template is about; None where it was given before any was named."""

    def __post_init__(self) -> None:
        """Of `answers` as flags gave them --resume and --init-from are the answer of the start step."""
        self.read_for, self.written_for = self.answers.get("dataset"), self.answers.get("model")
        resume, weights = self.answers.pop("resume", None), self.answers.pop("init_from", None)
        if weights is not None:
            self.start = Start("weights", Path(weights))
        elif resume == "never":
            self.start = Start("fresh")
        elif resume not in (None, "auto"):
            self.start = Start("continue", Path(resume))

    def answer(self, name: str, value: Any) -> None:
        """Keep an answer; None takes it back."""
        if value is None:
            self.answers.pop(name, None)
        else:
            self.answers[name] = value
        self.planned = None

    def choose(self, name: Literal["dataset", "model"], value: str) -> None:
        """Keep what to learn from or what to fine-tune. A folder that was only proposed for the former pair goes with it; one that a
        person named stays."""
        if value == self.answers.get(name):
            return
        proposed = {"dataset", "model"} <= self.answers.keys() and (self.proposed_output(), self._named_after_them())
        if proposed and self.answers.get("output") in proposed:
            self.answer("output", None)
        self.answer(name, value)
        if name == "dataset":
            self.read_for = value
        else:
            self.written_for = value

    def read_as_before(self, dataset: str) -> None:
        """Ways to read a dataset are answers about that one: another begins without, the one of last time with those of last time."""
        if dataset == self.read_for:
            return
        if self.read_for is not None:
            for name in READING:
                self.answer(name, None)
        if any(name in self.answers for name in READING):  # given beside no dataset, and so about the one that is taken
            return
        self.read_for = dataset
        last = self.remembered.answers
        if dataset == last.get("dataset"):
            read = usable({name: last[name] for name in READING if name in last})
            for name in READING:
                self.answer(name, read.get(name))

    def written_as_before(self, model: str) -> None:
        """The chat template is an answer about that model: another begins with its own, the one of last time as last time."""
        if model == self.written_for:
            return
        if self.written_for is not None:
            self.answer(TEMPLATE, None)
        self.written_for = model
        last = self.remembered.answers
        if TEMPLATE not in self.answers and model == last.get("model"):
            self.answer(TEMPLATE, usable({TEMPLATE: last.get(TEMPLATE)}).get(TEMPLATE))

    def is_demo(self) -> bool:
        """Whether the demo's own settings apply: they suit its tiny model and no other."""
        from engine.demo import demo_answers

        return self.demo and self.answers.get("model") in (None, demo_answers()["model"])

    def flags(self) -> dict[str, Any]:
        """The answers as flags of a run."""
        flags = dict(self.answers)
        match self.start.how:
            case "fresh":
                flags["resume"] = "never"
            case "continue":
                flags["resume"] = str(self.start.path)
            case "weights":
                flags["init_from"] = str(self.start.path)
        return flags

    def weak(self) -> dict[str, Any]:
        """What applies where nothing was answered: the demo's settings, or those of last time."""
        from engine.demo import demo_answers

        if self.is_demo():
            return dict(demo_answers())
        return usable({name: value for name, value in self.remembered.answers.items() if name in SETTINGS})

    def so_far(self) -> list[Source]:
        """The answers there are, and what applies where there is none: to be resolved where it may take its time and may fail."""
        from engine.sources import Source

        return [Source("flag", "", dict(self.answers)), Source("demo", "", self.weak())]

    def keep(self, report: DatasetReport, model: str | None) -> None:
        """Keep what was found out about the dataset. `model`: whose tokens it counts."""
        self.report, self.counted_for = report, model if report.tokens is not None else None

    def report_by(self, model: str) -> DatasetReport | None:
        """What is known of the dataset; the lengths of its rows only as `model` counts them."""
        if self.report is None or self.counted_for == model:
            return self.report
        return replace(self.report, tokens=None)

    def reading(self) -> Reading:
        """How the dataset is to be read. Raises ConfigError for answers that are wrong."""
        from engine.data.read import Reading
        from engine.sources import Source, resolve

        names = Reading.__dataclass_fields__
        asked = {name: value for name, value in self.answers.items() if name in names}
        return Reading.of(resolve([Source("flag", "", asked)]).config)

    def base(self) -> RunConfig:
        """The settings as they would be without the ones answered here. Looks at folders. Raises LoraTuiError."""
        from engine.answers import gather

        flags = {name: value for name, value in self.flags().items() if name not in SETTINGS}
        return gather(flags, demo=self.weak(), environ={}).resolved.config

    def look_at(self, folder: Path) -> Seen:
        """What lies in the run's folder, and what a run with these answers would go on from. Raises LoraTuiError."""
        from engine.resume.seen import see

        try:
            config = self.base()
        except LoraTuiError:  # told where it is planned
            config = None
        return see(folder, config if config is not None and config.dataset and config.model else None)

    def make_plan(self) -> Planned:
        """What a run with these answers would do. Looks at folders, so it belongs in a thread. Raises LoraTuiError."""
        from engine.answers import gather
        from engine.lock import is_held
        from engine.resume.plan import plan_run

        answers = gather(self.flags(), demo=self.weak(), environ={})
        plan = plan_run(answers.resolved, answers.found)
        return Planned(plan, plan.config, is_held(plan.output_dir))

    def remember(self, plan: ResumePlan) -> None:
        """Keep the answers for the next start, once a run of `plan` begins: with the folder it really goes to."""
        self.remembered = after_run(self.remembered, {**self.answers, "output": str(plan.output_dir)})
        save_remembered(self.remembered)

    def back_from_jump(self, plan: ResumePlan) -> None:
        """The loss of `plan`'s run left its path: what goes on from before that does so with half the learning rate, as
        --on-jump rollback would."""
        from engine.sources import as_written

        self.halved = as_written(plan.config.learning_rate / 2)
        self.answer("learning_rate", self.halved)

    def is_done(self, one: Checkpoint) -> bool:
        """Whether nothing is left of the run that the checkpoint `one` is of, as far as it says, and nothing longer was answered."""
        from engine.sources import as_written

        planned = {"epochs": one.planned_epochs, "max_steps": one.max_steps}
        longer = any(self.answers.get(name) not in (None, as_written(value)) for name, value in planned.items())
        return one.remaining_epochs == 0 and not longer

    def last_folder(self) -> Path | None:
        """The folder of the run that was begun last, while nothing was answered that could mean another."""
        named = self.remembered.answers.get("output")
        if named is None or self.demo or not {"dataset", "model", "output"}.isdisjoint(self.answers):
            return None
        folder = path_of(str(named))
        return folder if is_folder(folder) and {"dataset", "model"} <= self.remembered.answers.keys() else None

    def take_up_last(self) -> None:
        """Answer as last time, to go on with that run; its settings stand in its folder."""
        last = usable(self.remembered.answers)
        for name in ("dataset", "model", "output", *READING, TEMPLATE):
            self.answer(name, last.get(name))
        self.read_for, self.written_for = self.answers.get("dataset"), self.answers.get("model")
        self.start = Start()

    def proposed_output(self) -> str:
        """The folder that is offered for the run: that of the last one where it learned the same from the same, to continue it."""
        last = self.remembered.answers
        same = all(self.answers.get(name) == last.get(name) for name in ("dataset", "model"))
        if same and last.get("output") and is_folder(path_of(str(last["output"]))):
            return str(last["output"])
        return self._named_after_them()

    def _named_after_them(self) -> str:
        """The folder that has its name from the dataset and the model."""
        from engine.demo import demo_answers
        from engine.folder import proposed_output

        if self.is_demo():
            return str(demo_answers()["output"])
        return str(proposed_output(str(self.answers["dataset"]), str(self.answers["model"])))

    def command_line(self) -> str:
        """The headless command that does the same."""
        from engine.demo import demo_answers
        from engine.sources import as_flags

        words = ["lora-tui", "--yes"]
        flags = self.flags()
        if self.is_demo() and not self._in_another_runs_folder():
            words.append("--demo")
            flags = {name: value for name, value in flags.items() if demo_answers().get(name) != value}
        return shlex.join([*words, *as_flags(flags | self._of_last_time(flags))])

    def _in_another_runs_folder(self) -> bool:
        """Whether the run that the folder belongs to learned other rows, or from another model, than the demo: its word would win over
        --demo."""
        from engine.demo import demo_answers
        from engine.folder import source_of_run

        try:
            own = source_of_run(path_of(str(self.answers.get("output") or self.proposed_output())))
        except LoraTuiError:
            return True
        demo = demo_answers()
        return own is not None and any(own.values.get(name) not in (None, demo[name]) for name in ("dataset", "model"))

    def _of_last_time(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that came from memory: the command line must name them, since it remembers nothing."""
        if self.is_demo() or self.planned is None:
            return {}
        config = self.planned.config
        return {
            name: getattr(config, name)
            for name in self.weak()
            if name not in flags and getattr(config, name) != RunConfig.model_fields[name].default
        }
