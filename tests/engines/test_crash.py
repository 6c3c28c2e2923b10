"""A dead process is explained by its cause."""

import signal

import pytest

from llmrun.engines.crash import crash_error
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import EngineCrashedError, LlmrunError, NotEnoughMemoryError, NoUsableEngineError

PLAN = LoadPlan(
    engine=EngineName.LLAMA_CPP, model_path="m.gguf", context_length=512, threads=1, estimated_bytes=3 << 30
)


@pytest.mark.parametrize(
    ("status", "evidence", "kind", "said"),
    [
        pytest.param(
            -signal.SIGILL, "", NoUsableEngineError, "instructions that this processor does not have", id="ill"
        ),
        pytest.param(-signal.SIGBUS, "", EngineCrashedError, "cut short or replaced", id="bus"),
        pytest.param(-signal.SIGKILL, "", EngineCrashedError, "expected to need 3.0 GiB", id="kill"),
        pytest.param(-signal.SIGSEGV, "loading\nlayer 3", EngineCrashedError, "SIGSEGV): layer 3", id="segv"),
        pytest.param(
            -signal.SIGABRT,
            "x\nggml.c:12: GGML_ASSERT(n > 0) failed\nmore",
            EngineCrashedError,
            "GGML_ASSERT(n > 0) failed",
            id="assert",
        ),
        pytest.param(
            -signal.SIGABRT,
            "terminate called after throwing an instance of 'std::bad_alloc'",
            NotEnoughMemoryError,
            "ran out of memory",
            id="bad_alloc",
        ),
        pytest.param(-signal.SIGABRT, "", EngineCrashedError, "without a word", id="abort, silent"),
        pytest.param(1, "ZeroDivisionError: a bug", EngineCrashedError, "exit status 1): ZeroDivisionError", id="bug"),
        pytest.param(1, "MemoryError", NotEnoughMemoryError, "ran out of memory", id="python memory"),
        pytest.param(-64, "", EngineCrashedError, "SIGRTMAX", id="real-time signal"),
        pytest.param(-99, "", EngineCrashedError, "signal 99", id="unheard-of signal"),
    ],
)
def test_cause(status: int, evidence: str, kind: type[LlmrunError], said: str) -> None:
    error = crash_error(EngineName.LLAMA_CPP, status, evidence, PLAN)
    assert type(error) is kind
    assert said in error.message


def test_illegal_instruction_says_how_to_rebuild() -> None:
    assert crash_error(EngineName.LLAMA_CPP, -signal.SIGILL, "", None).fix == "llmrun install llama-cpp --rebuild"
