"""Many tokens decoded in one call: the answer, and what the context holds after it, are those of one by one."""

import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from greedy import greedy_options

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp import context as llama_cpp_context
from llmrun.engines.llama_cpp import sampling
from llmrun.engines.llama_cpp.burst import Burst, can_burst
from llmrun.engines.llama_cpp.engine import LlamaCppEngine, LlamaCppSession
from llmrun.engines.speculation import TextLookup
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, LoadPlan, SamplingOptions, Segment
from llmrun.errors import EngineCrashedError

pytestmark = pytest.mark.engine

QUESTION = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
POEM = QUESTION.format("Write a short poem about the sea.")
COUNT = QUESTION.format("Count from one to ten, and again.")
BACK = "<|im_end|>\n<|im_start|>user\nSay that again.<|im_end|>\n<|im_start|>assistant\n"
Session = LlamaCppSession
Result = tuple[str, FinishReason, int]


options = partial(greedy_options, top_p=0.95, top_k=40, min_p=0.05, max_tokens=48, seed=3)


def load(path: Path, lookup: str = "off", **changes: Any) -> Session:
    values: dict[str, Any] = {"context_length": 2048, "threads": 1, "lookup": lookup}
    return LlamaCppEngine().load(LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(path), **(values | changes)))


def ask(session: Session, text: str, wanted: SamplingOptions, cancel: Cancellation | None = None) -> Result:
    tokens = session.tokenize([Segment(text=text, special=True)])
    *deltas, done = session.generate(tokens, wanted, cancel or Cancellation())
    assert isinstance(done, Done)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    return text, done.finish_reason, done.stats.completion_tokens


def held(session: Session) -> tuple[list[int], bytes]:
    """Return the tokens that the context says it holds, and their keys and values."""
    return list(session._context.processed), bytes(session._context.save_state())


@pytest.fixture(scope="module")
def session(real_model: Path) -> Iterator[Session]:
    session = load(real_model)
    assert can_burst(session._api), "this build lacks the function: everything comes one by one"
    yield session
    session.close()


@pytest.fixture(scope="module")
def guessing(real_model: Path) -> Iterator[dict[str, Session]]:
    sessions = {lookup: load(real_model, lookup) for lookup in ("auto", "on")}
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.fixture
def bursts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """What came of each burst: the text before it, and its tokens."""
    seen: list[tuple[list[int], list[int]]] = []
    run = Burst.run

    def watch(burst: Burst, context: Any, text: list[int], *limits: Any) -> int:
        before = list(text)
        status = run(burst, context, text, *limits)
        seen.append((before, burst.tokens))
        return status

    monkeypatch.setattr(Burst, "run", watch)
    return seen


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that calls another one while no token comes in a burst."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "can_burst", lambda _api: False)
            return function(*arguments)

    return call


def conversation(session: Session, first: SamplingOptions, text: str = POEM) -> tuple[Any, ...]:
    """Ask, and ask again: the answers and what the context held after the first."""
    session._context.close()
    answer = ask(session, text, first)
    after = held(session)
    return answer, after, ask(session, text + answer[0] + BACK, options(max_tokens=20))


SAMPLING = [
    pytest.param({}, id="greedy"),
    pytest.param({"temperature": 0.9}, id="all samplers"),
    pytest.param({"temperature": 1.1, "top_k": 256, "top_p": 1.0, "min_p": 0.0, "seed": 11}, id="many candidates"),
    pytest.param({"max_tokens": 7}, id="limit"),
    pytest.param({"max_tokens": 2}, id="one token after the first"),
    pytest.param({"stop": ("sea", "and the")}, id="stop texts"),
    pytest.param({"stop": ("e",), "temperature": 0.8}, id="a stop text at once"),
    pytest.param({"ignore_end": True, "max_tokens": 90}, id="on past the end"),
]


@pytest.mark.parametrize("wanted", SAMPLING)
def test_the_conversation_is_the_same_to_the_last_bit(
    session: Session, one_by_one: Callable[..., Any], bursts: list[Any], wanted: dict[str, Any]
) -> None:
    expected = one_by_one(conversation, session, options(**wanted))
    assert not bursts
    assert conversation(session, options(**wanted)) == expected
    assert bursts


def test_a_burst_gives_many_tokens_and_none_is_before_the_first(session: Session, bursts: list[Any]) -> None:
    session._context.close()
    prompt = session.tokenize([Segment(text=POEM, special=True)])
    ask(session, POEM, options())
    assert len(bursts[0][0]) == len(prompt) + 1
    assert sum(len(tokens) for _text, tokens in bursts) == 47
    assert max(len(tokens) for _text, tokens in bursts) > 1
    assert all(after[0] == before[0] + before[1] for before, after in itertools.pairwise(bursts))


@pytest.mark.parametrize("lookup", ["auto", "on"])
@pytest.mark.parametrize("text", [POEM, COUNT])
@pytest.mark.parametrize("wanted", SAMPLING[:2] + SAMPLING[5:6])
def test_guesses_are_made_where_they_were(
    guessing: dict[str, Session],
    one_by_one: Callable[..., Any],
    bursts: list[tuple[list[int], list[int]]],
    lookup: str,
    text: str,
    wanted: dict[str, Any],
) -> None:
    session = guessing[lookup]
    session._context.close()
    expected = one_by_one(ask, session, text, options(**wanted))
    session._context.close()
    assert ask(session, text, options(**wanted)) == expected
    for before, tokens in bursts:
        known = TextLookup()
        known.extend(before)
        for token in tokens[:-1]:
            known.extend([token])
            assert known.guess(1) is None, "a burst went on where there was something to guess"


def test_the_end_of_the_turn_ends_a_burst(
    tmp_path: Path, one_by_one: Callable[..., Any], bursts: list[tuple[list[int], list[int]]]
) -> None:
    session = load(build.write_tiny_llama_gguf(tmp_path / "tiny.gguf", answer="Paris"))
    text = "<|im_start|>assistant\n"
    expected = one_by_one(ask, session, text, options())
    after = held(session)
    session._context.close()
    assert ask(session, text, options()) == expected == ("Paris", FinishReason.STOP, 5)
    assert held(session) == after
    assert sum(len(tokens) for _text, tokens in bursts) == 5  # without the first, with the end
    session.close()


@pytest.mark.parametrize("lookup", ["off", "on"])
def test_the_context_grows_between_bursts(tmp_path: Path, one_by_one: Callable[..., Any], lookup: str) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "random.gguf", **{"llama.context_length": 2048})
    session = load(path, lookup)
    wanted = options(max_tokens=None, ignore_end=True, temperature=1.0)
    expected = one_by_one(ask, session, "once", wanted)
    after = list(session._context.processed)
    session._context.close()
    assert ask(session, "once", wanted) == expected
    assert session._context.processed == after
    assert len(after) == 2047
    session.close()


def test_cancelling_in_the_middle_of_a_burst(
    session: Session, one_by_one: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = Cancellation()
    run, started, statuses = Burst.run, threading.Event(), []

    def run_for_long(burst: Burst, context: Any, text: list[int], most: int, _seconds: float) -> int:
        started.set()
        statuses.append(run(burst, context, text, most, 60.0))
        return statuses[-1]

    def stop() -> None:
        started.wait()
        threading.Event().wait(0.05)
        cancel.request()

    monkeypatch.setattr(Burst, "run", run_for_long)
    session._context.close()
    stopper = threading.Thread(target=stop)
    stopper.start()
    answer = ask(session, POEM, options(max_tokens=1500, ignore_end=True), cancel)
    stopper.join()
    assert statuses == [2], "it was not cancelled inside the only burst"
    assert answer[1] is FinishReason.CANCELLED
    assert 1 < answer[2] < 300
    after = held(session)
    follow_up = ask(session, POEM + answer[0] + BACK, options(max_tokens=20))
    session._context.close()
    as_far = one_by_one(ask, session, POEM, options(max_tokens=answer[2], ignore_end=True))
    assert as_far[0] == answer[0]
    assert held(session) == after
    assert ask(session, POEM + answer[0] + BACK, options(max_tokens=20)) == follow_up


def test_leaving_an_answer_between_two_bursts(session: Session, one_by_one: Callable[..., Any]) -> None:
    session._context.close()
    tokens = session.tokenize([Segment(text=POEM, special=True)])
    events = session.generate(tokens, options(), Cancellation())
    texts = [event.text for event in itertools.islice(events, 3) if isinstance(event, Delta)]
    events.close()  # type: ignore[attr-defined]
    processed = list(session._context.processed)
    assert len(tokens) < len(processed) < len(tokens) + 48
    session._context.close()
    whole = one_by_one(conversation, session, options())
    assert whole[0][0].startswith("".join(texts))
    assert whole[1][0][: len(processed)] == processed


class FailingBurst(Burst):
    """Fails at its third token."""

    def run(self, context: Any, text: Any, most: int, seconds: float) -> int:
        super().run(context, text, min(most, 2), seconds)
        return -3


def test_a_failure_is_told_and_what_was_processed_is_known(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session._context.close()
    monkeypatch.setattr(sampling, "Burst", FailingBurst)
    with pytest.raises(EngineCrashedError, match="status -3"):
        ask(session, POEM, options())
    monkeypatch.undo()
    follow_up = ask(session, POEM, options())
    session._context.close()
    assert ask(session, POEM, options()) == follow_up


@pytest.mark.parametrize("wanted", [{"logprobs": 2}, {"repeat_penalty": 1.2}, {"grammar": 'root ::= "a" | "b"'}])
def test_what_needs_every_token_gets_each(session: Session, bursts: list[Any], wanted: dict[str, Any]) -> None:
    assert ask(session, POEM, options(**wanted, max_tokens=5))[2] > 0
    assert not bursts


def test_stop_texts_where_the_memory_cannot_go_back(
    session: Session, bursts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_context, "can_go_back", lambda _api, _model: False)
    ask(session, POEM, options(stop=("xyz",), max_tokens=5))
    assert not bursts
    ask(session, POEM, options(max_tokens=5))
    assert bursts
