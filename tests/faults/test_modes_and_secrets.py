"""Files get the umask's mode, and access tokens get nowhere."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints.trash import to_trash
from engine.redact import redact
from tests.engine.runs import train

TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3rS5tU7"


@pytest.mark.parametrize(
    "mask", [0o027, *(pytest.param(mask, marks=pytest.mark.slow) for mask in (0o022, 0o077, 0o002))], ids=str
)
def test_every_file_of_a_run_has_the_mode_that_the_umask_says(
    mask: int, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    before = os.umask(mask)
    try:
        train(stop_at=2, dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1, batch_size=4, save_steps=1)
        to_trash(tmp_path / "run" / "checkpoint-1")
    finally:
        os.umask(before)
    odd = {
        str(path.relative_to(tmp_path)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in (tmp_path / "run", *(tmp_path / "run").rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert not odd


@pytest.mark.parametrize("where", ["--dataset", "--model", "--output"])
def test_a_token_given_as_a_setting_is_refused_and_not_echoed(where: str, lora_tui: Any, tmp_path: Path) -> None:
    code, out, err = lora_tui("--yes", "--json", where, f"https://user:{TOKEN}@host/name")
    assert code == 2
    assert TOKEN not in out + err
    assert "access token" in err
    assert not any(TOKEN in str(path) for path in tmp_path.rglob("*"))


def test_a_token_that_a_library_prints_or_an_error_holds_is_kept_nowhere(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    from engine.training import session

    secret = "not-of-a-known-form-42"
    monkeypatch.setenv("HF_TOKEN", secret)

    def leak(self: Any, *arguments: Any) -> Any:
        sys.stdout.write(f"printed {TOKEN} {secret}\n")
        logging.getLogger("library").warning("Authorization: Bearer %s", secret)
        raise RuntimeError(f"401 for https://{secret}@host with {TOKEN}")

    monkeypatch.setattr(session.Session, "_build", leak)
    with pytest.raises(Exception, match="RuntimeError") as failed:
        train(dataset=chat_file, model=tiny_model, output=tmp_path / "run", epochs=1)
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "run").iterdir() if path.is_file())
    assert "printed ***" in kept and "401 for" in kept
    assert TOKEN not in kept and secret not in kept
    assert TOKEN not in redact(str(failed.value))


def test_what_is_no_token_stays() -> None:
    for text in ("hf_hub", "out/hf_models-run", "https://host/a:b@c", "step 3: loss 0.2"):
        assert redact(text) == text
    assert json.loads(redact(json.dumps({"a": TOKEN}))) == {"a": "***"}
