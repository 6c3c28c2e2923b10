"""The client gets an answer or one error out of a worker process, whatever the process does."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import (
    EngineCrashedError,
    EngineTimeoutError,
    ModelFileError,
    NoUsableEngineError,
    PromptTooLongError,
    UsageError,
)

Start = Callable[..., WorkerClient]


def plan(context_length: int = 4096) -> LoadPlan:
    return LoadPlan(engine=EngineName.FAKE, model_path="none", context_length=context_length, threads=1)


def options(max_tokens: int | None = None, stop: tuple[str, ...] = ()) -> SamplingOptions:
    return SamplingOptions(
        temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=max_tokens, seed=0, stop=stop
    )


def prompt(text: str = "hi") -> list[Segment]:
    return [Segment(text=text, special=True)]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    clients = []

    def begin(**script: Any) -> WorkerClient:
        monkeypatch.setenv("LLMRUN_FAKE", json.dumps(script))
        client = WorkerClient(EngineName.FAKE)
        clients.append(client)
        return client

    yield begin
    for client in clients:
        client.close()
        with pytest.raises(ProcessLookupError):
            os.killpg(client.pid, 0)


def answer(client: WorkerClient, **kwargs: Any) -> tuple[str, Done]:
    client.load(plan())
    events = list(client.generate(prompt(), options(**kwargs)))
    done = events.pop()
    assert isinstance(done, Done)
    return "".join(event.text for event in events if isinstance(event, Delta)), done


def test_answer_and_counts(start: Start) -> None:
    text, done = answer(start(answer="grüße 😀"))
    assert text == "grüße 😀"
    assert done.finish_reason is FinishReason.STOP
    assert (done.stats.prompt_tokens, done.stats.completion_tokens) == (2, 12)


def test_limits(start: Start) -> None:
    assert answer(start(answer="abcdef"), max_tokens=3)[1].finish_reason is FinishReason.LENGTH
    assert answer(start(answer="abcdef"), stop=("d",))[0] == "abc"


def test_half_a_character_at_the_end_is_replaced(start: Start) -> None:
    assert answer(start(answer_hex="6162f09f98"))[0] == "ab�"


def test_many_requests_on_one_worker(start: Start) -> None:
    client = start()
    client.load(plan())
    for text in ("one", "two", "three"):
        events = list(client.generate(prompt(text), options()))
        assert "".join(event.text for event in events if isinstance(event, Delta)) == text
    assert client.tokenize(prompt("ab")) == [97, 98]


def test_what_the_engine_prints_is_kept_and_disturbs_nothing(start: Start) -> None:
    client = start(answer="fine", stdout="native noise", stderr="more noise")
    assert answer(client)[0] == "fine"
    assert "native noise" in client.evidence
    assert "more noise" in client.evidence


def test_a_flood_on_stderr_is_bounded(start: Start) -> None:
    client = start(answer="fine", stderr_bytes=3_000_000)
    assert answer(client)[0] == "fine"
    assert len(client.evidence) <= 64 << 10


def test_load_error_keeps_its_class(start: Start) -> None:
    with pytest.raises(ModelFileError, match="no good"):
        start(load_error="no good").load(plan())


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(signal.SIGSEGV, EngineCrashedError, id="segv"),
        pytest.param(signal.SIGABRT, EngineCrashedError, id="abrt"),
        pytest.param(signal.SIGILL, NoUsableEngineError, id="ill"),
        pytest.param(signal.SIGKILL, EngineCrashedError, id="kill"),
        pytest.param(signal.SIGBUS, EngineCrashedError, id="bus"),
    ],
)
def test_crash_in_mid_answer_comes_after_the_text_so_far(start: Start, number: int, kind: type[Exception]) -> None:
    client = start(answer="abcdef", crash_signal=int(number), crash_at=4)
    client.load(plan())
    got: list[Event] = []
    with pytest.raises(kind):
        got.extend(event for event in client.generate(prompt(), options()))
    assert "".join(event.text for event in got if isinstance(event, Delta)) == "abc"


def test_nothing_of_a_worker_that_others_killed_stays_in_shared_memory(start: Start) -> None:
    client = start(answer="abc")
    client.load(plan())
    mark = Path(f"/dev/shm/__KMP_REGISTERED_LIB_{client.pid}_{os.getuid()}")  # as LLVM's OpenMP makes it
    mark.touch()
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashedError):
        list(client.generate(prompt(), options()))
    assert not mark.exists()


def test_crash_while_loading(start: Start) -> None:
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        start(crash_signal=int(signal.SIGSEGV)).load(plan())


def test_a_bug_in_an_adapter_is_told_with_its_last_line(start: Start) -> None:
    client = start(answer="abc", raise_at=2)
    client.load(plan())
    with pytest.raises(EngineCrashedError, match="ZeroDivisionError: a bug in an adapter"):
        list(client.generate(prompt(), options()))


def test_silence_ends_in_a_timeout(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_ENGINE_TIMEOUT", "0.5")
    client = start(answer="abc", hang_at=2)
    client.load(plan())
    with pytest.raises(EngineTimeoutError, match="said nothing"):
        list(client.generate(prompt(), options()))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_odd_timeouts_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LLMRUN_ENGINE_TIMEOUT", value)
    with pytest.raises(UsageError, match="LLMRUN_ENGINE_TIMEOUT"):
        WorkerClient(EngineName.FAKE)


def test_prompt_longer_than_the_context_gives_both_numbers(start: Start) -> None:
    client = start()
    client.load(plan(context_length=10))
    with pytest.raises(PromptTooLongError, match=r"11 tokens .* holds 10"):
        list(client.generate(prompt("x" * 11), options()))


def test_cancelling_keeps_the_text_so_far_and_the_worker(start: Start) -> None:
    client = start(answer="x" * 1000, token_seconds=0.02)
    client.load(plan())
    events = client.generate(prompt(), options())
    assert isinstance(next(events), Delta)
    rest = list(client.cancel())
    assert isinstance(rest[-1], Done)
    assert rest[-1].finish_reason is FinishReason.CANCELLED
    assert client.tokenize(prompt("a")) == [97]


def test_an_engine_deaf_to_cancelling_is_ended_within_a_second(start: Start) -> None:
    client = start(answer="abc", hang_at=2)
    client.load(plan())
    events = client.generate(prompt(), options())
    next(events)
    time.sleep(0.2)  # until it hangs
    began = time.monotonic()
    assert list(client.cancel()) == []
    assert time.monotonic() - began < 1.5
    with pytest.raises(ProcessLookupError):
        os.killpg(client.pid, 0)


def test_no_token_or_key_reaches_the_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = start(answer="x")
    client.load(plan())
    environment = Path(f"/proc/{client.pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"HF_HUB_OFFLINE=1" in environment


def test_many_prompts_each_with_an_end_of_its_own(start: Start) -> None:
    client = start()
    client.load(plan(context_length=10))
    requests = [("a", prompt("one"), options()), ("b", prompt("x" * 11), options()), ("c", prompt("two"), options())]
    texts: dict[str, str] = {}
    ends: dict[str, object] = {}
    for name, event in client.generate_many(requests, 2):
        if isinstance(event, Delta):
            texts[name] = texts.get(name, "") + event.text
        else:
            assert name not in ends
            ends[name] = event
    assert texts == {"a": "one", "c": "two"}
    assert isinstance(ends["b"], PromptTooLongError)
    assert "11 tokens" in ends["b"].message
    assert isinstance(ends["a"], Done)
    assert ends["a"].stats.prompt_tokens == 3
    assert set(ends) == {"a", "b", "c"}
    assert list(client.generate_many([], 4)) == []
    assert client.tokenize(prompt("a")) == [97]


def test_cancelling_many_ends_each(start: Start) -> None:
    client = start(answer="x" * 1000, token_seconds=0.02)
    client.load(plan())
    events = client.generate_many([(name, prompt(), options()) for name in "abc"], 2)
    assert isinstance(next(events)[1], Delta)
    ends = {name: event for name, event in client.cancel_many() if isinstance(event, Done)}
    assert set(ends) == {"a", "b", "c"}
    assert {end.finish_reason for end in ends.values()} == {FinishReason.CANCELLED}
    assert client.tokenize(prompt("a")) == [97]


def test_a_crash_ends_many_with_one_error(start: Start) -> None:
    client = start(answer="abcdef", crash_signal=int(signal.SIGSEGV), crash_at=4)
    client.load(plan())
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        list(client.generate_many([("a", prompt(), options()), ("b", prompt(), options())], 2))
