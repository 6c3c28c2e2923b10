"""From what the user gave to the prompt that the model sees, and cut to fit if that is wanted."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.cli import early
from llmrun.cli.prompt_input import PromptInput
from llmrun.engines.prepare import Prepared
from llmrun.engines.prompting import conversation_prompt, verbatim_prompt
from llmrun.models.prompt.conversation import Message, RenderedPrompt
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.engines.client import WorkerClient
    from llmrun.engines.conversation.shorten import Overflow, Shortened

__all__ = ["ModelPrompt", "render_fitting", "render_whole"]

_Render = Callable[[tuple[str, ...]], RenderedPrompt]


@value
class ModelPrompt:
    """What was given, what the model sees of it, and what was left out, if anything was."""

    given: PromptInput
    rendered: RenderedPrompt
    shortened: "Shortened | None" = None


def render_whole(prompt: PromptInput, prepared: Prepared, system: str | None, *, raw: bool) -> ModelPrompt:
    """Turn the prompt into what the model sees; if it is too long, the engine will say so."""
    if raw:
        return ModelPrompt(given=prompt, rendered=verbatim_prompt(prepared, prompt.typed or "", prompt.attached))
    with early.take_renderer() as renderer:
        messages = _messages(prompt.typed, prompt.attached, system)
        return ModelPrompt(given=prompt, rendered=conversation_prompt(prepared, messages, renderer))


def render_fitting(
    prompt: PromptInput,
    prepared: Prepared,
    system: str | None,
    *,
    raw: bool,
    policy: "Overflow",
    max_tokens: int | None,
    worker: "WorkerClient",
    context_length: int,
) -> ModelPrompt:
    """Do the same, and leave out of the attached text what does not fit; the worker, which is loaded, counts.

    Raises:
        PromptTooLongError: What was typed and the system prompt do not fit by themselves.
    """
    if raw:
        return _fit(
            lambda attached: verbatim_prompt(prepared, prompt.typed or "", attached),
            prompt,
            policy,
            max_tokens,
            worker,
            context_length,
        )
    with early.take_renderer() as renderer:
        return _fit(
            lambda attached: conversation_prompt(prepared, _messages(prompt.typed, attached, system), renderer),
            prompt,
            policy,
            max_tokens,
            worker,
            context_length,
        )


def _fit(
    render: _Render,
    prompt: PromptInput,
    policy: "Overflow",
    max_tokens: int | None,
    worker: "WorkerClient",
    context_length: int,
) -> ModelPrompt:
    from llmrun.engines.conversation.shorten import shorten

    def given(text: str) -> tuple[str, ...]:
        return (text,) if text else ()

    shortened = shorten(
        "\n\n".join(prompt.attached),
        policy,
        context_length=context_length,
        max_tokens=max_tokens,
        count=lambda text: len(worker.tokenize(render(given(text)).segments)),
    )
    sent = prompt.attached if shortened is None else given(shortened.text)
    return ModelPrompt(given=prompt, rendered=render(sent), shortened=shortened)


def _messages(typed: str | None, attached: tuple[str, ...], system: str | None) -> list[Message]:
    text = PromptInput(typed=typed, attached=attached, notices=()).text
    messages = [Message(role="user", content=text)]
    return [Message(role="system", content=system), *messages] if system else messages
