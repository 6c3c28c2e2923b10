"""Turns a conversation into the text that a model was trained on: one way, for every engine.

Which template: the file's own; else the catalogue's, for the family the model belongs to; else none, and then the
prompt is sent as it is, with a notice. A template is never guessed, because a wrong one makes a good model look bad.

Text from users and files never becomes a control token (`prompt_guard` has the method). With `--raw` the user writes
the template himself: what was typed may hold control tokens, what was read from files and pipes may not.

If a template writes the beginning-of-sequence token it stays in the text; whoever tokenizes adds none then.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from llmrun.errors import ModelNotFoundError, SecurityError, UsageError
from llmrun.models.catalogue import find_family
from llmrun.models.prompt.guard import ContentGuard
from llmrun.models.prompt.render import TemplateRefusalError
from llmrun.models.types import ModelFormat, ModelInfo, Segment, SpecialTokens
from llmrun.values import value

__all__ = [
    "ChatTemplate",
    "Message",
    "RenderedPrompt",
    "Renderer",
    "choose_template",
    "completion_prompt",
    "raw_prompt",
    "render_prompt",
]

Role = Literal["system", "user", "assistant"]
_TEMPLATES = Path(__file__).with_name("templates")


@value
class Message:
    """One turn of a conversation, or the system message in front of it."""

    role: Role
    content: str


@value
class ChatTemplate:
    """A template and where it came from.

    Attributes:
        source: Jinja.
        origin: For the user: `GGUF header`, `catalogue: llama-2-chat`.
    """

    source: str
    origin: str


@value
class RenderedPrompt:
    """What a model sees.

    Attributes:
        segments: To be tokenized one by one, in order.
        text: All of it, for people.
        template_source: Where the template came from, or why there is none.
        notices: What the user should know about it.
    """

    segments: tuple[Segment, ...]
    text: str
    template_source: str
    notices: tuple[str, ...] = ()


class Renderer(Protocol):
    """Renders Jinja; `render.TemplateRenderer` is the one that may be given templates of strangers."""

    def render(
        self,
        source: str,
        messages: Sequence[Mapping[str, str]],
        special_tokens: Mapping[str, str],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return what the template makes of the conversation."""


def choose_template(info: ModelInfo) -> ChatTemplate | None:
    """Return the template for a model: its own, or the catalogue's for its family, or None."""
    if info.chat_template and info.chat_template.strip():
        origin = "GGUF header" if info.format is ModelFormat.GGUF else "model folder"
        return ChatTemplate(source=info.chat_template, origin=origin)
    if info.family is None:
        return None
    try:
        family = find_family(info.family)
    except ModelNotFoundError:
        return None
    if family.template is None:
        return None
    source = (_TEMPLATES / f"{family.template}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source=source, origin=f"catalogue: {family.template}")


def render_prompt(
    template: ChatTemplate,
    messages: Sequence[Message],
    renderer: Renderer,
    *,
    special_tokens: SpecialTokens,
    control_tokens: Iterable[str],
    always_parsed: Iterable[str] = (),
    variables: Mapping[str, Any] | None = None,
) -> RenderedPrompt:
    """Render a conversation with a model's template.

    Args:
        template: From `choose_template`.
        messages: An optional system message, then the turns.
        renderer: Where the template runs.
        special_tokens: Their texts are handed to the template.
        control_tokens: Texts of all control tokens of the vocabulary.
        always_parsed: Texts of user-defined tokens, which engines recognise even in plain text. Those that the
            template frames turns with are kept out of content too.
        variables: More for the template, such as `enable_thinking`.

    Raises:
        UsageError: The conversation is not one, or the template refuses it.
        ModelFileError: The template is broken.
        SecurityError: The template tries to run code, or would make control tokens of what users wrote.
        EngineTimeoutError: The template does not end.
    """
    _check(messages)
    named = _named_tokens(special_tokens)
    guard = ContentGuard(
        (*control_tokens, *filter(None, named.values())),
        _framing(always_parsed, template, named, messages),
        [template.source, *named.values(), *(message.content for message in messages)],
    )
    ask = partial(renderer.render, template.source, special_tokens=named, variables=variables)
    marked = [{"role": message.role, "content": guard.mark(message.content)} for message in messages]
    text, merged = _render_with_system(ask, marked)
    if any(guard.has_pieces(message.content) for message in messages):
        harmless = [{"role": message.role, "content": guard.blank(message.content)} for message in messages]
        expected = ask(_merge_system(harmless) if merged else harmless)
        if guard.control_tokens_of(text) != guard.control_tokens_of(expected):
            raise SecurityError(
                "the model's chat template would make control tokens of text in the prompt",
                fix="leave out what looks like a control token, such as <|im_end|>, or use --raw",
            )
    notice = "the model's chat template has no place for a system message: it was put in front of the first message"
    return RenderedPrompt(
        segments=guard.segments(text),
        text=guard.clean(text),
        template_source=template.origin,
        notices=(notice,) if merged else (),
    )


def completion_prompt(
    messages: Sequence[Message], *, special_tokens: SpecialTokens, control_tokens: Iterable[str] = ()
) -> RenderedPrompt:
    """Return a conversation as plain text for a model that has no template: it will continue the text."""
    _check(messages)
    # An answer continued what was before it; anything else begins anew.
    breaks = ("\n\n" if index and message.role != "assistant" else "" for index, message in enumerate(messages))
    text = "".join(gap + message.content for gap, message in zip(breaks, messages, strict=True))
    guard = ContentGuard((*control_tokens, *filter(None, _named_tokens(special_tokens).values())), (), [text])
    return RenderedPrompt(
        segments=_plain(guard, text),
        text=text,
        template_source="none (raw completion)",
        notices=(
            "this model carries no chat template, and the catalogue has none for it: "
            "it gets the prompt as it is, and continues it",
        ),
    )


def raw_prompt(typed: str, attached: Sequence[str] = (), control_tokens: Iterable[str] | None = None) -> RenderedPrompt:
    """Return a prompt without a template: what was read, then what was typed, with empty lines between.

    Args:
        typed: The argument of the command; control tokens in it are meant.
        attached: Contents of files and standard input; control tokens in them stay text.
        control_tokens: Texts of all control tokens. Without them, what is attached is kept apart from what is typed
            even where it is harmless.
    """
    read = "\n\n".join(attached)
    separated = read + "\n\n" if read and typed else read
    guard = ContentGuard(control_tokens or (), (), [typed, read])
    text = separated + typed
    if not read or (control_tokens is not None and not guard.has_pieces(read)):
        segments = [Segment(text=text, special=True)]
    else:
        # One end of the text is not to meet the other: a token could come of it.
        segments = [*_plain(guard, separated), Segment(text=typed, special=True)]
    return RenderedPrompt(
        segments=tuple(segment for segment in segments if segment.text), text=text, template_source="none (--raw)"
    )


def _plain(guard: ContentGuard, text: str) -> tuple[Segment, ...]:
    """Return text in which no control token is looked for."""
    return tuple(Segment(text=part.text, special=False) for part in guard.segments(guard.mark(text)))


def _check(messages: Sequence[Message]) -> None:
    if not any(message.role == "user" for message in messages):
        raise UsageError("there is no message to answer")
    for index, message in enumerate(messages):
        if message.role not in {"system", "user", "assistant"}:
            raise UsageError(f"no role is called {message.role}: use system, user or assistant")
        if message.role == "system" and index:
            raise UsageError("a system message must be the first one")


def _named_tokens(tokens: SpecialTokens) -> dict[str, str]:
    """Return special tokens under the names that templates use. Most take the first two for granted."""
    named = {"bos_token": tokens.bos or "", "eos_token": tokens.eos or ""}
    return named | {
        name: text for name, text in (("unk_token", tokens.unk), ("pad_token", tokens.pad)) if text is not None
    }


def _framing(
    tokens: Iterable[str], template: ChatTemplate, named: Mapping[str, str], messages: Sequence[Message]
) -> list[str]:
    """Return the user-defined tokens that frame turns in this template.

    A vocabulary has user-defined tokens of many kinds (runs of spaces, HTML tags); those stay as they are. So do those
    that the model itself wrote, such as `</think>`, which templates look for to leave its reasoning out.
    """
    answers = [message.content for message in messages if message.role == "assistant"]
    return [
        token
        for token in tokens
        if token.startswith(("<", "["))
        and (token in template.source or token in named.values())
        and not any(token in answer for answer in answers)
    ]


def _render_with_system(ask: "partial[str]", messages: list[dict[str, str]]) -> tuple[str, bool]:
    """Render; where the template refuses a system message or leaves it out, put it in front of the first turn.

    Returns:
        The text, and whether the system message was moved.
    """
    if messages[0]["role"] != "system":
        return ask(messages), False
    try:
        text = ask(messages)
    except TemplateRefusalError:
        return ask(_merge_system(messages)), True
    wanted = messages[0]["content"].strip()
    if wanted in text:
        return text, False
    merged = ask(_merge_system(messages))
    return (merged, True) if wanted in merged else (text, False)


def _merge_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, first, *rest = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]
