"""What `llmrun chat` does: find the session and the model, then turn after turn until the user leaves.

The model loads while the user types the first turn. Ctrl-C, from the end of a turn to the next prompt, raises nothing:
it makes a descriptor readable that whatever takes time watches, so that nothing is ever left half written.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llmrun.cli import early
from llmrun.cli.chat.answer import take_turn
from llmrun.cli.chat.attachments import read_attachment
from llmrun.cli.chat.commands import command_words, run_command
from llmrun.cli.chat.commands_files import describe_session, show_last_turn
from llmrun.cli.chat.model import ChatModel, ModelRequest
from llmrun.cli.chat.piped import DumbReader, PipedReader, PipedView
from llmrun.cli.chat.state import Chat, Leave, Settings, describe_error
from llmrun.cli.chat.turns import AnswerView, TurnReader
from llmrun.cli.preparing import prepare_asked
from llmrun.cli.signals import interrupt_descriptor
from llmrun.engines.client import Interrupted
from llmrun.engines.conversation.conversation import replay
from llmrun.engines.conversation.session_file import SessionFile
from llmrun.engines.conversation.sessions import new_name, newest_session, open_session
from llmrun.engines.selection.select import fallback_notice
from llmrun.engines.types import EngineName
from llmrun.errors import LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.cli.chat.screen.thinking import Think

__all__ = ["ChatRequest", "execute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """The command line of `chat`, checked.

    `model` without a reference takes that of the session.
    """

    model: ModelRequest
    session: str | None
    continues: bool
    settings: Settings
    system: str | None
    files: tuple[Path, ...]
    plain: bool


def execute(request: ChatRequest) -> None:
    """Hold a conversation.

    Raises:
        LlmrunError: It cannot begin, or cannot go on; every turn so far is in the session.
        SystemExit: 130 after Ctrl-C in an answer when nobody is there.
    """
    session = _find_session(request)
    try:
        _with_session(request, session)
    finally:
        session.close()


def _find_session(request: ChatRequest) -> SessionFile:
    if not request.continues:
        return open_session(request.session or new_name())
    newest = newest_session()
    if newest is None:
        raise UsageError("there is no session to continue", fix="llmrun chat MODEL begins one")
    return open_session(newest)


def _with_session(request: ChatRequest, session: SessionFile) -> None:
    conversation = replay(session.loaded.records if session.loaded else ())
    wanted = request.model
    if not wanted.model:
        last = conversation.model
        if last is None:
            raise UsageError("which model?", fix="llmrun chat MODEL; llmrun models list shows those that are here")
        asked = next((name for name in EngineName if name == last.engine_asked), None)
        wanted = replace(wanted, model=last.model, engine=wanted.engine or asked)
    attachments = [read_attachment(path) for path in request.files]
    prepared = prepare_asked(wanted, request.settings.sampling)
    is_interactive, view, make_view, make_reader = _terminal(request)
    with early.take_renderer() as renderer:
        chat = Chat(
            session=session,
            model=ChatModel(wanted, prepared),
            settings=request.settings,
            view=view,
            make_view=make_view,
            renderer=renderer,
            is_interactive=is_interactive,
            conversation=conversation,
            attachments=[attachment for attachment, _ in attachments],
        )
        try:
            fallback = fallback_notice(prepared.selection, wanted.model)
            odd = [notice for _, notices in attachments for notice in notices]
            chat.notice_once(*odd, *prepared.notices, *((fallback,) if fallback else ()))
            _begin(chat, request)
            _talk(chat, make_reader(chat))
            if is_interactive and chat.session.exists and not wanted.quiet:
                chat.view.notice(f"session {chat.session.path.stem}; llmrun chat --continue goes on with it")
        finally:
            chat.session.close()
            for notice in chat.model.close():
                chat.view.notice(notice)


def _terminal(
    request: ChatRequest,
) -> tuple[bool, AnswerView, Callable[[str], AnswerView], Callable[[Chat], TurnReader]]:
    """Return whether somebody is there, and what reads and shows."""
    is_interactive = _is_terminal(0) and _is_terminal(1)

    def make_plain(think: str) -> PipedView:
        quiet = request.model.quiet and not is_interactive
        return PipedView(hide_reasoning=think == "hide", quiet=quiet, marks_stopped=is_interactive)

    plain = make_plain(request.settings.think)
    if not is_interactive:
        return False, plain, make_plain, lambda _chat: PipedReader(plain)
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        return True, plain, make_plain, lambda _chat: DumbReader(plain)
    from llmrun.cli.chat.screen.keyboard import Keyboard
    from llmrun.cli.chat.screen.view import screen_view

    keyboard = Keyboard()

    def make_view(think: str) -> AnswerView:
        return screen_view(think=cast("Think", think), plain=request.plain, keyboard=keyboard)

    def make_reader(_chat: Chat) -> TurnReader:
        from llmrun.cli.chat.screen.input import screen_reader

        return screen_reader(keyboard)

    return True, make_view(request.settings.think), make_view, make_reader


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _begin(chat: Chat, request: ChatRequest) -> None:
    """Say what goes on, where somebody reads it, and what is odd about the session."""
    if request.system is not None and request.system != chat.conversation.system:
        chat.set_system(request.system)
    loaded = chat.session.loaded
    is_talkative = chat.is_interactive and not request.model.quiet
    if is_talkative:
        chat.view.notice(
            f"{chat.model.short_name} on {chat.model.engine}, context {chat.model.context_length:,} tokens; "
            "/help lists the commands, Ctrl-D leaves"
        )
    if loaded is not None and (is_talkative or loaded.torn_bytes or not chat.conversation.is_answered):
        chat.view.notice(describe_session(chat))
    if is_talkative:
        show_last_turn(chat)


def _talk(chat: Chat, reader: TurnReader) -> None:
    """Take turns until the user leaves. Where somebody is there, a Ctrl-C between two of them ends nothing."""
    while True:
        try:
            text = reader.read()
            with interrupt_descriptor() as descriptor:
                chat.interrupt = descriptor
                _guarded(chat, text)
        except (EOFError, Leave):
            return
        except KeyboardInterrupt:
            if not chat.is_interactive:
                raise


def _guarded(chat: Chat, text: str) -> None:
    """Do what a line says; where somebody is there, an error is a line, and the chat goes on."""
    try:
        _handle(chat, text)
    except (Interrupted, KeyboardInterrupt):
        chat.view.notice("stopped")
    except LlmrunError as error:
        if not chat.is_interactive or chat.model.has_failed:
            raise
        chat.view.notice(describe_error(error))


def _handle(chat: Chat, text: str) -> None:
    """Do what a line says: answer it, or carry out the command that it is."""
    words = command_words(text) if chat.is_interactive else None
    if words is not None:
        run_command(chat, *words)
    elif text.strip() or chat.attachments:
        take_turn(chat, text.removeprefix("/") if chat.is_interactive and text.startswith("//") else text)
