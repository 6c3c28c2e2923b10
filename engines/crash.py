"""What a dead engine process means, from how it ended and what it printed last.

A native library that fails does not raise: it aborts, is killed, or jumps into an instruction the processor does not
have. Each of these has a usual cause here, and the user should read that cause, not a signal number.
"""

import re
import signal

from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import EngineCrashedError, LlmrunError, NotEnoughMemoryError, NoUsableEngineError

__all__ = ["crash_error"]

_GIB = 1 << 30
_ASSERTION = re.compile(r"(?:GGML_ASSERT\(.*\) failed.*|.*[Aa]ssertion .*failed.*|terminate called.*|.*what\(\):.*)")
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|out of memory|failed to allocate|cannot allocate memory|MemoryError", re.IGNORECASE
)


def crash_error(engine: EngineName, status: int, evidence: str, plan: LoadPlan | None) -> LlmrunError:
    """Return the error that a dead process stands for.

    Args:
        engine: Which engine ran there.
        status: Exit status as `subprocess` gives it: negative for a signal.
        evidence: The last that the process printed.
        plan: What it was asked to load, if it got that far.
    """
    if status >= 0:
        return _exited(engine, status, evidence)
    match -status:
        case signal.SIGILL:
            return NoUsableEngineError(
                f"{engine} is built for instructions that this processor does not have (SIGILL)",
                fix=f"llmrun install {engine} --rebuild",
            )
        case signal.SIGBUS:
            return EngineCrashedError(
                f"{engine} lost the model file while it was reading it (SIGBUS): the file was cut short or replaced, "
                "or its disk failed",
                fix="download the model again",
            )
        case signal.SIGKILL:
            return _killed(engine, plan)
        case signal.SIGABRT:
            return _aborted(engine, evidence)
        case number:
            return EngineCrashedError(f"{engine} crashed ({_name(number)}){_last_words(evidence)}")


def _exited(engine: EngineName, status: int, evidence: str) -> LlmrunError:
    if _OUT_OF_MEMORY.search(evidence):
        return NotEnoughMemoryError(
            f"{engine} ran out of memory{_last_words(evidence)}", fix="a smaller --context-length"
        )
    return EngineCrashedError(f"the process of {engine} ended by itself (exit status {status}){_last_words(evidence)}")


def _killed(engine: EngineName, plan: LoadPlan | None) -> LlmrunError:
    need = f"; it was expected to need {plan.estimated_bytes / _GIB:.1f} GiB" if plan and plan.estimated_bytes else ""
    return EngineCrashedError(
        f"{engine} was killed by the system (SIGKILL), most likely because memory ran out{need}",
        fix="a smaller --context-length, or a smaller quantization of the model",
    )


def _aborted(engine: EngineName, evidence: str) -> LlmrunError:
    if _OUT_OF_MEMORY.search(evidence):
        return NotEnoughMemoryError(
            f"{engine} ran out of memory{_last_words(evidence)}", fix="a smaller --context-length"
        )
    found = _ASSERTION.findall(evidence)
    cause = f": {found[-1].strip()}" if found else _last_words(evidence)
    return EngineCrashedError(f"{engine} gave up (SIGABRT){cause}")


def _last_words(evidence: str) -> str:
    lines = [line.strip() for line in evidence.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else " without a word"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
