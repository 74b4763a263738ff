"""The result on the Hugging Face hub, or on the mirror that HF_ENDPOINT names: private unless asked otherwise.

The folder that is uploaded is an export like any other and stays. The token is the one `hf auth login` keeps; it is never taken
on the command line, and files that hold one are not uploaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, OutputError, first_line
from engine.export.adapter import export_adapter
from engine.export.merged import export_merged
from engine.export.source import ExportSource
from engine.i18n import _
from engine.paths import as_argument
from engine.redact import redact

READABLE = (".json", ".md", ".jinja", ".txt", ".model")
MOST_TEXT = 64 * 2**20

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Shared:
    """What lies on the hub now."""

    path: Path
    """The same files here."""
    url: str
    commit: str
    private: bool


def refuse_unshareable(repo: str | None) -> str:
    """The repository's name where something can be uploaded to it as things stand. Raises ConfigError before any work is done."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if not repo:
        raise ConfigError(_("missing: --repo"), fix=_("Name the repository: --repo your-name/my-model."))
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(_("--repo {repo}: this is no repository's name").format(repo=repo), str(error)) from error
    if "/" not in repo:
        raise ConfigError(
            _("--repo {repo}: this is no repository's name").format(repo=repo),
            fix=_("It has two parts: your-name/my-model."),
        )
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(_("HF_HUB_OFFLINE is set: nothing can be uploaded"), fix=_("Unset it, or use --to adapter."))
    if get_token() is None:
        raise ConfigError(_("nobody is logged in to the hub"), fix=_("Run `hf auth login`, or set HF_TOKEN."))
    return repo


def share(
    source: ExportSource, into: Path, repo: str, merged: bool, private: bool, tell: Tell = lambda text: None
) -> Shared:
    """Export the adapter of `source`, or with `merged` the whole model, and upload it to `repo`, which is made where it is not there.

    Raises OutputError where the hub does not take it (the export stays then), and what the export raises.
    """
    tell(_("merging") if merged else _("writing the adapter"))
    path = export_merged(source, into).path if merged else export_adapter(source, into)
    _refuse_secrets(path)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        tell(_("uploading to {repo}").format(repo=repo))
        url = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise OutputError(
                _("{repo}: this repository is public").format(repo=repo),
                _("It is there already. Nothing was uploaded; the export is in {path}.").format(path=path),
                _("Say --public if everybody may see it, or name another repository."),
            )
        commit = api.upload_folder(repo_id=repo, folder_path=path, commit_message="Made by lora-tui")
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise OutputError(
            _("{repo}: the hub does not take it").format(repo=repo),
            redact(first_line(error)),
            _("The export is whole, in {path}. By hand: hf upload {repo} {path}").format(path=as_argument(path), repo=repo),
        ) from error
    return Shared(path, str(url), commit.oid, private)


def _refuse_secrets(folder: Path) -> None:
    """Raise OutputError where a file of the export holds an access token."""
    for path in sorted(folder.iterdir()):
        if path.suffix in READABLE and path.stat().st_size < MOST_TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            if redact(text) != text:
                raise OutputError(
                    _("{path}: an access token stands in it").format(path=path),
                    _("Nothing was uploaded."),
                    _("Take it out of the base model's or the tokenizer's files, revoke it, and export again."),
                )
