"""What a run's settings need beyond lora-tui itself: packages that are extras, a login, a torch that can use a GPU. Looked for before
anything is loaded, and without importing torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import netrc
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.i18n import _


def trackers(config: RunConfig) -> list[str]:
    """The names in `--report-to`."""
    return config.report_to.split(",") if config.report_to else []


def need_extras(config: RunConfig) -> None:
    """Raise ConfigError for a setting that cannot be had here: its package is missing, nobody is logged in, or torch has no CUDA."""
    for flag, asked in (("--load-in-4bit", config.load_in_4bit), ("--precision float16", config.precision == "float16")):
        if asked and _without_cuda():
            raise ConfigError(
                _("{flag} needs CUDA, and the torch that is installed has none").format(flag=flag), fix=_("Leave it out.")
            )
    if config.load_in_4bit:
        _need("bitsandbytes", "--load-in-4bit", "gpu")
    if config.parallel == "deepspeed":
        _need("deepspeed", "--parallel deepspeed", "deepspeed")
    for name in trackers(config):
        _need(name, f"--report-to {name}", name)
    if "wandb" in trackers(config) and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
        settings = importlib.import_module("wandb.sdk.wandb_setup").singleton().settings
        if not (settings.api_key or _known_to_wandb(settings.base_url)):
            raise ConfigError(
                _("--report-to wandb: nobody is logged in"),
                _("wandb would ask for a key in the middle of the start."),
                _("Run `wandb login` first, or set WANDB_MODE=offline."),
            )


def _need(package: str, flag: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            _("{flag}: the package {name} is not installed").format(flag=flag, name=package),
            fix=_("Install it with: pip install 'lora-tui[{name}]'").format(name=extra),
        )


def _without_cuda() -> bool:
    """Whether it is sure without importing torch; `choose_hardware` asks the device itself."""
    return sys.platform == "darwin" or importlib.metadata.version("torch").endswith("+cpu")


def _known_to_wandb(server: str) -> bool:
    """Whether the environment says who somebody is on `server`, or the file does in which `wandb login` keeps the key (netrc)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    address = urlsplit(server)
    for path in [named] if named else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, ValueError, RuntimeError, netrc.NetrcParseError):
            kept = netrc.netrc(Path(path).expanduser())
            return any(kept.authenticators(host) for host in (address.hostname, address.netloc) if host)
    return False
