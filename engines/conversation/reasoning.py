"""Splits what a model thinks from what it answers, while both stream.

Each family of models has marks of its own around its reasoning. A mark is taken for one only where the model's format
has it: at the beginning of an answer, or right after other reasoning. In the midst of an answer `<think>` is text, as
somebody may have asked about it. Harmony (gpt-oss) is the exception: once an answer has begun with a channel, its marks
count everywhere. Marks are in no piece, nor is white space before the mark that opens; the rest is passed on unchanged.
Formats whose marks are English sentences (Granite 3.2, Apriel) are not split: any model may write those.

Sources: the chat templates of the models named below; vllm/reasoning and vllm/parser (vLLM 0.22); the harmony format,
https://developers.openai.com/cookbook/articles/openai-harmony.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["MARKS", "Piece", "PieceKind", "ReasoningSplitter", "opening_mark", "split_answer"]

PieceKind = Literal["reasoning", "answer"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of what a model wrote, without the marks."""

    kind: PieceKind
    text: str


@dataclass(frozen=True, slots=True)
class _Form:
    """The marks of one family: around its reasoning, and around its answer where that has some."""

    opens: str
    closes: str
    answer_opens: str = ""
    answer_closes: str = ""


_FORMS = (
    _Form("<think>", "</think>"),  # DeepSeek-R1, Qwen3, QwQ, GLM, Kimi K2, MiniMax M2, Nemotron, OLMo 3
    _Form("<think>", "</think>", "<answer>", "</answer>"),  # Hunyuan
    _Form("<think>", "</think>", "<response>", "</response>"),  # ERNIE 4.5
    _Form("<thinking>", "</thinking>"),
    _Form("<thinking>", "</thinking>", "<output>", "</output>"),  # Reflection
    _Form("<thought>", "</thought>"),  # EXAONE Deep
    _Form("<reasoning>", "</reasoning>"),
    _Form("<seed:think>", "</seed:think>"),  # Seed-OSS
    _Form("<mm:think>", "</mm:think>"),  # MiniMax M3
    _Form("[THINK]", "[/THINK]"),  # Magistral
    _Form("◁think▷", "◁/think▷"),  # Kimi-VL
    _Form("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    _Form("<|channel>thought", "<channel|>"),  # Gemma 4
    _Form("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Command A
    _Form("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),  # Sky-T1
    _Form("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>response<|sep|>", "<|close|>response<|sep|>"),
)

_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_HARMONY_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_HARMONY = (_CHANNEL, "<|start|>assistant", *_HARMONY_ENDS)

MARKS = frozenset(
    {_MESSAGE, "<|constrain|>", "<|start|>", _CHANNEL, *_HARMONY_ENDS, "<|channel>", "<channel|>"}
    | {"<|open|>", "<|close|>", "<|sep|>"}
    | {mark for form in _FORMS for mark in (form.opens, form.closes, form.answer_opens, form.answer_closes)}
) - {""}
"""What marks are made of: where these are control tokens of a vocabulary, they must not be dropped."""


def opening_mark(prompt: str) -> str:
    """Return the mark with which a template opens the reasoning at the end of a prompt; "" if it does not."""
    ended = prompt.rstrip()
    return max((form.opens for form in _FORMS if ended.endswith(form.opens)), key=len, default="")


class ReasoningSplitter:
    """Splits one answer, whatever the pieces that it comes in.

    Args:
        opened: The mark that the prompt ended with (`opening_mark`), so that the model does not write it.
    """

    def __init__(self, opened: str = "") -> None:
        self._held = ""
        self._kind: PieceKind = "answer"
        self._header: str | None = None
        self._at_start = True
        self._opener = ""
        self._marks: tuple[str, ...] = ()
        self._watch(_opening_marks())
        if opened:
            self._act(opened)

    def feed(self, text: str) -> list[Piece]:
        """Take a piece of the answer; return what is certain by now."""
        self._held += text
        pieces: list[Piece] = []
        while self._held:
            if (found := self._find()) is not None:
                place, mark = found
                self._emit(pieces, self._held[:place])
                self._held = self._held[place + len(mark) :]
                self._act(mark)
            elif not self._is_before_answer:
                kept = _length_of_beginning(self._held, self._marks)
                self._emit(pieces, self._held[: len(self._held) - kept])
                self._held = self._held[len(self._held) - kept :]
                break
            elif self._may_open():
                break
            else:
                self._begin_answer()
        return _joined(pieces)

    def finish(self) -> list[Piece]:
        """Return what was held back, as it was no mark."""
        pieces: list[Piece] = []
        held, self._held = self._held, ""
        self._emit(pieces, held)
        return pieces

    def _watch(self, marks: Iterable[str]) -> None:
        self._marks = tuple(sorted(set(marks) - {""}, key=len, reverse=True))

    def _find(self) -> tuple[int, str] | None:
        """Return where the first of the marks is that count here, and which it is."""
        if self._is_before_answer:
            blank = len(self._held) - len(self._held.lstrip())
            mark = next((mark for mark in self._marks if self._held.startswith(mark, blank)), None)
            return None if mark is None else (blank, mark)
        places = [(place, mark) for mark in self._marks if (place := self._held.find(mark)) >= 0]
        return min(places, default=None)

    @property
    def _is_before_answer(self) -> bool:
        return self._at_start and self._header is None

    def _may_open(self) -> bool:
        text = self._held.lstrip()
        return not text or any(mark.startswith(text) for mark in self._marks)

    def _begin_answer(self) -> None:
        self._at_start = False
        self._watch(())

    def _emit(self, pieces: list[Piece], text: str) -> None:
        if self._header is not None:
            self._header += text
        elif text and not (self._at_start and text.isspace()):
            pieces.append(Piece(self._kind, text))

    def _act(self, mark: str) -> None:
        """Go where a mark leads."""
        if mark == _CHANNEL:
            self._header = ""
            self._watch([_MESSAGE])
        elif mark == _MESSAGE:
            self._enter_channel(self._header or "")
        elif mark in _HARMONY:
            self._kind, self._at_start = "answer", False
            self._watch(_HARMONY)
        elif self._kind == "reasoning":
            self._kind, self._at_start = "answer", True
            self._watch([*_opening_marks(), *(form.answer_opens for form in _forms_with(self._opener))])
        elif forms := _forms_with(mark):
            self._kind, self._at_start, self._opener = "reasoning", False, mark
            self._watch(form.closes for form in forms)
        else:
            self._at_start = False
            self._watch(form.answer_closes for form in _forms_with(self._opener) if form.answer_opens == mark)

    def _enter_channel(self, header: str) -> None:
        self._header, self._at_start = None, False
        self._kind = "reasoning" if header.strip().startswith("analysis") else "answer"
        self._watch(_HARMONY)


def split_answer(text: str, opened: str = "") -> tuple[str, str]:
    """Return the answer and the reasoning of a whole text; `opened` is the mark that the prompt ended with."""
    splitter = ReasoningSplitter(opened)
    pieces = [*splitter.feed(text), *splitter.finish()]
    answer = "".join(piece.text for piece in pieces if piece.kind == "answer")
    return answer, "".join(piece.text for piece in pieces if piece.kind == "reasoning")


def _forms_with(opens: str) -> list[_Form]:
    return [form for form in _FORMS if form.opens == opens]


def _opening_marks() -> list[str]:
    return [*_HARMONY[:2], *(form.opens for form in _FORMS)]


def _length_of_beginning(text: str, marks: tuple[str, ...]) -> int:
    """Return how much of the end of `text` may be the beginning of a mark."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)


def _joined(pieces: list[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].kind == piece.kind:
            joined[-1] = Piece(piece.kind, joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined
