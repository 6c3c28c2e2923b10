"""Guessing ahead on the real library: the answer is the same with and without, whatever the sampling."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from greedy import greedy_options

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp import context as llama_cpp_context
from llmrun.engines.llama_cpp import engine as llama_cpp
from llmrun.engines.llama_cpp.engine import LlamaCppEngine, LlamaCppSession
from llmrun.engines.speculation import GuessController
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, LoadPlan, Notice, SamplingOptions, Segment
from llmrun.errors import UsageError

pytestmark = pytest.mark.engine

LIST = "".join(
    f"{number}. The {colour} box number {number * 37 % 101} is in the room.\n"
    for number, colour in enumerate(("red", "blue", "green", "old", "new", "big"))
)
PROMPTS = (
    "Name three primary colours.",
    "Count from one to ten.",
    "Why is the sky blue?",
    "Say the word hello five times.",
    "Give me a recipe for pancakes.",
    f"Copy this list:\n{LIST}",
    "Write a short poem about the sea.",
    "List the days of the week.",
    "Write a Python function that adds two numbers.",
    "What is 2 + 2?",
)


options = partial(greedy_options, max_tokens=40)


def load(path: Path, **changes: Any) -> LlamaCppSession:
    values: dict[str, Any] = {"context_length": 2048, "threads": 2, "threads_are_fixed": True}
    return LlamaCppEngine().load(LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(path), **(values | changes)))


def eager(session: LlamaCppSession) -> LlamaCppSession:
    """Have every guess checked, whether it pays or not."""
    session._decoder._control = GuessController(always=True)
    return session


@pytest.fixture(scope="module")
def plain(real_model: Path) -> Iterator[LlamaCppSession]:
    session = load(real_model, lookup="off")
    yield session
    session.close()


@pytest.fixture(scope="module")
def guessing(real_model: Path) -> Iterator[LlamaCppSession]:
    session = eager(load(real_model, lookup="on"))
    yield session
    session.close()


def ask(session: LlamaCppSession, question: str, wanted: SamplingOptions) -> tuple[str, Done]:
    session._context.close()  # what is left of an earlier prompt changes the batches in which this one is processed
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    *deltas, done = session.generate(session.tokenize([Segment(text=text, special=True)]), wanted, Cancellation())
    assert isinstance(done, Done)
    return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), done


def same(one: tuple[str, Done], other: tuple[str, Done]) -> bool:
    return (one[0], one[1].finish_reason, one[1].stats.completion_tokens) == (
        other[0],
        other[1].finish_reason,
        other[1].stats.completion_tokens,
    )


def test_greedy_answers_are_the_same(plain: LlamaCppSession, guessing: LlamaCppSession) -> None:
    pairs = [(ask(plain, prompt, options()), ask(guessing, prompt, options())) for prompt in PROMPTS]
    assert [prompt for prompt, pair in zip(PROMPTS, pairs, strict=True) if not same(*pair)] == []
    assert sum(pair[1][1].stats.accepted_tokens for pair in pairs) > 10, "hardly a guess was right: nothing is tested"
    assert sum(pair[1][1].stats.drafted_tokens - pair[1][1].stats.accepted_tokens for pair in pairs) > 10
    assert all(pair[0][1].stats.drafted_tokens == 0 for pair in pairs)


@pytest.mark.parametrize("prompt", [PROMPTS[1], PROMPTS[5], PROMPTS[3]])
@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"temperature": 0.8, "seed": 3}, id="temperature"),
        pytest.param({"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 9}, id="all samplers"),
        pytest.param({"repeat_penalty": 1.3}, id="penalty"),
        pytest.param({"max_tokens": 7}, id="limit"),
        pytest.param({"stop": ("ree", "box")}, id="stop texts"),
    ],
)
def test_the_same_random_numbers_give_the_same_answer(
    plain: LlamaCppSession, guessing: LlamaCppSession, prompt: str, wanted: dict[str, Any]
) -> None:
    assert same(ask(plain, prompt, options(**wanted)), ask(guessing, prompt, options(**wanted)))


def test_a_context_that_grows_and_ends_under_guesses(tmp_path: Path) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "random.gguf", **{"llama.context_length": 2048})
    answers = []
    for lookup in ("off", "on"):
        session = eager(load(path, lookup=lookup))
        answers.append(ask(session, "once", options(max_tokens=None)))
        session.close()
    assert same(*answers)
    assert answers[1][1].stats.drafted_tokens > 0
    if answers[0][1].finish_reason is FinishReason.CONTEXT:
        assert answers[0][1].stats.prompt_tokens + answers[0][1].stats.completion_tokens == 2048


@pytest.mark.parametrize("beginning", ["", "A long preface that says nothing. " * 45], ids=["short", "long"])
def test_unasked_a_guess_never_changes_a_bit(real_model: Path, beginning: str) -> None:
    prompt = f"{beginning}Copy this list:\n{LIST}"
    plain = load(real_model, lookup="off")
    expected = ask(plain, prompt, options(max_tokens=60))
    plain.close()
    session = eager(load(real_model, lookup="auto"))
    answer = ask(session, prompt, options(max_tokens=60))
    trials = dict(session._decoder._exact)
    session.close()
    assert same(answer, expected)
    assert len(trials) == 1, "each way of computing is tried out once"
    assert (answer[1].stats.drafted_tokens > 0) == next(iter(trials.values()))


def test_a_model_guesses_right_for_itself(plain: LlamaCppSession, real_model: Path) -> None:
    session = load(real_model, lookup="off", draft_path=str(real_model))
    try:
        # It never pays here, a draft being as dear as the answer: what is checked is what is sometimes tried.
        pairs = [(ask(plain, prompt, options()), ask(session, prompt, options())) for prompt in PROMPTS]
        assert all(same(*pair) for pair in pairs)
        drafted = sum(pair[1][1].stats.drafted_tokens for pair in pairs)
        accepted = sum(pair[1][1].stats.accepted_tokens for pair in pairs)
        assert drafted > 0
        assert accepted >= 0.95 * drafted - 2  # an answer may end among the guesses
    finally:
        session.close()


def test_a_draft_model_of_another_vocabulary(tmp_path: Path, real_model: Path) -> None:
    other = build.write_tiny_llama_gguf(tmp_path / "other.gguf")
    with pytest.raises(UsageError, match=r"other\.gguf cannot guess for .*number of tokens") as caught:
        load(real_model, draft_path=str(other))
    assert real_model.name in caught.value.message


def test_a_memory_that_cannot_go_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.write_tiny_llama_gguf(tmp_path / "tiny.gguf", answer="Paris")
    monkeypatch.setattr(llama_cpp, "can_go_back", lambda _api, _model: False)
    session = load(path, lookup="on")
    tokens = session.tokenize([Segment(text="<|im_start|>assistant\n", special=True)])
    notices = [event for event in session.generate(tokens, options(), Cancellation()) if isinstance(event, Notice)]
    again = [event for event in session.generate(tokens, options(), Cancellation()) if isinstance(event, Notice)]
    session.close()
    assert [notice.text for notice in notices] == [
        "nothing is guessed ahead: the memory of a recurrent model cannot go back"
    ]
    assert again == []


def test_a_memory_that_fails_to_go_back_costs_time_and_no_answer(
    real_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(real_model, lookup="off")
    prompt = PROMPTS[7]  # with no close call in its answer: a text that is processed again is rounded otherwise
    expected = ask(session, prompt, options())
    session.close()
    session = eager(load(real_model, lookup="on"))
    refused = []

    def refuse(_api: Any, _model: Any, _context: Any, _sequence: int, count: int) -> bool:
        refused.append(count)
        return False

    monkeypatch.setattr(llama_cpp_context, "cut_sequence", refuse)
    answer = ask(session, prompt, options())
    monkeypatch.undo()
    session.close()
    assert len(refused) == 1
    assert same(answer, expected)
