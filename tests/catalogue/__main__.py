"""`python -m tests.catalogue` writes docs/resuming.md; with words, the cases whose names hold one of them are run and only shown."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.catalogue.cases import CASES
from tests.catalogue.sides import ours, short, stock
from tests.catalogue.world import build_world, copy_of

DOC = Path(__file__).parents[2] / "docs" / "resuming.md"
HEAD = """# Continuing, and how it goes wrong

Each row is made to happen by `make catalogue`, which writes this page: a run of a tiny model is stopped at step 10 of 21 and
continued after the change; where files were changed, the digests in the manifest were made to fit. "no." is the number in the
catalogue of public reports this project began with. *Stock* is TRL's SFTTrainer with `resume_from_checkpoint=True` on the same
folder, with the losses of its first three steps. *When* is the latest moment at which it was told: by the plan (nothing is loaded),
by the receipt (before the first optimizer step) or at a step of the training. Words are cut to a line.

| no. | what was done | stock | we say | when | goes on |
|---|---|---|---|---|---|
"""
TAIL = """
Not in the table: 17 (the loss scale of float16) needs a GPU without bfloat16; the receipt's item `scaler` tells it. 28 (hours
spent on skipping rows that were seen): nothing is skipped here, the order of an epoch is computed and entered at its row.
"""


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        world = build_world(Path(place))
        lines = []
        for case in [case for case in CASES if not chosen or any(word in case.name for word in chosen)]:
            theirs, told = (
                stock(case, world, copy_of(world, case.name, "stock")),
                ours(case, world, copy_of(world, case.name, "ours")),
            )
            cells = (case.row, case.name, theirs, short(told.what, world), told.when, "yes" if told.went_on else "no")
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
            print(lines[-1], flush=True)  # noqa: T201
            if not chosen:
                DOC.write_text(HEAD + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
