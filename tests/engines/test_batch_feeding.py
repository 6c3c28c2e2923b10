"""A batch is fed to its worker as there is room: nobody holds all of it, and nobody waits for somebody who waits."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import EngineCrashedError

Start = Callable[..., WorkerClient]
Request = tuple[str, Sequence[Segment], SamplingOptions]
GREEDY = SamplingOptions(temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=None, seed=0)
PLAN = LoadPlan(engine=EngineName.FAKE, model_path="none", context_length=1 << 20, threads=1)


def request(name: str, text: str = "hi") -> Request:
    return name, [Segment(text=text, special=False)], GREEDY


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    clients = []

    def begin(**script: Any) -> WorkerClient:
        monkeypatch.setenv("LLMRUN_FAKE", json.dumps(script))
        client = WorkerClient(EngineName.FAKE)
        clients.append(client)
        client.load(PLAN)
        return client

    yield begin
    for client in clients:
        client.close()


@pytest.mark.parametrize("parallel", [1, 2, 16])
def test_few_requests_are_ever_under_way(start: Start, parallel: int) -> None:
    client = start(answer="ok")
    taken, ended, most = 0, 0, 0

    def source() -> Iterator[Request]:
        nonlocal taken, most
        for number in range(2000):
            taken += 1
            most = max(most, taken - ended)
            yield request(str(number))

    begun: list[str] = []
    for _, event in client.generate_many(source(), parallel, begun.append):
        ended += isinstance(event, Done)
    assert (taken, ended) == (2000, 2000)
    assert begun == [str(number) for number in range(2000)]
    assert parallel <= most <= 40 + 3 * parallel  # 40 short answers fit into what is read from the pipe at once


def test_both_pipes_may_be_full(start: Start) -> None:
    client = start()  # echoes: each answer is as long as its prompt
    prompt = "x" * 300_000
    lengths = dict.fromkeys(map(str, range(12)), 0)
    options = SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=3000, seed=0, logprobs=None
    )
    source = ((name, [Segment(text=prompt, special=False)], options) for name in lengths)
    for name, event in client.generate_many(source, 4):
        if isinstance(event, Delta):
            lengths[name] += len(event.text)
            if lengths[name] == 1:
                time.sleep(0.02)
    assert set(lengths.values()) == {3000}


def test_a_source_that_takes_its_time(start: Start) -> None:
    def source() -> Iterator[Request]:
        for number in range(10):
            time.sleep(0.03)
            yield request(str(number))

    ends = [name for name, event in start(answer="ok").generate_many(source(), 4) if isinstance(event, Done)]
    assert sorted(ends, key=int) == [str(number) for number in range(10)]


def test_cancelling_ends_what_was_begun_and_asks_for_nothing_more(start: Start) -> None:
    client = start(answer="x" * 1000, token_seconds=0.002)
    taken = []

    def source() -> Iterator[Request]:
        for number in range(100_000):
            taken.append(str(number))
            yield request(str(number))

    begun: list[str] = []
    events = client.generate_many(source(), 3, begun.append)
    assert isinstance(next(events)[1], Delta)
    before = len(taken)
    began = time.monotonic()
    ends = {name: event for name, event in client.cancel_many() if isinstance(event, Done)}
    assert time.monotonic() - began < 1
    assert set(begun) <= set(ends) <= set(taken)
    assert {event.finish_reason for event in ends.values()} == {FinishReason.CANCELLED}
    assert len(taken) == before < 20
    again = list(client.generate_many([request("again")], 1))
    assert again[-1][0] == "again"


def test_what_had_begun_is_known_after_a_crash(start: Start) -> None:
    client = start(answer="abcdef", crash_signal=11, crash_at=3, only_prompt="bad")
    begun: list[str] = []
    ended = []
    requests = [request("a"), request("b"), request("c", "bad"), *(request(str(n)) for n in range(50))]
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        ended += [name for name, event in client.generate_many(requests, 1, begun.append) if isinstance(event, Done)]
    assert begun == ["a", "b", "c"]
