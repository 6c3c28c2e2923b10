"""Which turns of a conversation the context holds: when it is full, the oldest leave, in large steps.

What the engine has in its KV cache is the beginning of the prompt. Each turn that leaves changes everything after it,
so that all of it is processed again. So a step makes room for many turns: it goes down to half of the context.
The system message, and the newest turn, never leave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from llmrun.errors import PromptTooLongError

__all__ = ["OVERFLOWS", "Overflow", "Window", "answer_room", "fit"]

Overflow = Literal["drop-oldest", "stop", "summarize"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

_LARGEST_ROOM = 2048
_ROOM_SHARE = 4
_KEPT_SHARE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What fits.

    Attributes:
        first: The oldest turn that stays.
        tokens: Tokens of the prompt with it.
        freed_tokens: How many fewer they are than before.
    """

    first: int
    tokens: int
    freed_tokens: int = 0


def answer_room(context_length: int, max_tokens: int | None) -> int:
    """Return how many tokens are kept free for an answer: what it may have, but no more than a quarter of the context.

    Without a limit, 2,048 tokens are taken to be enough. An answer may go on beyond that while there is room.
    """
    wanted = _LARGEST_ROOM if max_tokens is None else max_tokens
    return max(1, min(wanted, context_length // _ROOM_SHARE))


def fit(count: Callable[[int], int], turns: int, first: int, context_length: int, room: int) -> Window:
    """Return which turns fit, dropping as few steps as there must be.

    Args:
        count: Tokens of the prompt without the turns before the given one. It falls as more are left out.
        turns: How many there are; the last is the one to be answered.
        first: The oldest turn that was not left out before.
        context_length: Tokens of prompt and answer together.
        room: Tokens to keep free for the answer. The newest turn alone may take some of it.

    Raises:
        PromptTooLongError: The system message and the newest turn alone are too long.
    """
    before = count(first)
    if before + room <= context_length:
        return Window(first=first, tokens=before)
    low, high = first, turns - 1
    while low < high:
        middle = (low + high) // 2
        if count(middle) <= context_length // _KEPT_SHARE:
            high = middle
        else:
            low = middle + 1
    after = before if low == first else count(low)
    if after >= context_length:
        raise PromptTooLongError(
            f"the turn has {after:,} tokens with what must stay, and the context holds {context_length:,}, "
            "of which at least one is for the answer",
            fix="a shorter turn, or a larger --context-length",
        )
    return Window(first=low, tokens=after, freed_tokens=before - after)
