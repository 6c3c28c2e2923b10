"""What a chat consists of while it runs: the conversation, its file, the model, the settings, and what shows it all.

Everything that happens to a conversation goes through `Chat.record`: first it is on the disk, then it is so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.cli.chat.model import ChatModel
from llmrun.cli.chat.turns import AnswerView
from llmrun.engines.conversation.conversation import Conversation, replay
from llmrun.engines.conversation.records import MessageRecord, ModelRecord, Record, RewindRecord
from llmrun.engines.conversation.session_file import SessionFile
from llmrun.engines.conversation.sessions import now
from llmrun.engines.conversation.window import Overflow
from llmrun.engines.prepare import Prepared
from llmrun.engines.prompting import conversation_prompt
from llmrun.engines.types import SamplingOptions, Stats
from llmrun.errors import LlmrunError
from llmrun.models.prompt.conversation import Message, RenderedPrompt, Renderer

__all__ = ["Attachment", "Chat", "Leave", "Settings", "count_turns", "describe_error", "shortened"]


_SHOWN_CHARACTERS = 60


class Leave(Exception):
    """The user wants to end the chat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be changed while a chat runs.

    Attributes:
        sampling: How answers are chosen; its seed is not used.
        seed: The seed that was asked for; None: another one for each answer.
        overflow: What happens when the context is full.
        think: How reasoning is shown: `show`, `hide` or `dim`.
    """

    sampling: SamplingOptions
    seed: int | None
    overflow: Overflow
    think: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that goes with the next turn."""

    path: Path
    text: str


@dataclass
class Chat:
    """A chat that runs.

    Attributes:
        session: The file of the conversation.
        model: What answers.
        settings: How.
        view: Where it is shown.
        make_view: Makes another view for a way to show reasoning.
        renderer: Where chat templates run.
        is_interactive: Somebody is there, who can react to an error.
        conversation: As it stands.
        attachments: What goes with the next turn.
        interrupt: The descriptor that Ctrl-C makes readable while a turn is handled.
        retries: How often the newest turn was tried again.
        last_stats: Of the last answer, with the seconds to its first text.
    """

    session: SessionFile
    model: ChatModel
    settings: Settings
    view: AnswerView
    make_view: Callable[[str], AnswerView]
    renderer: Renderer
    is_interactive: bool
    conversation: Conversation = field(default_factory=Conversation)
    attachments: list[Attachment] = field(default_factory=list)
    interrupt: int = -1
    retries: int = 0
    last_stats: tuple[Stats, float] | None = None
    _said: set[str] = field(default_factory=set)
    _rendered: tuple[Prepared, tuple[Message, ...], RenderedPrompt] | None = None

    def record(self, *records: Record) -> None:
        """Write records to the session; with the first ones goes what answers. Then they are so."""
        if not self.session.exists:
            records = (self._model_record(), *records)
        self.session.append(*records)
        for record in records:
            self.conversation = self.conversation.apply(record)

    def use_session(self, session: SessionFile) -> None:
        """Go on with another session."""
        if session is not self.session:
            self.session.close()
        self.session = session
        self.conversation = replay(session.loaded.records if session.loaded else ())
        self.retries = 0

    def record_model(self) -> None:
        """Write down what answers from now on, if that is something else than before."""
        if not self.session.exists:
            return
        record, last = self._model_record(), self.conversation.model
        if last is None or (record.model, record.engine, record.context_length) != (
            last.model,
            last.engine,
            last.context_length,
        ):
            self.record(record)

    def _model_record(self) -> ModelRecord:
        return ModelRecord(
            time=now(),
            model=self.model.name,
            engine=self.model.engine,
            engine_asked=self.model.request.engine,
            context_length=self.model.context_length,
        )

    def set_system(self, text: str) -> None:
        """Change the system message; before the first turn it waits for it."""
        record = MessageRecord(time=now(), role="system", content=text)
        if self.session.exists:
            self.record(record)
        else:
            self.conversation = self.conversation.apply(record)

    def rewind(self, messages: int, reason: str) -> None:
        """Take back the newest messages."""
        if messages:
            self.record(RewindRecord(time=now(), messages=messages, reason=reason))

    def render(self, messages: tuple[Message, ...]) -> RenderedPrompt:
        """Return what the model is to see; it is counted first and sent then, and rendered once for both."""
        asked = (self.model.prepared, messages)
        if self._rendered is None or self._rendered[0] is not asked[0] or self._rendered[1] != messages:
            self._rendered = (*asked, conversation_prompt(*asked, self.renderer))
        return self._rendered[2]

    def notice_once(self, *texts: str) -> None:
        """Show notices that were not shown before; with --quiet none."""
        for text in texts:
            if text not in self._said and not self.model.request.quiet:
                self._said.add(text)
                self.view.notice(text)


def describe_error(error: LlmrunError) -> str:
    """Return an error as one line."""
    return f"error: {error.message}" + (f" (fix: {error.fix})" if error.fix else "")


def count_turns(count: int) -> str:
    """Return a number of turns in words: `1 turn`, `1,204 turns`."""
    return f"{count:,} turn{'' if count == 1 else 's'}"


def shortened(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return the beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
