"""Guessing ahead without an engine: what is found in a text, and when how much of it is checked."""

import random
from collections.abc import Callable, Sequence

import pytest

from llmrun.engines.speculation import DRAFT_KIND, MOST_GUESSES, Guess, GuessController, TextLookup

Cost = Callable[[int], float]  # seconds of a batch by its tokens


def bound_by_memory(tokens: int) -> float:
    return 0.1 + 0.004 * tokens


def bound_by_arithmetic(tokens: int) -> float:
    return 0.01 * (1 + 0.9 * (tokens - 1)) if tokens < 6 else 0.01 * (1.9 + 0.6 * (tokens - 1))


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        pytest.param([], 8, None, id="nothing yet"),
        pytest.param([1, 2, 3, 4], 8, None, id="never seen before"),
        pytest.param([1, 2, 3, 4, 1, 2], 8, Guess([3, 4, 1, 2], 0), id="a pair seen before"),
        pytest.param([1, 2, 3, 4, 1, 2], 1, Guess([3], 0), id="no more than asked for"),
        pytest.param([1, 2, 3, 4, 1, 2], 0, None, id="none asked for"),
        pytest.param([7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 2, Guess([3, 8], 1), id="the place that agrees longest"),
        pytest.param([9, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 2, Guess([4, 7], 0), id="the latest of equals"),
        pytest.param([*range(20), *range(10)], 3, Guess([10, 11, 12], 3), id="a long agreement is of the best kind"),
    ],
)
def test_what_followed_the_last_time(text: list[int], most: int, expected: Guess | None) -> None:
    lookup = TextLookup()
    lookup.extend(text[:3])
    lookup.extend(text[3:])
    assert lookup.guess(most) == expected


def write(prompt: Sequence[int], answer: Sequence[int], cost: Cost, *, always: bool = False) -> float:
    """Play an answer through, and return how many times faster it is than without guesses."""
    control, lookup = GuessController(always=always), TextLookup()
    lookup.extend(prompt)
    noise = random.Random(4)
    position, seconds = 0, 0.0
    while position < len(answer):
        guess = lookup.guess(min(MOST_GUESSES, len(answer) - position - 1))
        count = control.choose(guess.kind, len(guess.tokens)) if guess else 0
        checked = Guess(guess.tokens[:count], guess.kind) if guess and count else None
        right = 0
        while checked and right < count and checked.tokens[right] == answer[position + right]:
            right += 1
        took = cost(count + 1) * noise.uniform(0.95, 1.1)
        seconds += took
        control.observe(checked, right, took)
        if checked is None:
            control.watch(guess, answer[position])
        else:
            control.forget_watched()
        lookup.extend(answer[position : position + right + 1])
        position += right + 1
    return len(answer) * cost(1) * 1.025 / seconds


def new_words(count: int, seed: int = 0) -> list[int]:
    """Return text in which pairs come again all the time, and what follows them is mostly something else."""
    words = random.Random(seed)
    return [int(words.paretovariate(0.7)) % 400 for _ in range(count)]


@pytest.mark.parametrize("cost", [bound_by_memory, bound_by_arithmetic])
@pytest.mark.parametrize("length", [64, 128, 512])
@pytest.mark.parametrize("seed", range(5))
def test_free_text_is_not_slowed_down(cost: Cost, length: int, seed: int) -> None:
    assert write(new_words(500, seed), new_words(length, seed + 100), cost) >= 0.96 + (length > 64) * 0.01


@pytest.mark.parametrize(
    ("cost", "least"),
    [pytest.param(bound_by_memory, 3.0, id="memory"), pytest.param(bound_by_arithmetic, 1.2, id="arithmetic")],
)
def test_copied_text_is_faster(cost: Cost, least: float) -> None:
    prompt = list(range(1000, 1400))
    assert write(prompt, prompt[50:250], cost) >= least


def test_it_is_on_where_it_pays_and_off_where_it_does_not() -> None:
    prompt = list(range(1000, 1400))
    answer = [*prompt[20:120], *new_words(100, 7), *prompt[200:300]]
    assert write(prompt, answer, bound_by_memory) > 1.5
    assert write(prompt, answer, lambda tokens: 0.01 * tokens) >= 0.97, "a batch as dear as its tokens one by one"


def test_asked_for_it_is_done_in_any_case() -> None:
    text = new_words(200, 3)
    assert write(text, new_words(200, 4), lambda tokens: 0.01 * tokens, always=True) < 0.9


@pytest.mark.parametrize(
    ("chance", "faster"),
    [pytest.param(0.95, True, id="a draft model that knows"), pytest.param(0.02, False, id="one that does not")],
)
def test_a_draft_model_is_asked_as_long_as_it_pays(chance: float, faster: bool) -> None:
    control, luck = GuessController(), random.Random(1)
    seconds, tokens, asked_late = 0.0, 0, 0
    while tokens < 2000:
        count = control.choose(DRAFT_KIND, MOST_GUESSES)
        right = 0
        while right < count and luck.random() < chance:
            right += 1
        took, drafting = bound_by_memory(count + 1), 0.01 * count
        seconds += took + drafting
        control.observe(Guess([0] * count, DRAFT_KIND) if count else None, right, took, drafting)
        tokens += right + 1
        asked_late += tokens > 1000 and count > 0
    gain = tokens * bound_by_memory(1) / seconds
    assert gain > 1.8 if faster else gain >= 0.985
    assert asked_late > 50 if faster else 1 <= asked_late < 20, "now and then it is tried again"
