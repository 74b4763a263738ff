"""How turns are written where the model's own chat template is not to be, or where it has none: a base model's.

A template is put into the tokenizer, which is saved with the adapter: whatever reads the result (chat, export, Transformers) writes
turns as they were trained. Like a model's own it is foreign code, and is run by `engine.data.rendering` alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, ModelError, first_line
from engine.i18n import _
from engine.paths import is_file, path_of

if TYPE_CHECKING:
    from jinja2 import TemplateSyntaxError

MODELS_OWN = "auto"
"""The model's own."""
PLAIN = """\
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- message['content'] + '\\n\\n' -}}
    {%- elif message['role'] == 'user' -%}
        {{- '### User:\\n' + message['content'] + '\\n\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '### Assistant:\\n' + message['content'] + eos_token + '\\n\\n' -}}
    {%- else -%}
        {{- raise_exception('the template plain knows system, user and assistant, not ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '### Assistant:\\n' -}}
{%- endif -%}
"""
"""Headlines and the end token that each tokenizer has: needs no token that a base model never saw."""
CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""OpenAI's ChatML, as Qwen and many others have it; for a tokenizer with its two tokens."""
NAMED = {"plain": PLAIN, "chatml": CHATML}
TOKENS = {"chatml": ("<|im_start|>", "<|im_end|>")}
"""What a tokenizer must have as tokens: spelled out in pieces they would end no answer."""
MAX_BYTES = 1_000_000
TEMPLATE_FILE = "chat_template.jinja"
"""Where it lies in the folder of a model, an adapter or a checkpoint."""


def template_source(setting: str) -> str | None:
    """The text of the template that --chat-template names; None: the model's own. Raises ConfigError for a file that cannot be
    read."""
    if setting == MODELS_OWN:
        return None
    if setting in NAMED:
        return NAMED[setting]
    path = path_of(setting)
    wrong = _("--chat-template {path}: cannot be read").format(path=setting)
    known = _("Name a file with a Jinja template, or one of {names}.").format(names=", ".join((MODELS_OWN, *NAMED)))
    if not is_file(path):
        raise ConfigError(wrong, _("There is no such file."), known)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(wrong, _("It is no text in UTF-8."), known) from None
    except OSError as error:
        raise ConfigError(wrong, error.strerror or str(error), known) from None
    if len(content) > MAX_BYTES or "messages" not in text:
        raise ConfigError(wrong, _("It is no chat template: none is that long, and each goes through `messages`."), known)
    return text


def need_jinja(setting: str) -> None:
    """Raise ModelError where Jinja cannot read the template that --chat-template names, as the first row that it is to write would.
    The model's own is not looked at. Raises ConfigError as `template_source`."""
    source = template_source(setting)
    if source is None:
        return
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """The tag of transformers' own around what an assistant says."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    # All that transformers lets a template use. It is turned into Python and nothing of it run, not even what has one value only.
    environment = ImmutableSandboxedEnvironment(extensions=[Generation, jinja2.ext.loopcontrols], optimized=False)
    try:
        environment.compile(source, raw=True)
    except jinja2.TemplateSyntaxError as error:
        raise no_jinja(error) from None
    except Exception as error:  # it reads deep brackets by recursion, and numbers with int()
        raise _unreadable(first_line(error)) from None


def no_jinja(error: TemplateSyntaxError) -> ModelError:
    """The error of a template that Jinja cannot read."""
    return _unreadable(_("Line {line}: {what}").format(line=error.lineno, what=first_line(error)))


def _unreadable(detail: str) -> ModelError:
    return ModelError(
        _("the chat template is no Jinja that can be read"),
        detail,
        _("Mend it, or name another with --chat-template."),
    )


def put_template(tokenizer: Any, setting: str) -> None:
    """Have `tokenizer` write turns as --chat-template says. Raises ConfigError as `template_source`, ModelError where the tokenizer
    has not the tokens that the template needs."""
    source = template_source(setting)
    if source is None:
        return
    missing = [token for token in TOKENS.get(setting, ()) if token not in tokenizer.get_vocab()]
    if missing:
        raise ModelError(
            _("--chat-template {name}: this model's tokenizer has no {tokens}").format(
                name=setting, tokens=_(" and no ").join(missing)
            ),
            _("Written in pieces it would end no answer."),
            _("Take --chat-template plain, which needs no such token."),
        )
    if setting in NAMED and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]:
        source = "{{- bos_token -}}\n" + source  # as it writes it before any other text
    tokenizer.chat_template = source


def with_template(files_digest: str, setting: str) -> str:
    """The digest of a tokenizer's files and the template that is put into it; theirs alone where that is the model's own. Raises
    ConfigError as `template_source`."""
    source = template_source(setting)
    return files_digest if source is None else hashlib.sha256(f"{files_digest}\0{source}".encode()).hexdigest()


def is_named(setting: str) -> bool:
    """Whether `setting` is a word and no path."""
    return setting == MODELS_OWN or setting in NAMED
