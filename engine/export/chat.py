"""Did it learn what it should? The same prompt to the trained adapter and to the bare base, with the same seed.

One model is in memory: the base is the same model with its adapter switched off, so the adapter is all that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from engine.checkpoints.verified import private_copy
from engine.config import RunConfig
from engine.data.calls import as_taken
from engine.data.masks import begun, ends_itself
from engine.data.places import places_of
from engine.data.rendering import Endless, invited, rendered
from engine.errors import ConfigError, DatasetError, OutputError
from engine.export.loading import answer_ends, load_adapted, tokenizer_of
from engine.export.samples import TEXT, trained_as
from engine.export.source import ExportSource
from engine.i18n import _

Side = Literal["adapter", "base"]
SIDES: tuple[Side, ...] = ("adapter", "base")
Messages = Sequence[dict[str, Any]]
"""{"role", "content"} each, and what a template takes beside."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        usable = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": 0 <= self.temperature <= 10,
            "top_p": 0 < self.top_p <= 1,
            "seed": 0 <= self.seed < 2**32,
        }
        wrong = [f"{name.replace('_', '-')} {getattr(self, name):g}" for name, good in usable.items() if not good]
        if wrong:
            raise ConfigError(
                _("these sampling settings cannot be used"),
                ", ".join(wrong),
                _("max-new-tokens from 1 on, temperature 0 to 10, top-p above 0 and up to 1, seed 0 to 4294967295."),
            )


@dataclass(frozen=True)
class Chat:
    """A loaded model that can be asked."""

    model: Any
    tokenizer: Any
    plain: bool = False
    """Whether it was trained on plain text, though its tokenizer may have a chat template: it is not asked in what it never saw."""
    thinks: bool = False
    """Whether it was trained with thoughts before answers."""
    system: str | None = None
    """The system turn that a conversation begins with: that of the dataset, where all rows looked at share one, as the Modelfile of an
    export has it."""
    places: int | None = None
    """The most tokens that question and answer may have together; None: there is something beyond any number of them."""

    @property
    def beginning(self) -> Messages:
        """What stands before the first question of a conversation."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def continues(self, said: Messages) -> bool:
        """Whether the last turn of `said` is continued as it stands, in place of answered within the chat template."""
        return self.plain or self.tokenizer.chat_template is None or said[-1]["role"] == TEXT

    def answer(
        self,
        said: Messages,
        side: Side,
        sampling: Sampling,
        tell: Callable[[str], None] = lambda piece: None,
        tools: Any = None,
    ) -> str:
        """What `side` says to the conversation `said`, whose last turn is the user's; pieces go to `tell` as they come. Where it
        `continues`, that turn is continued. `tools`: what the conversation offers. Raises DatasetError where the template refuses the
        conversation, ModelError where it does not come to an end, ConfigError where the model has no places for it."""
        import torch
        from transformers import TextStreamer

        class Told(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                tell(text)

        asked = self._tokens(said, tools).to(self.model.device)
        room = self._room(asked.shape[1], sampling)
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        torch.manual_seed(sampling.seed)
        with torch.no_grad(), self.model.disable_adapter() if side == "base" else nullcontext():
            found = self.model.generate(
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=room,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=answer_ends(self.model, self.tokenizer, self.continues(said)),
                streamer=Told(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
                **(drawn if sampling.temperature > 0 else {"do_sample": False}),
            )
        return str(self.tokenizer.decode(found[0, asked.shape[1] :], skip_special_tokens=True))

    def _room(self, asked: int, sampling: Sampling) -> int:
        """How many tokens an answer to `asked` of them may have. Raises ConfigError where there is no place for any."""
        if self.places is None:
            return sampling.max_new_tokens
        if asked > self.places:
            raise ConfigError(
                _("this model takes no more than {places} tokens").format(places=self.places),
                _("What was asked has {tokens}, with what was said before.").format(tokens=asked),
                _("Ask in fewer words, or begin anew."),
            )
        return min(sampling.max_new_tokens, self.places - asked + 1)  # the last one is never read

    def _tokens(self, said: Messages, tools: Any = None) -> Any:
        """(1, sequence)"""
        if self.continues(said):
            ids = self.tokenizer(begun(said[-1]["content"], self.tokenizer), return_tensors="pt")["input_ids"]
            return ids[:, :-1] if ends_itself(self.tokenizer) else ids

        def attempt(turns: Messages) -> str | None:
            try:
                return rendered(self.tokenizer, turns, tools=tools)
            except Endless:
                raise
            except Exception:  # told below, of the conversation as it is
                return None

        taken, _missing = as_taken(said, (), attempt)
        try:
            text = invited(self.tokenizer, taken, tools, self.thinks)
        except Endless:
            raise
        except Exception as error:  # templates raise whatever they like
            raise DatasetError(_("the model's chat template refuses this conversation"), str(error)) from error
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


def question(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation that begins with `prompt`. Raises ConfigError where it is no text: bytes of another encoding than UTF-8 come in
    as half characters, which no tokenizer takes."""
    for words in (prompt, system or ""):
        try:
            words.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                _("what was asked is not UTF-8 text"),
                words.encode("utf-8", "backslashreplace").decode(),
                _("Write it in UTF-8; iconv -t UTF-8 turns a file into that."),
            ) from None
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]


@contextmanager
def open_chat(source: ExportSource) -> Iterator[Chat]:
    """The model of `source`, loaded. Raises ModelError, CannotContinue, or OutputError where there is no room for its private copy."""
    from engine.hardware import choose_hardware
    from engine.models.report import model_report

    hardware = choose_hardware(_to_be_asked(source.config), model_report(str(source.base)))
    with ExitStack() as opened:
        try:
            folder = opened.enter_context(TemporaryDirectory(prefix="lora-tui-chat-"))
            copy = opened.enter_context(private_copy(source.adapter, Path(folder)))
        except OSError as error:
            raise OutputError(
                _("the adapter cannot be copied into the folder for temporary files"), str(error),
                _("Make room there, or name another folder in TMPDIR."),
            ) from error  # fmt: skip
        model = load_adapted(source, copy, hardware)
        tokenizer = tokenizer_of(source, copy)
    manner = trained_as(source, tokenizer)
    system = manner.system if tokenizer.chat_template is not None else None
    places = places_of(source.base)
    yield Chat(
        model,
        tokenizer,
        manner.plain,
        manner.thinks,
        system,
        places.count if places is not None and places.learned else None,
    )


def continued_words() -> str:
    """What a person is told of a chat that is plain."""
    return _(
        "trained on plain text: what you ask is continued as it stands, without a chat template and without what was said before"
    )


def system_words(system: str) -> str:
    """What a person is told of the system turn that a conversation begins with."""
    return _("with the system turn: {system}").format(system=system)


def _to_be_asked(config: RunConfig) -> RunConfig:
    """`config` of a run, perhaps trained elsewhere, without what only training needs and this machine may not have."""
    import torch

    alone: dict[str, Any] = {"load_in_4bit": False, "parallel": "auto", "nproc": 1, "nnodes": 1}
    if config.precision == "float16" and not torch.cuda.is_available():
        alone["precision"] = "auto"
    return config.model_copy(update=alone)
