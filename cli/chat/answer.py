"""One answer: fit the conversation into the context, ask the engine, show what comes, write it down.

Whatever ends an answer, what there was of it is on the disk before this returns or raises. While the engine is heard,
Ctrl-C raises nothing: it makes a descriptor readable, which is watched together with the engine's messages.
"""

import os
import time
from dataclasses import dataclass, field, replace

from llmrun.cli.answering import events_until_stopped, heed
from llmrun.cli.chat.fitting import fitted_prompt
from llmrun.cli.chat.state import Chat, describe_error
from llmrun.cli.chat.turns import AnswerStatus, AnswerView
from llmrun.cli.options import LARGEST_SEED
from llmrun.engines.answer_fields import decode_rate, finish_notice
from llmrun.engines.client import Interrupted
from llmrun.engines.conversation.reasoning import Piece, ReasoningSplitter, opening_mark
from llmrun.engines.conversation.records import MessageRecord
from llmrun.engines.conversation.sessions import now
from llmrun.engines.types import Delta, Done, FinishReason, Notice, SamplingOptions, Stats
from llmrun.errors import (
    EngineCrashedError,
    EngineTimeoutError,
    ExitCode,
    LlmrunError,
    NotEnoughMemoryError,
    NoUsableEngineError,
)
from llmrun.models.prompt.conversation import RenderedPrompt

__all__ = ["answer_newest", "take_turn"]

_DEATHS = (EngineCrashedError, EngineTimeoutError, NotEnoughMemoryError, NoUsableEngineError)


def take_turn(chat: Chat, text: str) -> None:
    """Write down what the user said, and answer it."""
    content = "\n\n".join([*(attachment.text for attachment in chat.attachments), text])
    if not chat.conversation.is_answered:
        chat.rewind(1, "unanswered")
    first = [MessageRecord(time=now(), role="system", content=chat.conversation.system)]
    records = [] if chat.session.exists or not chat.conversation.system else first
    chat.record(*records, MessageRecord(time=now(), role="user", content=content))
    chat.attachments.clear()
    chat.retries = 0
    answer_newest(chat)


def answer_newest(chat: Chat) -> None:
    """Answer the newest turn; an engine that dies is started again, once.

    Raises:
        LlmrunError: There is no answer. The turn is in the session.
        SystemExit: 130 after Ctrl-C when nobody is there.
    """
    try:
        try:
            _answer(chat)
        except _DEATHS as error:
            if not _revive(chat, error):
                raise
            _answer(chat)
    except Interrupted:
        heed(chat.interrupt)
        chat.view.notice("stopped before the first word; the turn waits for /retry, or for another one in its place")
        if not chat.is_interactive:
            raise SystemExit(ExitCode.INTERRUPTED) from None


def _revive(chat: Chat, error: LlmrunError) -> bool:
    """Start an engine again that died, or the next one if it never worked; False if there is nothing to try."""
    following = chat.model.next_engine(error)
    if following is not None:
        chat.view.notice(f"{error.message}; trying {following.engine}")
        chat.model = following
        chat.notice_once(*following.prepared.notices)
        return True
    if not chat.is_interactive or chat.model.is_ready():
        return False
    chat.view.notice(f"{describe_error(error)}; nothing of the conversation is lost, and the model is loaded again")
    chat.model.restart()
    return True


def _answer(chat: Chat) -> None:
    started = time.perf_counter()
    if not chat.model.is_ready():
        chat.model.restart()
    chat.model.wait(chat.interrupt)
    chat.record_model()
    rendered = fitted_prompt(chat)
    chat.notice_once(*rendered.notices)
    sampling = answer_sampling(chat)
    streamed = Streamed(view=chat.view, opened=opening_mark(rendered.text))
    try:
        try:
            _stream(chat, rendered, sampling, streamed, started)
        except _DEATHS:
            raise  # it is begun again, or the turn waits for /retry
        except BaseException:  # nobody reads on, or this process is to end: what there is of it is kept
            _keep(chat, streamed, sampling)
            raise
        _keep(chat, streamed, sampling)
    finally:
        if streamed.begun:  # an answer whose line has ended is on the disk
            chat.view.end(cancelled=streamed.cancelled)
    _report(chat, streamed, sampling)


def answer_sampling(chat: Chat) -> SamplingOptions:
    """Return how the next answer is chosen: each has a seed of its own, unless one was asked for."""
    wanted, seed = chat.settings.sampling, chat.settings.seed
    any_seed = int.from_bytes(os.urandom(4)) if seed is None else seed + chat.retries
    return replace(
        wanted,
        seed=any_seed % (LARGEST_SEED + 1),
        repeatable=seed is not None or wanted.temperature == 0,
        continues=True,
    )


@dataclass
class Streamed:
    """What has come of an answer so far."""

    view: AnswerView
    opened: str  # the mark of reasoning that the template ended the prompt with
    content: str = ""
    reasoning: str = ""
    first_seconds: float = 0.0
    begun: bool = False
    done: Done | None = None
    splitter: ReasoningSplitter = field(init=False)

    def __post_init__(self) -> None:
        self.splitter = ReasoningSplitter(self.opened)

    def begin(self) -> None:
        """Show that it begins; what the template wrote of it already is shown as if the model had."""
        self.begun = True
        self.view.begin()
        if self.opened:
            self.view.feed(self.opened + "\n")

    def add(self, text: str) -> None:
        """Take a piece, and show it."""
        self._sort(self.splitter.feed(text))
        self.view.feed(text)

    def finish(self) -> None:
        """Take what was held back."""
        self._sort(self.splitter.finish())

    def _sort(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.kind == "reasoning":
                self.reasoning += piece.text
            else:
                self.content += piece.text

    @property
    def cancelled(self) -> bool:
        """Whether it was interrupted, or its engine had to be ended."""
        return self.done is None or self.done.finish_reason is FinishReason.CANCELLED


def _stream(
    chat: Chat, rendered: RenderedPrompt, sampling: SamplingOptions, streamed: Streamed, started: float
) -> None:
    """Show an answer as it comes."""
    worker = chat.model.worker
    worker.send_generate(rendered.segments, sampling)
    try:
        for event in events_until_stopped(worker, chat.interrupt):
            match event:
                case Delta():
                    if not streamed.begun:
                        streamed.first_seconds = time.perf_counter() - started
                        streamed.begin()
                    streamed.add(event.text)
                case Notice():
                    chat.notice_once(event.text)
                case Done():
                    streamed.done = event
        if not streamed.begun and not streamed.cancelled:
            streamed.begin()
    finally:
        streamed.finish()


def _keep(chat: Chat, streamed: Streamed, sampling: SamplingOptions) -> None:
    """Write an answer to the session, whole or not; nothing at all is no answer."""
    content = streamed.content.lstrip("\n") if streamed.reasoning else streamed.content
    if streamed.cancelled and not (content or streamed.reasoning):
        return
    stats = streamed.done.stats if streamed.done else None
    chat.record(
        MessageRecord(
            time=now(),
            role="assistant",
            content=content,
            reasoning=streamed.reasoning or None,
            finish_reason=FinishReason.CANCELLED if streamed.done is None else streamed.done.finish_reason,
            cancelled=streamed.cancelled,
            model=chat.model.name,
            engine=chat.model.engine,
            seed=sampling.seed,
            prompt_tokens=stats.prompt_tokens if stats else None,
            completion_tokens=stats.completion_tokens if stats else None,
            cached_tokens=stats.cached_tokens if stats else None,
        )
    )


def _report(chat: Chat, streamed: Streamed, sampling: SamplingOptions) -> None:
    """Say what it took, and what was odd about it."""
    if streamed.done is None:
        chat.view.notice(f"{chat.model.engine} did not stop within a second and was ended")
        if chat.is_interactive:
            chat.model.restart()
    else:
        stats = streamed.done.stats
        chat.last_stats = (stats, streamed.first_seconds)
        chat.view.status(_status(chat, stats, streamed.first_seconds))
        for text in finish_notice(streamed.done, f"max-tokens {sampling.max_tokens}", chat.model.context_length):
            chat.view.notice(text)
    if streamed.cancelled:
        if not (streamed.content or streamed.reasoning):
            chat.view.notice("stopped before the first word; the turn waits for /retry, or another one in its place")
        if not chat.is_interactive:
            raise SystemExit(ExitCode.INTERRUPTED)


def _status(chat: Chat, stats: Stats, first_seconds: float) -> AnswerStatus:
    return AnswerStatus(
        completion_tokens=stats.completion_tokens,
        decode_tokens_per_second=decode_rate(stats),
        first_seconds=first_seconds,
        context_used=stats.prompt_tokens + stats.completion_tokens,
        context_length=chat.model.context_length,
        engine=chat.model.engine,
    )
