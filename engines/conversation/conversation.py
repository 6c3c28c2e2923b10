"""What a conversation has come to: the records of its file, played back one by one.

The same function takes a record that was just written and those of a file, so that what is in memory is what another
process would load. Another model, or another context length, opens the window again: its tokens are counted anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llmrun.engines.conversation.records import (
    MessageRecord,
    ModelRecord,
    Record,
    RewindRecord,
    SummaryRecord,
    WindowRecord,
)
from llmrun.models.prompt.conversation import Message

__all__ = ["Conversation", "Turn", "replay"]

_SUMMARY = "Summary of the conversation so far:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the user said, and what came of it; None while it is unanswered."""

    question: MessageRecord
    answer: MessageRecord | None = None

    @property
    def messages(self) -> int:
        """How many messages it has."""
        return 1 if self.answer is None else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation as it stands; frozen, so that each step gives a new one.

    Attributes:
        system: The system message, or an empty text.
        turns: Every turn that counts, oldest first, those outside the window too.
        model: The last model record.
        summary: What stands for the oldest turns.
        left_out: How many of the oldest turns are not sent to the model.
    """

    system: str = ""
    turns: tuple[Turn, ...] = ()
    model: ModelRecord | None = None
    summary: SummaryRecord | None = None
    left_out: int = 0

    @property
    def summarized(self) -> int:
        """How many of the oldest turns the summary stands for."""
        return 0 if self.summary is None else self.summary.turns

    @property
    def is_answered(self) -> bool:
        """Whether the newest turn has its answer, or there is none."""
        return not self.turns or self.turns[-1].answer is not None

    def apply(self, record: Record) -> "Conversation":
        """Return what it is after a record."""
        match record:
            case MessageRecord(role="system"):
                return replace(self, system=record.content)
            case MessageRecord(role="user"):
                return replace(self, turns=(*self.turns, Turn(question=record)))
            case MessageRecord():
                return self._answered(record)
            case ModelRecord():
                return replace(self, model=record, left_out=self.summarized)
            case RewindRecord():
                return self._rewound(record.messages)
            case SummaryRecord():
                turns = min(record.turns, len(self.turns))
                return replace(self, summary=replace(record, turns=turns), left_out=max(turns, self.left_out))
            case WindowRecord():
                return replace(self, left_out=max(self.summarized, min(record.turns, len(self.turns))))

    def _answered(self, answer: MessageRecord) -> "Conversation":
        """Give the newest turn its answer; without one to answer it means nothing."""
        if self.is_answered:
            return self
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], answer=answer)))

    def _rewound(self, messages: int) -> "Conversation":
        turns = list(self.turns)
        while messages > 0 and turns:
            last = turns.pop()
            if last.messages > messages:
                turns.append(replace(last, answer=None))
            messages -= last.messages
        summary = self.summary if self.summarized <= len(turns) else None
        kept = self.left_out if self.left_out < len(turns) else (0 if summary is None else summary.turns)
        return replace(self, turns=tuple(turns), summary=summary, left_out=kept)

    def messages(self, first: int | None = None, last: int | None = None) -> tuple[Message, ...]:
        """Return what the model is sent: the system message, the summary, and the turns from `first` up to `last`.

        Args:
            first: The oldest turn; without it, the first that is not left out.
            last: One past the newest turn; without it, all.
        """
        begin = self.left_out if first is None else first
        parts = [self.system] if self.system else []
        if self.summary is not None and begin >= self.summarized:
            parts.append(_SUMMARY + self.summary.content)
        sent = [Message(role="system", content="\n\n".join(parts))] if parts else []
        for turn in self.turns[begin:last]:
            sent.append(Message(role="user", content=turn.question.content))
            if turn.answer is not None:
                sent.append(Message(role="assistant", content=turn.answer.content))
        return tuple(sent)


def replay(records: Iterable[Record]) -> Conversation:
    """Return what the records of a file come to."""
    conversation = Conversation()
    for record in records:
        conversation = conversation.apply(record)
    return conversation
