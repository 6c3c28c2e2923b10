"""What vLLM's exceptions mean for the user: one line with the true cause, and what to do.

vLLM wraps causes in pydantic reports, in advice about its own command line, and, for several processes, in "Engine core
initialization failed"; which class is raised says little, so the words decide.
"""

import re
import traceback

from llmrun.errors import LlmrunError, ModelFileError, NotEnoughMemoryError, NoUsableEngineError, UsageError

__all__ = ["NOT_FINITE", "load_error", "request_error"]

NOT_FINITE = "the model's output is not finite"
"""What our logits processor raises; it may come from another process, so that the text has to be recognised."""

_MEMORY = re.compile(
    r"out of memory|OutOfMemory|KV cache is needed|No available memory for the cache|Free memory on device"
    r"|Available memory on node|cannot allocate memory|can't allocate memory|bad_alloc|larger than the available KV",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"are not supported for now|not supported by vLLM|no longer supported|has no vLLM implementation"
    r"|does not recognize this architecture|is not supported on|only supported on GPUs|not supported for quantization"
    r"|failed to be inspected|No module named|is not supported by|do not support|does not support",
    re.IGNORECASE,
)
_DTYPE = re.compile(r"bfloat16 is only supported on GPUs", re.IGNORECASE)
_NO_CAUSE = re.compile(r"Engine core initialization failed|See (?:the )?(?:root cause|stack trace)", re.IGNORECASE)
_FRAME = re.compile(r"^\s*(?:For further information|\[type=|Value error,\s*$|\d+ validation errors? for)")


def load_error(error: BaseException, path: str, logged: str = "") -> LlmrunError:
    """Return what an exception at loading stands for.

    Args:
        error: What vLLM raised.
        path: The folder.
        logged: The last error that it logged, which has the cause when another process failed.
    """
    cause = describe(error)
    if _NO_CAUSE.search(cause) and logged:
        cause = logged
    if isinstance(error, AssertionError) and not str(error) and _reads_weights(error):
        cause = "a tensor has another shape than config.json says"
    everything = f"{type(error).__name__} {error} {logged}"
    if isinstance(error, MemoryError) or _MEMORY.search(everything):
        return NotEnoughMemoryError(f"vLLM could not load {path}: {cause}", fix="a smaller --context-length")
    if _DTYPE.search(everything):
        return NoUsableEngineError(f"vLLM cannot load {path} here: {cause}", fix="--dtype float16")
    if _UNSUPPORTED.search(everything):
        return NoUsableEngineError(f"vLLM does not run {path}: {cause}", fix="--engine pytorch")
    return ModelFileError(f"vLLM refused {path}: {cause}", fix="download the model again, or --engine pytorch")


def _reads_weights(error: BaseException) -> bool:
    """Return whether it was raised while weights were put into their places: vLLM asserts their shapes wordlessly."""
    frames = traceback.walk_tb(error.__traceback__)
    return any("load_weights" in frame.f_code.co_name or "weight_loader" in frame.f_code.co_name for frame, _ in frames)


def request_error(error: BaseException, path: str) -> LlmrunError | None:
    """Return what an exception while generating stands for; None for a bug."""
    if NOT_FINITE in str(error):
        return ModelFileError(
            f"the weights of {path} look damaged: {NOT_FINITE}",
            fix="download the model again",
        )
    if isinstance(error, MemoryError) or _MEMORY.search(f"{type(error).__name__} {error}"):
        return NotEnoughMemoryError(f"vLLM ran out of memory: {describe(error)}", fix="a smaller --context-length")
    if type(error).__name__ in ("VLLMValidationError", "ValueError"):
        return UsageError(f"vLLM refused the request: {describe(error)}")
    return None


def describe(error: BaseException) -> str:
    """Return the cause in one line: that of the innermost exception that has one."""
    while error.__cause__ is not None and (not str(error) or _NO_CAUSE.search(str(error))):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _FRAME.match(line)]
    lines = [line for line in lines if " " in line] or lines
    if not lines:
        return type(error).__name__
    line = re.sub(r"^Value error,\s*", "", lines[0])
    line = re.split(r"\s*\[type=|(?<=\.) The available parameters", line)[0]
    name = type(error).__name__
    plain = f"{name}: {line}" if isinstance(error, KeyError | AttributeError | AssertionError | IndexError) else line
    return plain[:400]
