"""Cuts ONE prompt that is longer than the context, if the user wants that: at its beginning, or in its middle.

Only text that was attached (files, standard input) is cut; an instruction that was typed and the system prompt never
are. The cut is found by counting the tokens of the whole prompt as the model will see it, so that the numbers that are
said are those that are true, whatever the template and the tokenizer make of it. It is made between characters as a
reader sees them: an emoji of several code points, or a letter and its accent, stay together. `MARK` stands where
something was left out.

Nothing here knows an engine: whoever calls it brings the function that counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmrun.errors import PromptTooLongError

__all__ = ["MARK", "OVERFLOWS", "Overflow", "Shortened", "reserved_tokens", "shorten"]

Overflow = Literal["error", "drop-oldest", "drop-middle"]
OVERFLOWS: tuple[Overflow, ...] = ("error", "drop-oldest", "drop-middle")
MARK = "[...]"
"""What the model sees in place of the text that was left out."""
_LARGEST_SHARE = 4
_LARGEST_RESERVE = 1024
_ZERO_WIDTH_JOINER = "\u200d"
_MODIFIERS = range(0x1F3FB, 0x1F400)  # skin tones; Source: Unicode Technical Standard 51
_REGIONAL = range(0x1F1E6, 0x1F200)  # letters of which two make a flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortened:
    """A text that was made to fit.

    Attributes:
        text: What is left of the attached text, with the mark.
        policy: How it was cut.
        prompt_tokens: Tokens of the whole prompt before.
        left_out_tokens: By how many it is shorter now, the mark counted among what is sent.
        context_length: Tokens of prompt and answer together.
        reserved_tokens: Tokens of it that were kept for the answer.
    """

    text: str
    policy: Overflow
    prompt_tokens: int
    left_out_tokens: int
    context_length: int
    reserved_tokens: int

    @property
    def notice(self) -> str:
        """What the user is told."""
        place = "the middle" if self.policy == "drop-middle" else "the beginning"
        return (
            f"{self.left_out_tokens:,} of {self.prompt_tokens:,} tokens left out of {place} of the attached text "
            f"(--on-overflow {self.policy}): the context holds {self.context_length:,}, "
            f"of which {self.reserved_tokens:,} are for the answer"
        )


def reserved_tokens(context_length: int, max_tokens: int | None) -> int:
    """Return how many tokens are kept for the answer.

    That is what `--max-tokens` allows, up to half of the context; else a quarter of the context, at most 1,024.
    """
    if max_tokens is not None:
        return max(1, min(max_tokens, context_length // 2))
    return max(1, min(_LARGEST_RESERVE, context_length // _LARGEST_SHARE))


def shorten(
    text: str, policy: Overflow, *, context_length: int, max_tokens: int | None, count: Callable[[str], int]
) -> Shortened | None:
    """Return the attached text as far as it fits, or None where the whole prompt does (with room for an answer).

    Args:
        text: The attached text.
        policy: Where to cut; with `error` nothing is.
        context_length: Tokens of prompt and answer together.
        max_tokens: Most tokens of the answer, if that was said.
        count: Returns the tokens of the whole prompt when this is its attached text.

    Raises:
        PromptTooLongError: What may not be cut is too long by itself.
    """
    if policy == "error":
        return None
    reserve = reserved_tokens(context_length, max_tokens)
    room = context_length - reserve
    whole = count(text)
    if whole <= room:
        return None
    least = count(MARK) if text else whole
    if least > room and whole < context_length:
        return None  # cutting all that may be cut would not make the room, and as it is there is some
    if least >= context_length:
        raise _too_long(least, context_length)
    kept, tokens = (0, least) if least >= room else _most_that_fits(text, policy, room, (least, whole), count)
    return Shortened(
        text=_assemble(text, kept, policy),
        policy=policy,
        prompt_tokens=whole,
        left_out_tokens=whole - tokens,
        context_length=context_length,
        reserved_tokens=min(reserve, context_length - tokens),
    )


def _too_long(tokens: int, context_length: int) -> PromptTooLongError:
    return PromptTooLongError(
        f"what was typed and the system prompt have {tokens:,} tokens and the context holds {context_length:,}, "
        "of which at least one is for the answer; only text from files and standard input is ever left out",
        fix="a larger --context-length, or the long text in a file or on standard input",
    )


def _most_that_fits(
    text: str, policy: Overflow, room: int, counts: tuple[int, int], count: Callable[[str], int]
) -> tuple[int, int]:
    """Return how many characters of the text can be kept, and the tokens of the prompt then.

    Tokens grow nearly evenly with characters, so the next guess is on the line between the two nearest counts. Where
    they do not (half a file is in another script), every other guess is the middle, so that it ends soon anyhow.
    """
    (low, low_tokens), (high, high_tokens) = (0, counts[0]), (len(text), counts[1])
    by_line = True
    while high - low > 1 and low_tokens != room:
        share = (room - low_tokens) / (high_tokens - low_tokens) if by_line else 0.5
        guess = min(max(low + int((high - low) * share), low + 1), high - 1)
        tokens = count(_assemble(text, guess, policy))
        before = high - low
        if tokens <= room:
            low, low_tokens = guess, tokens
        else:
            high, high_tokens = guess, tokens
        by_line = not by_line or (high - low) * 2 <= before
    return low, low_tokens


def _assemble(text: str, kept: int, policy: Overflow) -> str:
    """Return the text with about so many of its characters (never more), and the mark."""
    if policy == "drop-oldest":
        tail = text[_border_after(text, len(text) - kept) :]
        return f"{MARK}\n{tail}" if tail else MARK
    head = text[: _border_before(text, (kept + 1) // 2)]
    tail = text[_border_after(text, len(text) - kept // 2) :]
    return "\n".join(part for part in (head, MARK, tail) if part)


def _border_before(text: str, index: int) -> int:
    while not _is_border(text, index):
        index -= 1
    return index


def _border_after(text: str, index: int) -> int:
    while not _is_border(text, index):
        index += 1
    return index


def _is_border(text: str, index: int) -> bool:
    """Return whether a reader sees one character end and another begin here.

    Source: the rules GB3, GB9, GB11 and GB12 of Unicode Standard Annex 29, without those for Hangul jamo.
    """
    if index in (0, len(text)):
        return True
    from unicodedata import category

    left, right = text[index - 1], text[index]
    if left == "\r" and right == "\n":
        return False
    if category(right) in ("Mn", "Mc", "Me") or ord(right) in _MODIFIERS or _ZERO_WIDTH_JOINER in (left, right):
        return False
    return not (ord(left) in _REGIONAL and ord(right) in _REGIONAL and _letters_before(text, index) % 2)


def _letters_before(text: str, index: int) -> int:
    """Return how many letters of flags stand in a row before a place."""
    count = 0
    while count < index and ord(text[index - 1 - count]) in _REGIONAL:
        count += 1
    return count
