"""The checkpoint browser's table: one line a checkpoint, runs kept apart, the recommended one marked in words and not by colour.

It takes a Scan and a Choice and shows them; which checkpoint is the right one was decided in the engine. Reusable wherever
checkpoints are to be chosen from.
"""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.message import Message
from textual.widgets import DataTable

from engine.checkpoints.checkpoint import Checkpoint, Grade
from engine.checkpoints.choose import Choice
from engine.checkpoints.scan import Scan
from engine.clock import moment
from engine.i18n import _
from engine.resume.report import runs_of
from engine.sizes import loss_words, size_words
from tui.plain import visible

WIDE = 132
"""Columns from which on the time and the size are shown too."""
STYLES = {Grade.PROVEN: "green", Grade.COMPLETE: "", Grade.WEIGHTS_ONLY: "yellow", Grade.BROKEN: "red"}


class CheckpointTable(DataTable[Text]):
    """Checkpoints to choose from."""

    class Highlighted(Message):
        """Another checkpoint is under the cursor."""

        def __init__(self, checkpoint: Checkpoint) -> None:
            super().__init__()
            self.checkpoint = checkpoint

    class Chosen(Message):
        """Enter, or a second click, on a checkpoint."""

        def __init__(self, checkpoint: Checkpoint) -> None:
            super().__init__()
            self.checkpoint = checkpoint

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    _headings: frozenset[int] = frozenset()
    """Rows that name a run. The cursor is never on one: there would be nothing that Enter could mean."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, header_height=1)
        self._found: dict[str, Checkpoint] = {}
        self._shown: tuple[Scan, Choice, bool] | None = None

    @property
    def chosen(self) -> Checkpoint | None:
        """The checkpoint under the cursor."""
        if not self.row_count:
            return None
        key = self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value
        return self._found.get(key or "")

    def validate_cursor_coordinate(self, value: Coordinate) -> Coordinate:
        """Where the cursor comes to stand: past the line of a run, in the direction it was going."""
        place = super().validate_cursor_coordinate(value)
        if place.row not in self._headings:
            return place
        return place.up() if 0 < place.row < self.cursor_coordinate.row else place.down()

    def show(self, found: Scan, choice: Choice, cursor: str | None = None) -> None:
        """Show `found`; the cursor goes to the checkpoint named `cursor`, else to the recommended one."""
        wide = self.app.size.width >= WIDE
        self._shown = (found, choice, wide)
        recommended = choice.checkpoint.name if choice.checkpoint is not None else None
        self._headings = frozenset()
        self.clear(columns=True)
        self._found = {one.name: one for one in found.checkpoints}
        names = max((cell_len(visible(name)) for name in self._found), default=4)
        columns = [("", 1), (_("name"), names), (_("epoch"), 6), (_("step"), 6), (_("loss"), 7), (_("eval"), 7)]
        columns += [(_("grade"), 12)] + ([(_("saved"), 16), (_("size"), 7)] if wide else [])
        left = ("", _("name"), _("grade"), _("saved"))
        for title, width in columns:  # given, not measured: a thousand rows need not be looked at for it
            self.add_column(title if title in left else _right(title, width, ""), width=width)
        runs = runs_of(found.checkpoints)
        target, row, headings = 0, 0, set()
        for run, members in runs.items():
            if len(runs) > 1:
                words = Text(_fitting(_("run {run}").format(run=visible(run)), names), "dim italic")
                self.add_row(Text(""), words, *[Text("")] * (len(self.columns) - 2), key=f"run:{run}")
                headings.add(row)
                row += 1
            for one in reversed(members):
                self.add_row(
                    *self._cells(one, one.name == recommended, wide, one.name not in found.unverified), key=one.name
                )
                if one.name == (cursor if cursor in self._found else recommended):
                    target = row
                row += 1
        self._headings = frozenset(headings)
        if row:
            self.move_cursor(row=target, animate=False)

    def beside(self, name: str) -> str | None:
        """The checkpoint below `name`, else the one above it."""
        names = [row.key.value for row in self.ordered_rows if row.key.value in self._found]
        if name not in names:
            return None
        place = names.index(name)
        near = names[place + 1 :] or names[:place][::-1]
        return near[0] if near else None

    def judge(self, found: Scan) -> None:
        """Show what has been found out about checkpoints that were only glanced at."""
        assert self._shown is not None
        before, choice, wide = self._shown
        self._shown = (found, choice, wide)
        for one in found.checkpoints:
            if one.name in before.unverified and one.name not in found.unverified:
                self._found[one.name] = one
                recommended = choice.checkpoint is not None and choice.checkpoint.name == one.name
                for column, cell in zip(self.ordered_columns, self._cells(one, recommended, wide, True), strict=True):
                    self.update_cell(one.name, column.key, cell)
        chosen = self.chosen
        if chosen is not None and chosen.name in before.unverified and chosen.name not in found.unverified:
            self.post_message(self.Highlighted(chosen))

    def on_resize(self) -> None:
        if self._shown is not None and self._shown[2] != (self.app.size.width >= WIDE):
            chosen = self.chosen
            self.show(self._shown[0], self._shown[1], chosen.name if chosen else None)

    def _cells(self, one: Checkpoint, recommended: bool, wide: bool, judged: bool) -> list[Text]:
        style = "bold" if recommended else "" if one.continuable else "dim"
        cells = [
            Text("▸" if recommended else " ", "bold green"),
            Text(visible(one.name), style),
            _right(f"{one.epoch:.2f}" if one.epoch is not None else "-", 6, style),
            _right(str(one.step) if one.step is not None else "-", 6, style),
            _right(loss_words(one.loss), 7, style),
            _right(loss_words(one.eval_loss), 7, style),
            Text(str(one.grade), STYLES[one.grade]) if judged else Text("…", "dim"),
        ]
        if wide:
            cells += [Text(saved_words(one), style), _right(size_words(one.bytes), 7, style)]
        return cells

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        one = self._found.get(event.row_key.value or "")
        if one is not None:  # a table that is being filled begins at its first line
            self.post_message(self.Highlighted(one))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        chosen = self._found.get(event.row_key.value or "")
        if chosen is not None:
            self.post_message(self.Chosen(chosen))


def saved_words(one: Checkpoint) -> str:
    """When it was saved, by the clock of this place."""
    saved = moment(one.saved_at)
    return saved.strftime("%Y-%m-%d %H:%M") if saved is not None else "-"


def _right(text: str, width: int, style: str) -> Text:
    text = _fitting(
        text, width
    )  # a number that is cut says so: the table would leave its end out, and it would read as another one
    return Text(" " * (width - cell_len(text)) + text, style)


def _fitting(text: str, width: int) -> str:
    """`text` in no more than `width` columns."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
