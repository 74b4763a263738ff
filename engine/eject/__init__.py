"""A run said again without lora-tui: as a script on TRL and PEFT alone, or as the settings of Axolotl or LLaMA-Factory.

Nobody has to stay with this tool. What another trainer does otherwise stands as a comment beside it, so that equal settings are not
taken for an equal run.
"""

from __future__ import annotations

from pathlib import Path

TARGETS = ("script", "axolotl", "llamafactory")


def eject(out: Path, to: str) -> str:
    """The run in `out` as text, `to` one of TARGETS. Raises ConfigError where there is none, DatasetError or ModelError where its
    rows or its model are gone."""
    from engine.eject.others import axolotl, llamafactory
    from engine.eject.run import read_run
    from engine.eject.script import script

    return {"script": script, "axolotl": axolotl, "llamafactory": llamafactory}[to](read_run(out))
