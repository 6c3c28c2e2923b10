"""An answer while it is written: when text is shown, and which clock counts."""

from typing import Any

import pytest
from greedy import greedy_options

from llmrun.engines.answer import Answer
from llmrun.engines.types import Done

FRAME = 1 / 30


class Letters:
    """A vocabulary of letters."""

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()

    def token_text(self, token: int) -> str:
        return chr(token)

    def is_end(self, token: int) -> bool:
        return token == 0


def begin(**changes: Any) -> Answer:
    answer = Answer(Letters(), 4, greedy_options(**({"max_tokens": None} | changes)), 100)
    answer.begin()
    answer.prefilled()
    return answer


def shown(answer: Answer, text: str, moments: list[float]) -> list[str]:
    deltas = [answer.add(ord(letter), moment=moment) for letter, moment in zip(text, moments, strict=True)]
    return [delta.text for delta in deltas if delta is not None]


def test_the_first_token_is_shown_at_once_and_then_a_frame_at_a_time() -> None:
    moments = [1000.0 + index * FRAME / 3 for index in range(9)]
    moments[3] += 1e-6
    assert shown(begin(), "abcdefghi", moments) == ["a", "bcd", "efgh"]


def test_the_time_to_the_next_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = begin()
    assert answer.seconds_to_frame == 0
    answer.add(ord("a"), moment=1000.0)
    for now, left in ((1000.0, FRAME), (1000.01, FRAME - 0.01), (1000.5, 0.0)):
        monkeypatch.setattr("time.perf_counter", lambda now=now: now)
        assert answer.seconds_to_frame == pytest.approx(left)


def test_tokens_that_are_taken_late_count_from_when_they_came() -> None:
    answer = begin(timed=True)
    start = answer._started
    shown(answer, "abc", [start + 1, start + 3, start + 4])
    (done,) = answer.end()
    assert isinstance(done, Done)
    assert (done.stats.prefill_seconds, done.stats.decode_seconds) == pytest.approx((1, 3))
