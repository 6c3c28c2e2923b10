"""From a conversation to the segments that an engine tokenizes, with the template and tokens of the prepared model."""

from collections.abc import Sequence
from dataclasses import replace

from llmrun.engines.prepare import Prepared
from llmrun.models.prompt.conversation import (
    Message,
    RenderedPrompt,
    Renderer,
    choose_template,
    completion_prompt,
    raw_prompt,
    render_prompt,
)

__all__ = ["conversation_prompt", "remember_tokens", "verbatim_prompt"]

_HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
"""Tokens that llama.cpp recognises in plain text whatever type their file gives them. Source: llama-vocab.cpp."""
_LEGACY_TOKENS = ("<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")
"""Control tokens of the vocabularies that legacy files carry, which do not mark them as such."""


def conversation_prompt(prepared: Prepared, messages: Sequence[Message], renderer: Renderer) -> RenderedPrompt:
    """Render a conversation with the model's template, or as plain text (with a notice) where it has none.

    Raises:
        LlmrunError: The template is broken, refuses the conversation, or does what it must not.
    """
    info = prepared.info
    control, user_defined = _added_tokens(prepared)
    template = choose_template(info)
    if template is None:
        return completion_prompt(messages, special_tokens=info.special_tokens, control_tokens=control)
    # llama.cpp finds user-defined tokens in any text. Those that the template is made of steer the model as control
    # tokens do; the others (runs of spaces, HTML tags) are ordinary words.
    defined = (*user_defined, *_HARMONY_TOKENS)
    steering = {text for text in defined if not text.isspace() and text in template.source}
    return render_prompt(
        template,
        messages,
        renderer,
        special_tokens=info.special_tokens,
        control_tokens=control,
        always_parsed=sorted(steering - set(control)),
    )


def verbatim_prompt(prepared: Prepared, typed: str, attached: Sequence[str]) -> RenderedPrompt:
    """Return a prompt without a template; control tokens in what was typed are meant, in what was read they are not."""
    return raw_prompt(typed, attached, _added_tokens(prepared)[0])


def remember_tokens(prepared: Prepared) -> Prepared:
    """Return the same with the texts of added tokens in it, so that many prompts do not read them many times."""
    return replace(prepared, subject=replace(prepared.subject, added_tokens=_added_tokens(prepared)))


def _added_tokens(prepared: Prepared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of control tokens, and of tokens that engines find in any text."""
    if prepared.subject.added_tokens is not None:
        return prepared.subject.added_tokens
    if prepared.model.path.is_dir():
        from llmrun.models.huggingface.control_tokens import read_added_tokens
        from llmrun.models.huggingface.folder import LocalFolder

        return read_added_tokens(LocalFolder(prepared.model.path))
    return _LEGACY_TOKENS, ()
