"""Makes the conversation fit the context, and says what that took: turns left out, a refusal, or a summary of them."""

from dataclasses import replace

from llmrun.cli.chat.state import Chat
from llmrun.engines.client import Interrupted
from llmrun.engines.conversation.reasoning import opening_mark, split_answer
from llmrun.engines.conversation.records import SummaryRecord, WindowRecord
from llmrun.engines.conversation.sessions import now
from llmrun.engines.conversation.window import Window, answer_room, fit
from llmrun.engines.types import Delta, Done
from llmrun.errors import PromptTooLongError
from llmrun.models.prompt.conversation import Message, RenderedPrompt

__all__ = ["count_messages", "fitted_prompt"]

_ASK_SUMMARY = (
    "Summarize our conversation so far, so that it can be continued from your summary alone. "
    "Keep names, numbers, decisions, and what is still open. Write the summary and nothing else."
)
_SUMMARY_SHARE = 8
_LARGEST_SUMMARY = 1024


def count_messages(chat: Chat, messages: tuple[Message, ...]) -> int:
    """Return how many tokens some messages are to the model, with the frame that its template gives them."""
    return chat.model.count(chat.render(messages).segments)


def fitted_prompt(chat: Chat) -> RenderedPrompt:
    """Return the prompt for the newest turn; when the context is too small, do what was asked for in that case.

    Raises:
        PromptTooLongError: The newest turn alone is too long, or turns would have to leave and must not.
        Interrupted: Ctrl-C, while a summary was written.
    """
    window = _window(chat)
    if window.first > chat.conversation.left_out:
        if chat.settings.overflow == "stop":
            raise _full(chat, window)
        if chat.settings.overflow == "summarize" and _summarize(chat, window):
            window = _window(chat)
        if window.first > chat.conversation.left_out:
            _leave_out(chat, window)
    return chat.render(chat.conversation.messages())


def _window(chat: Chat) -> Window:
    conversation = chat.conversation
    return fit(
        lambda first: count_messages(chat, conversation.messages(first)),
        len(conversation.turns),
        conversation.left_out,
        chat.model.context_length,
        answer_room(chat.model.context_length, chat.settings.sampling.max_tokens),
    )


def _leave_out(chat: Chat, window: Window) -> None:
    leaving = window.first - chat.conversation.left_out
    chat.record(WindowRecord(time=now(), turns=window.first, tokens=window.freed_tokens))
    chat.view.notice(f"{_turns(leaving)} left out, {window.freed_tokens:,} tokens")


def _turns(count: int) -> str:
    return f"{count:,} oldest turns" if count > 1 else "the oldest turn"


def _full(chat: Chat, window: Window) -> PromptTooLongError:
    context_length = chat.model.context_length
    room = answer_room(context_length, chat.settings.sampling.max_tokens)
    return PromptTooLongError(
        f"the conversation has {window.tokens + window.freed_tokens:,} tokens and the context holds "
        f"{context_length:,}, of which {room:,} are kept for the answer",
        fix="/clear, /set on-overflow drop-oldest, or a larger --context-length",
    )


def _summarize(chat: Chat, window: Window) -> bool:
    """Have the model summarize the turns that leave; False if nothing came of it."""
    conversation, context_length = chat.conversation, chat.model.context_length
    room = max(1, min(_LARGEST_SUMMARY, context_length // _SUMMARY_SHARE))
    leaving = conversation.messages(last=window.first)
    rendered = chat.render((*leaving, Message(role="user", content=_ASK_SUMMARY)))
    if chat.model.count(rendered.segments) + room > context_length:
        chat.view.notice("the oldest turns are too long to be summarized")
        return False
    chat.view.notice(f"the context is full: summarizing {_turns(window.first - conversation.left_out)}")
    options = replace(
        chat.settings.sampling, max_tokens=room, temperature=0.0, repeatable=True, continues=True, stop=(),
        json_schema=None, grammar=None,
    )  # fmt: skip
    worker, text = chat.model.worker, ""
    worker.interrupt_descriptor = chat.interrupt
    try:
        for event in worker.generate(rendered.segments, options):
            text += event.text if isinstance(event, Delta) else ""
    except Interrupted:
        _finish_cancelled(chat)
        raise
    finally:
        worker.interrupt_descriptor = None
    return _keep_summary(chat, window, split_answer(text, opening_mark(rendered.text))[0].strip())


def _finish_cancelled(chat: Chat) -> None:
    """Have the engine stop, and pass over what it still says."""
    worker = chat.model.worker
    worker.interrupt_descriptor = None
    for event in worker.cancel():
        if isinstance(event, Done):
            return


def _keep_summary(chat: Chat, window: Window, summary: str) -> bool:
    if not summary:
        chat.view.notice("the model wrote no summary")
        return False
    leaving = window.first - chat.conversation.left_out
    chat.record(SummaryRecord(time=now(), turns=window.first, content=summary, model=chat.model.name))
    chat.view.notice(f"{_turns(leaving)} left out; the model keeps a summary of them, which /show prompt has")
    return True
