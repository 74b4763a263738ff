"""The language is chosen by the locale. The Chinese catalogue is still to be translated; until then English is shown."""

from __future__ import annotations

import pytest


def test_the_locale_chooses_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    from tui.i18n import choose_language

    for name in ("LORA_TUI_LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for value, language in (("zh_CN.UTF-8", "zh_CN"), ("zh_TW", "zh_CN"), ("de_DE.UTF-8", "en"), ("C", "en")):
        monkeypatch.setenv("LANG", value)
        assert choose_language() == language
    assert choose_language("zh_CN") == "zh_CN"
