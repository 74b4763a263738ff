"""`lora-tui export OUT --to adapter|merged`: the run's result for other programs. The engine writes; here it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.export.place import EXPORTS
from engine.export.source import find_source
from engine.i18n import _
from tui.plain import visible


def run_export(out: str, checkpoint: str | None, to: str, into: str | None, model: str | None, as_json: bool) -> int:
    """Export, and say where it lies and what was checked; the exit code. Raises the engine's errors."""
    source = find_source(Path(out), checkpoint, model)
    folder = Path(into) if into is not None else Path(out) / EXPORTS
    told = {
        "schema": 1,
        "to": to,
        "from": str(source.adapter.path),
        "base": source.base_name,
        "base_proven": source.base_proven,
    }
    lines = []
    if to == "adapter":
        from engine.export.adapter import export_adapter

        path = export_adapter(source, folder)
    else:
        from engine.export.merged import export_merged
        from engine.hardware import prepare_process

        prepare_process()
        merged = export_merged(source, folder)
        path = merged.path
        told |= {"dtype": merged.dtype, "logits_differ": merged.logits_differ, "tensors_checked": merged.tensors_checked,
                 "untied": merged.untied}  # fmt: skip
        lines.append(_("checked: logits differ by {difference:.1e} from base and adapter · {count} tensors read back").format(
            difference=merged.logits_differ, count=merged.tensors_checked))  # fmt: skip
        if merged.untied:
            lines.append(
                _("input and output embeddings were one tensor and are two now: the adapter changes only one of them")
            )
    if not source.base_proven:
        lines.append(_("no manifest says which base it was trained on; that this is the one was not checked"))
    if as_json:
        sys.stdout.write(json.dumps(told | {"path": str(path)}, indent=2, allow_nan=False) + "\n")
        return 0
    for line in (_("exported {name} to {path}").format(name=source.adapter.path.name, path=path), *lines):
        sys.stdout.write(visible(line) + "\n")
    return 0
