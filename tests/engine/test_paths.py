"""What a person may name as a path, and what asking about it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.paths import as_argument, is_file, is_folder, is_there, path_of, rooted
from engine.sources import Source, resolve

LONG = "x" * 300


@pytest.mark.parametrize("field", ["dataset", "eval_dataset", "model", "output", "init_from", "resume"])
def test_home_is_found_in_every_setting_that_names_a_place(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert getattr(resolve([Source("config", "my.toml", {field: "~/x"})]).config, field) == "/somewhere/x"


@pytest.mark.parametrize("written", ["$HOME/x", "${HOME}/x"])
def test_a_variable_before_a_path_is_looked_up_where_no_shell_did_it(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert path_of(written) == Path("/somewhere/x")
    assert resolve([Source("config", "my.toml", {"output": written})]).config.output == "/somewhere/x"


@pytest.mark.parametrize("written", ["~nobody-of-this-name/x", "$NOBODY_SET_THIS/x"])
def test_the_home_of_nobody_and_a_variable_that_is_not_set_stay_as_they_are(written: str) -> None:
    assert path_of(written) == Path(written)


def test_a_folder_that_is_called_like_a_variable_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("$HOME").mkdir()
    assert path_of("$HOME") == Path("$HOME")


@pytest.mark.parametrize("odd", [LONG, f"{LONG}/x", "a\0b"])
def test_asking_never_raises(odd: str) -> None:
    assert not any(ask(Path(odd)) for ask in (is_file, is_folder, is_there))


COMMANDS = {
    "resume": (["--yes", "--dataset", "d", "--model", "m", "--resume", LONG], 3),
    "init-from": (["--yes", "--dataset", "d", "--model", "m", "--init-from", LONG], 3),
    "dataset": (["--yes", "--dataset", LONG, "--model", "m"], 4),
    "output": (["--yes", "--dataset", "d", "--model", "m", "--output", LONG], 5),
    **{word: ([word, LONG], 2) for word in ("watch", "chat", "eject", "check", "runs")},
    "export": (["export", LONG, "--to", "adapter"], 2),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_that_is_too_long_is_told_and_not_a_fault(name: str, lora_tui: Any) -> None:
    arguments, code = COMMANDS[name]
    found, _out, err = lora_tui(*arguments)
    assert found == code
    assert "Traceback" not in err and err.startswith(("error:", "starting fresh"))


def test_a_name_that_run_toml_could_not_hold_is_refused_at_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"--output: .* UTF-8"):
        resolve([Source("flag", "", {"output": "bad\udcff"})])


def test_a_path_from_the_root_has_no_way_back_in_it_unless_a_link_makes_it_another_place(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "base").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert rooted(tmp_path / "far" / ".." / "models" / "base") == tmp_path / "models" / "base"
    assert rooted(tmp_path / "link") == tmp_path / "link"
    assert rooted(tmp_path / "link" / ".." / "base").samefile(tmp_path / "far" / "base")


@pytest.mark.parametrize("name", ["a b", "it's", "$(x)", "-x", "a\nb"])
def test_a_path_in_a_command_that_is_told_is_that_path(name: str) -> None:
    (word,) = shlex.split(as_argument(Path(name)))
    assert Path(word) == Path(name) and not word.startswith("-")
