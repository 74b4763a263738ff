"""What was really restored, item by item (C5): what was saved, what is there now, and a verdict.

A run that says "continuing" proves nothing. After loading and before the first optimizer step each item is held against the
manifest: tensors in memory against the file, Adam's step against the run's, the next batch against the saved cursor, and
the probe loss against the one computed when saving. `ok` is the same; `changed` differs in a way that continuing allows, and
says which side wins; `failed` refuses to train; `unknown` could not be compared (checkpoints of other tools have no manifest).

Two halves: `check_material` needs no model and is done first, training/proving.py looks at what was loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.checkpoints.manifest import Identities, Manifest
from engine.config import ACCEPTABLE
from engine.data.identity import Digests, compare
from engine.errors import CannotContinue
from engine.events import ResumeChecked
from engine.i18n import _
from engine.paths import as_argument
from engine.resume.differences import change_words, rows_words

Verdict = Literal["ok", "changed", "failed", "unknown"]


@dataclass(frozen=True)
class Item:
    """One line of the receipt."""

    item: str
    expected: str
    found: str
    verdict: Verdict
    detail: str = ""
    final: bool = False
    """Whether a failed one stays failed although its kind may be accepted: going on is not possible."""
    way: str = ""
    """Of a failed one, a way on that none other has."""
    train_on: str = ""
    """Of a failed one: it would not fail with this --train-on, and nobody asked for another."""


@dataclass(frozen=True)
class Receipt:
    """All items of one continued run."""

    checkpoint: Path
    items: tuple[Item, ...]

    @property
    def failed(self) -> tuple[Item, ...]:
        """The items that refuse to train."""
        return tuple(item for item in self.items if item.verdict == "failed")

    def event(self) -> ResumeChecked:
        """The receipt as the one event that tells of it."""
        told = ("item", "expected", "found", "verdict", "detail")
        return ResumeChecked(self.checkpoint.name, tuple({key: getattr(item, key) for key in told} for item in self.items))

    def refuse(self) -> None:
        """Raise CannotContinue (exit 3) where an item failed."""
        if not self.failed:
            return
        acceptable = [item.item for item in self.failed if _acceptable(item)]
        final = len(acceptable) < len(self.failed)
        ways = [
            *(item.way for item in self.failed if item.way),
            _("a new run from these weights: --init-from {path}").format(path=as_argument(self.checkpoint)),
            _("start fresh: --resume never"),
        ]
        if acceptable and not final:
            ways.insert(0, _("go on nevertheless: --accept {items}").format(items=",".join(acceptable)))
        raise CannotContinue(
            _("{checkpoint}: what was restored is not what was saved").format(checkpoint=self.checkpoint),
            "\n".join(
                _("{item}: saved {expected}, now {found}. {detail}").format(**asdict(item)).strip() for item in self.failed
            ),
            _("Ways on: {ways}.").format(ways="; ".join(ways)),
        )


def accepted(items: Sequence[Item], accept: Sequence[str]) -> tuple[Item, ...]:
    """`items`, with failed ones that the person accepts turned into changed ones."""
    return tuple(
        replace(item, verdict="changed", detail=(item.detail + " " + _("Accepted with --accept.")).strip())
        if item.verdict == "failed" and item.item in accept and _acceptable(item)
        else item
        for item in items
    )


def _acceptable(item: Item) -> bool:
    return item.item in ACCEPTABLE and not item.final


def same(item: str, expected: str, found: str, detail: str = "", otherwise: Verdict = "failed") -> Item:
    """ok where both sides are equal, `otherwise` with `detail` where not. A digest, or each of two in
    one, is shown by its first 12 digits."""
    verdict: Verdict = "ok" if expected == found else otherwise
    return Item(item, _short(expected), _short(found), verdict, "" if verdict == "ok" else detail)


def unknown(item: str, found: str, detail: str = "") -> Item:
    """An item that nothing was saved for."""
    return Item(item, "", _short(found), "unknown", detail or _("The tool that saved this kept nothing to compare with."))


def check_material(manifest: Manifest | None, now: Identities, rows: Digests, named_base: str | None) -> list[Item]:
    """base_model, tokenizer, chat_template and dataset: known before the model is loaded. `rows`: those that are trained on."""
    if manifest is None:
        return [
            unknown("base_model", now.base_model, _("It was saved for {name}.").format(name=named_base or "?")),
            unknown("tokenizer", now.tokenizer),
            unknown("chat_template", now.chat_template),
            unknown(
                "dataset",
                rows_words(now.dataset.rows),
                _("Nothing says which rows it learned, nor which of their tokens; what --train-on says is assumed."),
            ),
        ]
    saved = manifest.identities
    return [
        same(
            "base_model",
            saved.base_config + saved.base_weights,
            now.base_config + now.base_weights,
            _("It is another base model than {name}, or its weights were changed.").format(name=saved.base_model),
        ),
        same("tokenizer", saved.tokenizer, now.tokenizer, _("The tokenizer turns text into other tokens than before.")),
        same("chat_template", saved.chat_template, now.chat_template, _("The chat template was changed.")),
        _dataset(saved, now, rows),
    ]


def _dataset(saved: Identities, now: Identities, rows: Digests) -> Item:
    expected, found = rows_words(saved.dataset.rows), rows_words(now.dataset.rows)
    if saved.data_settings != now.data_settings:
        return Item(
            "dataset",
            expected,
            found,
            "failed",
            _("Rows become other tokens: --format, --train-on, --max-length or --eval-fraction was changed."),
        )
    how = "same" if saved.dataset == now.dataset else compare(saved.dataset, rows)
    if how == "same":
        return Item("dataset", expected, found, "ok")
    return Item("dataset", expected, found, "failed", change_words(how))


def next_batch_item(manifest: Manifest | None, digest: str, position: str) -> Item:
    """data_position: the rows of the next step, by the saved geometry, against the saved cursor."""
    if manifest is None:
        return unknown("data_position", position, _("It goes on by its epoch in this tool's own order of rows."))
    return same("data_position", manifest.cursor.next_batch, digest, _("The next rows are not those that were due."))


def versions_item(manifest: Manifest | None, now: dict[str, str]) -> Item:
    """The libraries' versions; another one is told and goes on."""
    if manifest is None:
        return unknown("versions", _join(now))
    differ = {
        name: f"{manifest.versions.get(name, '-')} -> {now.get(name, '-')}"
        for name in sorted({*manifest.versions, *now})
        if manifest.versions.get(name) != now.get(name)
    }
    if not differ:
        return Item("versions", _join(manifest.versions), _join(now), "ok")
    return Item(
        "versions",
        _join(manifest.versions),
        _join(now),
        "changed",
        _("{what}: the run goes on, but perhaps not bit for bit.").format(what=_join(differ)),
    )


def _join(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _short(text: str) -> str:
    if len(text) not in (64, 128) or any(letter not in "0123456789abcdef" for letter in text):
        return text
    return "+".join(text[at : at + 12] for at in range(0, len(text), 64))  # of two digests, either may be the other one
