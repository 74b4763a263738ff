"""What a model is and whether it fits, as text for people: (text, style) lines, the same for `lora-tui data` and for the wizard."""

from __future__ import annotations

from engine.config import RunConfig
from engine.i18n import _
from engine.models.report import ModelReport, to_be_fetched
from engine.models.templates import MODELS_OWN
from engine.sizes import size_words
from engine.training.estimate import TIGHT
from engine.training.expect import Fit
from tui.plain import visible


def model_lines(report: ModelReport, chat_template: str = MODELS_OWN) -> list[tuple[str, str]]:
    """What its files say of it. `chat_template`: how turns are to be written for it."""
    if report.stopped is not None and to_be_fetched(report):
        error = report.stopped  # of no start: the run fetches it
        return [(error.title, "bold"), (error.detail, ""), (error.fix, "dim")]
    if report.folder is None:
        return []
    size = _("{count} parameters").format(count=count_words(report.parameters)) if report.parameters else ""
    kind = " · ".join(
        part for part in (report.architecture or "", size, report.dtype or "", size_words(report.bytes)) if part
    )
    lines = [(kind, "bold")]
    if report.context:
        lines.append((_("context {count} tokens").format(count=report.context), ""))
    if chat_template != MODELS_OWN:
        lines.append((_("turns are written by --chat-template {name}").format(name=chat_template), ""))
    elif report.chat_template:
        lines.append((_("has a chat template"), ""))
    else:
        lines.append(
            (_("has no chat template: take its instruct version for conversations, or --chat-template plain"), "yellow")
        )
    if report.linear:
        trainable = report.trainable(int(RunConfig.model_fields["lora_r"].default))
        share = trainable / report.parameters if report.parameters else 0.0
        lines.append(
            (_("LoRA would train {count} parameters, {share:.2%}").format(count=count_words(trainable), share=share), "")
        )
    return lines


def fit_lines(found: Fit) -> list[tuple[str, str]]:
    """Its memory, in parts, beside what is free here, and what it would be otherwise."""
    fitted = found.fitted
    memory = fitted.memory
    if memory is None:
        return [(_("Its memory cannot be estimated from what its files say."), "dim")]
    need = memory.total
    words = _("about {need} of memory for {rows} rows of {length} tokens; {free} of {total} are free ({device})").format(
        need=size_words(need), rows=fitted.batch_size, length=found.length, free=size_words(found.free),
        total=size_words(found.total), device=found.device,
    )  # fmt: skip
    parts = _(
        "weights {weights}, adapter and optimizer {adapter}, activations {activations}, logits {logits}, libraries {libraries}"
    ).format(
        weights=size_words(memory.weights), adapter=size_words(memory.adapter),
        activations=size_words(memory.activations), logits=size_words(memory.logits), libraries=size_words(memory.overhead),
    )  # fmt: skip
    if need > found.free:
        verdict = _("does not fit: a shorter --max-length, a smaller --batch-size or a smaller model")
        style = "bold red"
    elif need > TIGHT * found.free:
        verdict, style = _("fits, but only just"), "yellow"
    else:
        verdict, style = _("fits"), "green"
    lines = [(f"{verdict} · {words}", style), (parts, "dim")]
    if fitted.fewer_times > 1:
        lines.append(
            (_("batch of {rows} rows · {reason}").format(rows=fitted.batch_size, reason=fitted.batch_reason), "dim")
        )
    if fitted.checkpointing:
        reason = fitted.checkpointing_reason
        lines.append((_("activation checkpointing · {reason}").format(reason=reason), "dim"))
        way = _("without activation checkpointing {need}")
    else:
        way = _("with activation checkpointing {need}")
    others = [(way, found.otherwise), (_("with weights in 4 bit {need}"), found.in_4bit)]
    told = [(way, size_words(other.total)) for way, other in others if other is not None]
    ways = [way.format(need=size) for way, size in told if size != size_words(need)]  # of a small model it is all the same
    return [*lines, (" · ".join(ways), "dim")] if ways else lines


def count_words(count: int | None) -> str:
    """A number of parameters as people say it: 729,984 -> 730 K."""
    if count is None:
        return "-"
    value, units = float(count), ["", " K", " M", " B"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return visible(f"{value:.3g}{units[0]}")
