"""The keys of the wizard, and those that a person has set otherwise.

Each key has a name, which keys.toml (where the platform keeps configuration; LORA_TUI_KEYS names another file) gives other keys:

    stop = "ctrl+s"
    next = ["ctrl+n", "f2"]

What moves about (arrows, pages, tab, enter) stays. A file that cannot be followed as it stands is refused before the wizard opens: a
key that does something else than its owner believes is worse than none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from textual.binding import Binding
from textual.keys import Keys

from engine.errors import ConfigError
from engine.i18n import _
from engine.paths import path_of

NAME = "keys.toml"
DEFAULT = {
    "next": "ctrl+n", "back": "escape", "help": "f1", "quit": "ctrl+q", "menu": "ctrl+p", "browse": "ctrl+o", "copy": "y",
    "continue": "c", "weights": "w", "fresh": "f", "trash": "d", "undo": "z",
    "stop": "s", "log": "l", "receipt": "r", "detach": "d", "go_back": "b", "go_on": "g",
    "talk": "t", "export": "e", "new": "n", "ask_row": "ctrl+r", "begin_anew": "ctrl+l", "sampling": "ctrl+t",
}  # fmt: skip
"""Name -> key."""
EVERYWHERE = ("quit", "menu", "help", "next", "back")
TOGETHER = (
    ("browse", "copy"),
    ("continue", "weights", "fresh", "trash", "undo"),
    ("stop", "log", "receipt", "detach", "go_back", "go_on"),
    ("copy", "receipt", "talk", "export", "continue", "new"),
    ("ask_row", "begin_anew", "sampling"),
)
"""Names whose keys are at work on one screen, beside those that are everywhere."""
BESIDE_FIELDS = (*EVERYWHERE, "browse", "ask_row", "begin_anew", "sampling")
"""Names whose keys are at work while something is typed: no letters."""
FIXED = frozenset(
    ("up", "down", "left", "right", "tab", "shift+tab", "enter", "return", "space", "pageup", "pagedown", "home", "end", "ctrl+home",
     "ctrl+end", "backspace", "delete", "ctrl+c", "ctrl+i", "ctrl+m", "ctrl+h")
)  # fmt: skip
"""Keys that move about, type, or end; the last three are what terminals send for tab, enter and backspace."""
_KNOWN = frozenset(one.value for one in Keys if not one.value.startswith("<")) | {f"f{number}" for number in range(1, 25)}
_MODIFIERS = ("ctrl", "alt", "shift", "super")


def bound(name: str, action: str, words: str, **named: Any) -> Binding:
    """The binding of the key `name` of `DEFAULT`."""
    return Binding(DEFAULT[name], action, words, id=name, **named)


def keys_file() -> Path:
    """Where a person's own keys stand."""
    import platformdirs

    named = os.environ.get("LORA_TUI_KEYS")
    return path_of(named) if named else platformdirs.user_config_path("lora-tui") / NAME


def own_keys() -> dict[str, str]:
    """Name -> keys, separated by commas, of those that were set otherwise. Raises ConfigError for a file that cannot be followed."""
    path = keys_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if os.environ.get("LORA_TUI_KEYS"):
            raise _wrong(path, _("There is no such file.")) from None
        return {}
    except (OSError, ValueError) as error:
        raise _wrong(path, str(error)) from None
    import tomllib

    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(path, str(error)) from None
    own = {name: _keys_of(path, name, value) for name, value in found.items()}
    _need_apart(path, own)
    return {name: ",".join(keys) for name, keys in own.items()}


def _keys_of(path: Path, name: str, value: Any) -> list[str]:
    if name not in DEFAULT:
        raise _wrong(
            path, _("{name} is the name of no key. There are: {names}.").format(name=name, names=", ".join(DEFAULT))
        )
    if name == "menu" and not isinstance(value, str):
        raise _wrong(path, _("{name}: one key, not several.").format(name=name))
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not keys or not all(isinstance(one, str) for one in keys):
        raise _wrong(path, _('{name}: a key such as "ctrl+s", or a list of keys.').format(name=name))
    for one in keys:
        if not _is_key(one):
            raise _wrong(
                path, _("{name}: {key!r} is no key. Keys are called ctrl+s, f2, escape or s.").format(name=name, key=one)
            )
        if one in FIXED:
            raise _wrong(path, _("{name}: {key} moves about or types, and stays as it is.").format(name=name, key=one))
        if name in BESIDE_FIELDS and len(one.removeprefix("shift+")) == 1:
            raise _wrong(
                path, _("{name}: {key} is typed into fields; take one with ctrl, or f2 to f12.").format(name=name, key=one)
            )
    return keys


def _is_key(word: str) -> bool:
    *modifiers, last = word.split("+") if word != "+" else (word,)
    if len(word) == 1:
        return word.isprintable() and word not in ", "
    return word in _KNOWN or (
        bool(modifiers)
        and all(one in _MODIFIERS for one in modifiers)
        and (last in _KNOWN or (len(last) == 1 and last.isalnum()))
    )


def _need_apart(path: Path, own: dict[str, list[str]]) -> None:
    """Raise ConfigError where one key would do two things on one screen."""
    for names in TOGETHER:
        taken: dict[str, str] = {}
        for name in (*EVERYWHERE, *names):
            for one in own.get(name, [DEFAULT[name]]):
                if one in taken:
                    words = _("{key} cannot be both {one} and {other}: they are on one screen.")
                    raise _wrong(path, words.format(key=one, one=taken[one], other=name))
                taken[one] = name


def _wrong(path: Path, why: str) -> ConfigError:
    return ConfigError(
        _("{path}: these keys cannot be used").format(path=path),
        why,
        _("Mend the file, or remove it to have the keys that lora-tui comes with."),
    )
