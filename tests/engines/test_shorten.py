"""Cutting one prompt: exact counts, whole characters, the place that was asked for."""

import random

import pytest

from llmrun.engines.conversation.shorten import MARK, Overflow, reserved_tokens, shorten
from llmrun.errors import PromptTooLongError

FRAME = 40  # tokens of the template, the system prompt and what was typed


def count_bytes(text: str) -> int:
    return FRAME + len(text.encode())


def count_words(text: str) -> int:
    """Count unevenly: long words and other scripts take more tokens, as with real tokenizers."""
    return FRAME + sum(1 + len(word.encode()) // 4 for word in text.split(" "))


def cut(text: str, policy: Overflow, context_length: int, max_tokens: int | None = 100, count=count_bytes):  # type: ignore[no-untyped-def]
    return shorten(text, policy, context_length=context_length, max_tokens=max_tokens, count=count)


@pytest.mark.parametrize(
    ("context_length", "max_tokens", "reserved"),
    [
        pytest.param(4096, 100, 100, id="what was asked for"),
        pytest.param(4096, 4000, 2048, id="at most half"),
        pytest.param(4096, None, 1024, id="a quarter"),
        pytest.param(512, None, 128, id="a quarter of little"),
        pytest.param(131072, None, 1024, id="at most 1,024"),
        pytest.param(2, None, 1, id="at least one"),
    ],
)
def test_room_for_the_answer(context_length: int, max_tokens: int | None, reserved: int) -> None:
    assert reserved_tokens(context_length, max_tokens) == reserved


def test_what_fits_is_left_alone() -> None:
    assert cut("x" * 360, "drop-middle", 500) is None
    assert cut("x" * 361, "drop-middle", 500) is not None
    assert cut("x" * 9999, "error", 500) is None


def test_the_beginning_or_the_middle_is_left_out() -> None:
    text = "".join(f"{number:04d} " for number in range(1000))
    oldest, middle = cut(text, "drop-oldest", 500), cut(text, "drop-middle", 500)
    assert oldest.text.startswith(MARK)
    assert oldest.text.endswith("0998 0999 ")
    assert text.endswith(oldest.text.removeprefix(MARK + "\n"))
    head, tail = middle.text.split(f"\n{MARK}\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    for found in (oldest, middle):
        assert count_bytes(found.text) == 400
        assert (found.prompt_tokens, found.left_out_tokens) == (5040, 4640)
        assert "4,640 of 5,040 tokens left out" in found.notice


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-middle"])
@pytest.mark.parametrize("count", [count_bytes, count_words])
def test_counts_are_true_and_nothing_more_would_fit(policy: Overflow, count) -> None:  # type: ignore[no-untyped-def]
    choose = random.Random(7)
    for _ in range(40):
        pieces = ["word ", "é", "日本語 ", "😀", "a" * 50, "\n", "👩‍👩‍👧", "e\u0301", "🇳🇴🇸🇪", "👍🏽"]
        text = "".join(choose.choice(pieces) for _ in range(choose.randrange(300, 3000)))
        found = cut(text, policy, 700, choose.choice([None, 50]), count)
        if found is None:
            assert count(text) <= 700
            continue
        tokens = count(found.text)
        assert tokens == found.prompt_tokens - found.left_out_tokens
        assert tokens <= 700 - found.reserved_tokens
        assert tokens >= 700 - found.reserved_tokens - 60  # a cluster of code points is at most so long
        assert found.prompt_tokens == count(text)
        for kept in found.text.replace(MARK, "|").split("|"):
            assert kept.strip("\n") in text
        rest = found.text
        for whole in ("👩‍👩‍👧", "e\u0301", "👍🏽"):
            rest = rest.replace(whole, "")
        assert not {"\u200d", "\u0301", "🏽", "👩", "👍"} & set(rest)
        flags = sum(found.text.count(letter) for letter in "🇳🇴🇸🇪")
        assert flags == 2 * (found.text.count("🇳🇴") + found.text.count("🇸🇪"))


def test_few_counts_are_enough() -> None:
    calls = 0

    def count(text: str) -> int:
        nonlocal calls
        calls += 1
        return count_words(text)

    text = "short " * 50_000 + "日本語" * 50_000
    assert cut(text, "drop-middle", 4096, None, count) is not None
    assert calls < 40


def test_what_may_not_be_cut_is_refused_only_if_it_cannot_be_sent() -> None:
    def count(text: str) -> int:
        return 450 + len(text)

    # The typed part leaves less room than is wanted: as much of it is used as there is.
    assert cut("", "drop-oldest", 500, 100, count) is None
    assert cut("x" * 20, "drop-oldest", 500, 100, count) is None
    found = cut("x" * 200, "drop-oldest", 500, 100, count)
    assert (found.text, found.reserved_tokens) == (MARK, 500 - 450 - len(MARK))
    for text in ("", "x" * 200):
        with pytest.raises(PromptTooLongError, match=r"45[05] tokens and the context holds 450"):
            cut(text, "drop-oldest", 450, 100, count)
