"""Which turns the context holds: by counts, on conversations of known size."""

from collections.abc import Callable

import pytest

from llmrun.engines.conversation.window import Window, answer_room, fit
from llmrun.errors import PromptTooLongError

SYSTEM_TOKENS = 20


def counter(*sizes: int) -> Callable[[int], int]:
    """Count turns of these sizes behind a system message that never leaves."""
    return lambda first: SYSTEM_TOKENS + sum(sizes[first:])


@pytest.mark.parametrize(
    ("context_length", "max_tokens", "room"),
    [
        pytest.param(8192, None, 2048, id="a quarter"),
        pytest.param(131_072, None, 2048, id="enough"),
        pytest.param(8192, 100, 100, id="what it may have"),
        pytest.param(8192, 10_000, 2048, id="not more than a quarter"),
        pytest.param(3, None, 1, id="at least one"),
    ],
)
def test_room_for_the_answer(context_length: int, max_tokens: int | None, room: int) -> None:
    assert answer_room(context_length, max_tokens) == room


def test_what_fits_stays() -> None:
    count = counter(100, 100, 100)
    assert fit(count, 3, 0, 420, 100) == Window(first=0, tokens=320)


def test_one_token_too_many_makes_the_oldest_leave_down_to_half() -> None:
    count = counter(100, 100, 100)
    assert fit(count, 3, 0, 419, 100) == Window(first=2, tokens=120, freed_tokens=200)


def test_what_was_left_out_stays_out() -> None:
    count = counter(*[50] * 20)
    assert fit(count, 20, 12, 1000, 100).first == 12


def test_a_step_lasts_for_many_turns() -> None:
    """The KV cache is used again until half of the context is filled once more."""
    sizes, first, steps = [40] * 400, 0, 0
    for turns in range(1, len(sizes) + 1):
        window = fit(counter(*sizes[:turns]), turns, first, 4096, 1024)
        assert window.tokens + 1024 <= 4096
        assert window.tokens - SYSTEM_TOKENS == 40 * (turns - window.first)
        steps += window.first != first
        first = window.first
    assert steps <= (400 * 40 - 3052) // 1024 + 1  # each of them makes room for 1,024 tokens or more


def test_the_newest_turn_may_take_the_room_of_the_answer() -> None:
    assert fit(counter(500, 950), 2, 0, 1000, 250) == Window(first=1, tokens=970, freed_tokens=500)


@pytest.mark.parametrize("size", [980, 5000])
def test_a_turn_that_is_too_long_alone(size: int) -> None:
    with pytest.raises(PromptTooLongError) as raised:
        fit(counter(10, size), 2, 0, 1000, 250)
    assert f"{size + SYSTEM_TOKENS:,} tokens" in raised.value.message
    assert "1,000" in raised.value.message


def test_the_first_turn_alone() -> None:
    assert fit(counter(960), 1, 0, 1000, 250) == Window(first=0, tokens=980)
    with pytest.raises(PromptTooLongError):
        fit(counter(980), 1, 0, 1000, 250)


def test_counting_is_not_done_for_each_turn() -> None:
    asked: list[int] = []
    count = counter(*[10] * 1000)

    def counted(first: int) -> int:
        asked.append(first)
        return count(first)

    assert fit(counted, 1000, 0, 4096, 1024).first == 798
    assert len(asked) < 15
