"""The error family: what is wrong, where, and what to do, with the exit code of the contract in one table.

Every error a person can cause or meet is one of these. It is made of three sentences rather than one, so that a screen can lay
them out and a log can print them; `str(error)` joins them. Anything else that escapes is a fault of ours and exits with 1.
"""

from __future__ import annotations


class LoraTuiError(Exception):
    """A problem told to a person. `title`: what and where; `detail`: the evidence; `fix`: what to do next (may be empty)."""

    exit_code = 1

    def __init__(self, title: str, detail: str = "", fix: str = "") -> None:
        self.title, self.detail, self.fix = title, detail, fix
        super().__init__("\n".join(part for part in (title, detail, fix) if part))


class ConfigError(LoraTuiError):
    """Usage or configuration: unknown flag, value out of range, a missing answer."""

    exit_code = 2


class CannotContinue(LoraTuiError):
    """This checkpoint cannot be continued, or the receipt failed."""

    exit_code = 3


class DatasetError(LoraTuiError):
    """The dataset cannot be used. `row`: from 1, in the dataset as given; None: it is not for one row, or not known for which."""

    exit_code = 4

    def __init__(self, title: str, detail: str = "", fix: str = "", row: int | None = None) -> None:
        super().__init__(title, detail, fix)
        self.row = row


class ModelError(LoraTuiError):
    """The model cannot be used."""

    exit_code = 4


class OutputError(LoraTuiError):
    """The output folder is busy, unwritable, gone or full."""

    exit_code = 5


class Cancelled(LoraTuiError):
    """Somebody had it end before it was done."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line that says something of a library's error, or its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
