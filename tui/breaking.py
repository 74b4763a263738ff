"""Where a line may be broken: at spaces, and in Chinese and Japanese between any two characters but before a mark that ends something
and after one that begins it.

Rich and Textual share one function that takes lines apart at spaces alone. A sentence without any is one word to it, which goes to the
next line as a whole and leaves the one before it short. That function cannot be told otherwise from outside, so it is replaced in
its module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

USUAL_WIDTH = 80
_WORD = re.compile(r"\s*\S+\s*")
"""As Rich has it: a word with the spaces around it."""
_WIDE = "\u2e80-\u303f\u3040-\u312f\u3190-\u4dbf\u4e00-\ua4cf\uf900-\ufaff\uff00-\uff9f\uffe0-\uffee\U00020000-\U0003ffff"
"""Scripts that are written without spaces and their punctuation. Korean has spaces."""
_CLOSES = re.escape("、。，．；：？！）］｝》〉」』】〕〗〙〛’”…—～・ー々〜％,.;:?!)]}>%\"'/·")
_MARKS = "、。，．；：？！）］｝》」』】〕"
"""Of those that end something the ones after which a line may be broken before anything else, also before a dot or a quote."""
_OPENS = re.escape("（［｛《〈「『【〔〖〘〚‘“([{<\"'/#$@-")
_BETWEEN = re.compile(
    rf"(?:(?<=[{_WIDE}])|(?=[{_WIDE}]))(?<![\s{_OPENS}])(?![\s{_CLOSES}])|(?<=[{_MARKS}])(?=[!-~])(?![,;:?!)\]}}>%])"
)
_PATH = re.compile(rf"\s*[^\s{_MARKS}]*[/\\][^\s{_MARKS}]*\s*")
"""Something with a slash and without Chinese punctuation: most likely to be copied, and so kept whole where it can be."""


def words(text: str) -> Iterable[tuple[int, int, str]]:
    """The parts of `text` that are not to be broken: where each begins and ends, and the part itself."""
    for word in _WORD.finditer(text):
        begin, end = word.span()
        for cut in (
            () if word.group().isascii() or _PATH.fullmatch(word.group()) else _BETWEEN.finditer(text, begin + 1, end)
        ):
            yield begin, cut.start(), text[begin : cut.start()]
            begin = cut.start()
        if begin < end:
            yield begin, end, text[begin:end]


def break_between_characters() -> None:
    """Have Rich and Textual break lines like this, from now on."""
    from rich import _wrap

    _wrap.words = words


def console(stream: IO[str] | None = None, soft_wrap: bool = False) -> Console:
    """A console that shows what it is given as it is, in lines broken like this; `soft_wrap`: in lines as they come.

    Where nobody reads them any more that is told as any stream tells it: rich itself ends the program with 1 then.
    """
    from rich.console import Console

    class Told(Console):
        def on_broken_pipe(self) -> None:
            raise

    break_between_characters()
    made = Told(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)
    if made.width < 1:  # COLUMNS=0, as some shells without a terminal have it: nothing at all would be shown
        made.width = USUAL_WIDTH
    return made
