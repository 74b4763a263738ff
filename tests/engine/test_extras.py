"""What settings need beyond lora-tui itself is looked for before anything is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import extras
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.extras import need_extras
from tests.engine.runs import train


@pytest.mark.parametrize(
    ("asked", "extra"),
    [
        ({"load_in_4bit": True}, "gpu"),
        ({"parallel": "deepspeed"}, "deepspeed"),
        ({"report_to": "tensorboard,mlflow"}, "tensorboard"),
    ],
    ids=["4 bit", "deepspeed", "trackers"],
)
def test_a_missing_package_is_told_with_what_to_install(
    asked: dict[str, object], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(extras, "_without_cuda", lambda: False)
    with pytest.raises(ConfigError) as refused:
        need_extras(RunConfig.model_validate(asked))
    assert f"lora-tui[{extra}]" in refused.value.fix


def test_a_run_that_lacks_a_package_leaves_nothing(
    tmp_path: Path, tiny_model: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "run"
    with pytest.raises(ConfigError) as refused:
        train(dataset=chat_file, model=tiny_model, output=out, report_to="trackio", epochs=1)
    assert "lora-tui[trackio]" in refused.value.fix
    assert not [path for path in out.rglob("*") if path.name != ".lock"]


@pytest.mark.parametrize("asked", [{"load_in_4bit": True}, {"precision": "float16"}], ids=["4 bit", "float16"])
def test_a_torch_built_without_cuda_is_known_by_its_version(
    asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.sys, "platform", "linux")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    with pytest.raises(ConfigError, match="torch that is installed has none"):
        need_extras(RunConfig.model_validate(asked))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    need_extras(RunConfig.model_validate(asked))


@pytest.mark.parametrize("server", ["https://api.wandb.ai", "https://wandb.example.org:8080"])
def test_whoever_is_logged_in_to_wandb_is_not_sent_to_log_in(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb itself is not installed: what it tells of its settings is said here, the files are real."""
    settings = SimpleNamespace(api_key=None, base_url=server)
    told = SimpleNamespace(singleton=lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _name: told)
    monkeypatch.setattr(extras.importlib, "import_module", lambda _name: told)
    for name in ("NETRC", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for home in ("home", "other", "torn"):
        (tmp_path / home).mkdir()
    host = server.removeprefix("https://")
    kept = f"machine {host}\n  login user\n  password {'k' * 40}\n"
    (tmp_path / "home" / ".netrc").write_text(kept)
    (tmp_path / "other" / ".netrc").write_text(kept.replace(host, "elsewhere.example.org"))
    (tmp_path / "torn" / ".netrc").write_text("machine")
    asked = RunConfig(report_to="wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    need_extras(asked)
    for home in ("none", "other", "torn"):
        monkeypatch.setenv("HOME", str(tmp_path / home))
        with pytest.raises(ConfigError, match="nobody is logged in"):
            need_extras(asked)
    with monkeypatch.context() as patched:
        patched.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
        need_extras(asked)
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    need_extras(asked)
