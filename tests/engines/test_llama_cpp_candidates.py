"""The few most likely tokens, found by the library's own function: the same as llama.cpp's chain finds."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from greedy import greedy_options

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp import sampling
from llmrun.engines.llama_cpp.candidates import find_candidates
from llmrun.engines.llama_cpp.engine import LlamaCppEngine, LlamaCppSession
from llmrun.engines.types import Delta, EngineName, LoadPlan, SamplingOptions, Segment

pytestmark = pytest.mark.engine

TEXT = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"


options = partial(greedy_options, temperature=0.9, top_p=0.95, top_k=40, min_p=0.05, max_tokens=80, seed=5)


@pytest.fixture(scope="module")
def session(real_model: Path) -> Iterator[LlamaCppSession]:
    plan = LoadPlan(
        engine=EngineName.LLAMA_CPP,
        model_path=str(real_model),
        context_length=1024,
        threads=2,
        threads_are_fixed=True,
        lookup="off",
    )
    session = LlamaCppEngine().load(plan)
    yield session
    session.close()


def ask(session: LlamaCppSession, wanted: SamplingOptions) -> str:
    session._context.close()
    tokens = session.tokenize([Segment(text=TEXT, special=True)])
    events = session.generate(tokens, wanted, Cancellation())
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"temperature": 0.0}, id="greedy"),
        pytest.param({}, id="all samplers"),
        pytest.param({"top_k": 1}, id="one"),
        pytest.param({"top_k": 256, "top_p": 1.0, "min_p": 0.0, "seed": 11}, id="many"),
        pytest.param({"top_p": 0.5, "seed": 7}, id="nucleus"),
    ],
)
def test_the_answer_is_that_of_the_whole_chain(
    session: LlamaCppSession, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    found = []

    def watch(*arguments: Any) -> Any:
        found.append(find_candidates(*arguments))
        return found[-1]

    monkeypatch.setattr(sampling, "find_candidates", watch)
    fast = ask(session, options(**wanted))
    assert found[-1] is not None, "this build lacks the function: the chain did everything"
    monkeypatch.setattr(sampling, "find_candidates", lambda *_: None)
    assert ask(session, options(**wanted)) == fast
    assert len(fast) > 50


@pytest.mark.parametrize("wanted", [{"repeat_penalty": 1.2}, {"top_k": 0}, {"top_k": 257}, {"grammar": 'root ::= "a"'}])
def test_what_needs_all_logits_gets_them(session: LlamaCppSession, wanted: dict[str, Any]) -> None:
    assert find_candidates(session._api, session._vocabulary.size, options(**wanted)) is None
