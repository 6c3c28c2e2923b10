"""Cuts prompts of a batch that are longer than the context, if that is wanted.

What may be cut is the prompt, or the last message of the user; a system message and the other turns stay whole.
"""

from collections.abc import Callable
from dataclasses import replace

from llmrun.engines.batch.request import BatchItem
from llmrun.engines.client import WorkerClient
from llmrun.engines.conversation.shorten import Overflow, Shortened, reserved_tokens, shorten
from llmrun.models.prompt.conversation import Message, RenderedPrompt

__all__ = ["Fitter"]

_EXTRA_TOKENS = 8  # that a tokenizer may add to what is in the text


class Fitter:
    """Knows which prompts may be too long, and cuts those that are.

    Args:
        policy: What to leave out.
        render: Turns a request into what the model sees.
    """

    def __init__(self, policy: Overflow, render: Callable[[BatchItem], RenderedPrompt]) -> None:
        self._policy = policy
        self._render = render

    def may_be_too_long(self, item: BatchItem, rendered: RenderedPrompt, context_length: int) -> bool:
        """Whether the tokens have to be counted: there are never more of them than bytes."""
        if self._policy == "error":
            return False
        room = context_length - reserved_tokens(context_length, item.sampling.max_tokens)
        return len(rendered.text.encode()) + _EXTRA_TOKENS > room

    def fit(self, item: BatchItem, worker: WorkerClient) -> tuple[RenderedPrompt, Shortened | None]:
        """Return the prompt as it fits, and what was left out of it; the worker, which is idle, counts.

        Raises:
            PromptTooLongError: What may not be cut does not fit by itself.
        """
        index = max(index for index, message in enumerate(item.messages) if message.role == "user")

        def render(text: str) -> RenderedPrompt:
            messages = list(item.messages)
            messages[index] = Message(role="user", content=text)
            return self._render(replace(item, messages=tuple(messages)))

        whole = item.messages[index].content
        shortened = shorten(
            whole,
            self._policy,
            context_length=worker.wait_loaded(),
            max_tokens=item.sampling.max_tokens,
            count=lambda text: len(worker.tokenize(render(text).segments)),
        )
        return render(whole if shortened is None else shortened.text), shortened
