"""The commands that reach outside the conversation: /model, /save, /load, /export, /file, /copy."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llmrun.cli.chat.attachments import read_attachment
from llmrun.cli.chat.clipboard import copy_text
from llmrun.cli.chat.export import export_conversation
from llmrun.cli.chat.model import ChatModel, ModelRequest
from llmrun.cli.chat.state import Chat, count_turns, shortened
from llmrun.cli.preparing import prepare_asked
from llmrun.engines.conversation.records import MessageRecord
from llmrun.engines.conversation.session_file import read_session
from llmrun.engines.conversation.sessions import check_name, open_session, session_names, session_path
from llmrun.engines.prepare import Prepared
from llmrun.errors import LlmrunError, NotEnoughMemoryError, NoUsableEngineError, UsageError

__all__ = ["copy", "describe_session", "export", "file", "load", "model", "save", "show_last_turn"]


def model(chat: Chat, text: str) -> None:
    """Go on with another model; the one before stays if that one cannot be had."""
    if not text:
        chat.view.notice(f"{chat.model.short_name} on {chat.model.engine}")
        return
    request = replace(chat.model.request, model=text, draft=None)  # another model has another vocabulary
    with _plain_interrupts():
        request, prepared = _prepare_on_some_engine(chat, request)
    chat.view.notice("".join(f"{note}; " for note in chat.model.close()) + f"loading {text}, on {prepared.plan.engine}")
    before, chat.model = chat.model, ChatModel(request, prepared)
    chat.notice_once(*prepared.notices)
    try:
        chat.model.wait(chat.interrupt)
    except LlmrunError:
        chat.model.close()
        chat.view.notice(f"going back to {before.request.model}")
        before.restart()
        chat.model = before
        raise
    chat.record_model()
    chat.view.notice(f"{chat.model.short_name} on {chat.model.engine}, context {chat.model.context_length:,} tokens")


def _prepare_on_some_engine(chat: Chat, request: ModelRequest) -> tuple[ModelRequest, Prepared]:
    """Prepare a model on the engine that was asked for; if that cannot have it, on any."""
    try:
        return request, _prepare_beside(chat, request)
    except (NoUsableEngineError, UsageError):
        if request.engine is None:
            raise
    request = replace(request, engine=None)
    return request, _prepare_beside(chat, request)


def _prepare_beside(chat: Chat, request: ModelRequest) -> Prepared:
    """Prepare a model while another one is loaded; if both do not fit in memory, without that one."""
    try:
        return prepare_asked(request, chat.settings.sampling)
    except NotEnoughMemoryError:
        chat.model.close()
    try:
        return prepare_asked(request, chat.settings.sampling)
    except BaseException:
        chat.model.restart()
        raise


@contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Have Ctrl-C end what cannot watch a descriptor: a download."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def save(chat: Chat, text: str) -> None:
    """Copy the conversation into a new session, and go on in it."""
    name = check_name(text)
    if session_path(name).exists():
        raise UsageError(f"there is a session {name} already", fix=f"/load {name}, or another name")
    records = read_session(chat.session.path).records if chat.session.exists else ()
    session = open_session(name)
    if records:
        session.append(*records)
        chat.session.close()
    chat.session = session
    chat.view.notice(f"the conversation goes on as {name}" + ("" if records else ", once something was said"))


def load(chat: Chat, text: str) -> None:
    """Go on with another session; the model stays."""
    name = check_name(text)
    if not session_path(name).exists():
        from difflib import get_close_matches

        near = get_close_matches(name, session_names(), n=1)
        raise UsageError(f"there is no session {name}", fix=f"/load {near[0]}" if near else "/sessions lists them")
    if chat.session.exists and session_path(name) == chat.session.path:
        raise UsageError(f"this is the session {name}")
    session = open_session(name)
    chat.use_session(session)
    chat.view.notice(describe_session(chat))
    show_last_turn(chat)
    chat.record_model()


def describe_session(chat: Chat) -> str:
    """Return which session goes on, and where it is; an answer that is missing is said."""
    conversation, session = chat.conversation, chat.session
    parts = [f"session {session.path.stem}: {count_turns(len(conversation.turns))}"]
    if conversation.model and conversation.model.model != chat.model.name:
        parts.append(f"it was with {conversation.model.model} before")
    if session.loaded and session.loaded.torn_bytes:
        parts.append(f"its last line was cut off ({session.loaded.torn_bytes:,} bytes) and was removed")
    if not conversation.is_answered:
        parts.append("its last turn has no answer: /retry gives it one")
    return "; ".join(parts)


def show_last_turn(chat: Chat) -> None:
    """Show where the conversation is."""
    turn = chat.conversation.turns[-1] if chat.conversation.turns else None
    if turn is None or turn.answer is None:
        return
    chat.view.notice(f"> {shortened(turn.question.content)}")
    chat.view.begin()
    chat.view.feed(turn.answer.content)
    chat.view.end(cancelled=turn.answer.cancelled)


def export(chat: Chat, text: str) -> None:
    """Write the conversation to a new file."""
    if not text:
        raise UsageError("/export wants the name of a file", fix="/export FILE.md, or /export FILE.json")
    if not chat.conversation.turns:
        raise UsageError("nothing was said yet")
    path = Path(text).expanduser()
    export_conversation(chat.conversation, path)
    chat.view.notice(f"written: {path}")


def file(chat: Chat, text: str) -> None:
    """Have a file go with the next turn, or take files back."""
    if not text:
        count = len(chat.attachments)
        chat.attachments.clear()
        chat.view.notice(f"{count} file{'' if count == 1 else 's'} taken back" if count else "no file waits")
        return
    attachment, notices = read_attachment(Path(text).expanduser())
    chat.attachments.append(attachment)
    chat.view.notice(
        "; ".join([*notices, f"{attachment.path.name} ({len(attachment.text):,} characters) goes with the next turn"])
    )


def copy(chat: Chat, _text: str) -> None:
    """Put the last answer on the clipboard."""
    answers = [turn.answer for turn in chat.conversation.turns if turn.answer is not None]
    if not answers:
        raise UsageError("there is no answer yet")
    last: MessageRecord = answers[-1]
    chat.view.notice(f"copied {len(last.content):,} characters {copy_text(last.content)}")
