"""Access tokens stay out of what is kept or shown: run.toml, events.jsonl, the terminal, and of run.log what Python code prints
or logs. Native code and child processes write to the descriptors themselves, past this; what they say is in run.log as they said it.

A token belongs into `hf auth login` or HF_TOKEN. One that is given as a setting is refused (config.py); one that a library prints, in
an address or a header, is made unreadable here on its way.
"""

from __future__ import annotations

import os
import re

_FORMS = re.compile(
    r"""\b(hf|api_org)_[A-Za-z0-9]{16,}          # Hugging Face's own tokens
    |\b(sk|ghp|gho|glpat)[-_][A-Za-z0-9_-]{16,}   # of services whose tokens name themselves
    |(?<=[Bb]earer\ )[A-Za-z0-9._~+/=-]{8,}
    |(?<=://)[^/\s:@]+:[^/\s@]+(?=@)              # name and password in an address
    """,
    re.VERBOSE,
)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
HIDDEN = "***"


def redact(text: str) -> str:
    """`text` with access tokens replaced by ***: those of a known form, and those that this process was given."""
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 8:
            text = text.replace(value, HIDDEN)
    return _FORMS.sub(HIDDEN, text)
