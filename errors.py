"""Every intended failure of llmrun, drawn as one tree, each with its exit code.

::

    LlmrunError                   1   (only its subclasses are raised)
    ├── UsageError                2   an option or value that cannot be honoured
    ├── ModelNotFoundError        3   no such catalogue name, path, repository or file
    ├── ModelFileError            4   the file is not a model, is damaged, or is unsupported
    ├── NotEnoughMemoryError      5   the plan does not fit in the memory this process may use
    ├── NoUsableEngineError       6   no engine can run this model here
    ├── NetworkError              7   unreachable, refused, unauthorized, or corrupted in transit
    ├── StorageError              8   disk full, or the cache cannot be read or written
    ├── SecurityError             9   refused because it would be unsafe
    ├── PromptTooLongError       10   the prompt has more tokens than the context
    ├── BatchIncompleteError     12   some requests of a batch failed
    ├── EngineCrashedError       70   the engine's process died; says by which signal, and why
    ├── OutputError              74   standard output could not be written
    └── EngineTimeoutError       75   the engine or a template took longer than its limit

Ended by a signal (129 HUP, 130 INT, 141 PIPE, 143 TERM) is not an error and has no class here, and neither is a replay
that gives another answer (11).
A library function raises one of these with the sentence that the user should read, and, where there is one,
the command or option that mends it. Only `llmrun.cli.app.main` prints them. Anything else that escapes is a bug
(exit code 1) and keeps its traceback.
"""

from enum import IntEnum

__all__ = [
    "BatchIncompleteError",
    "EngineCrashedError",
    "EngineTimeoutError",
    "ExitCode",
    "LlmrunError",
    "ModelFileError",
    "ModelNotFoundError",
    "NetworkError",
    "NoUsableEngineError",
    "NotEnoughMemoryError",
    "OutputError",
    "PromptTooLongError",
    "SecurityError",
    "StorageError",
    "UsageError",
]


class ExitCode(IntEnum):
    """The process exit codes that scripts may rely on; documented in docs/exit-codes.md."""

    OK = 0
    BUG = 1
    USAGE = 2
    MODEL_NOT_FOUND = 3
    MODEL_FILE = 4
    NOT_ENOUGH_MEMORY = 5
    NO_USABLE_ENGINE = 6
    NETWORK = 7
    STORAGE = 8
    SECURITY = 9
    PROMPT_TOO_LONG = 10
    ANSWER_DIFFERS = 11
    BATCH_INCOMPLETE = 12
    ENGINE_CRASHED = 70
    OUTPUT = 74
    ENGINE_TIMEOUT = 75
    HUP = 129
    INTERRUPTED = 130
    PIPE = 141
    TERMINATED = 143


class LlmrunError(Exception):
    """An intended failure.

    Attributes:
        message: One sentence: what happened, with what was wanted and what was found.
        fix: The command or option that mends it, or None.
        exit_code: What the process exits with.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class UsageError(LlmrunError):
    """An option or value that cannot be honoured."""

    exit_code = ExitCode.USAGE


class ModelNotFoundError(LlmrunError):
    """No such catalogue name, path, repository or file."""

    exit_code = ExitCode.MODEL_NOT_FOUND


class ModelFileError(LlmrunError):
    """The file is not a model, is damaged, or is of a kind that llmrun does not support."""

    exit_code = ExitCode.MODEL_FILE


class NotEnoughMemoryError(LlmrunError):
    """The plan does not fit in the memory that this process may use."""

    exit_code = ExitCode.NOT_ENOUGH_MEMORY


class NoUsableEngineError(LlmrunError):
    """No engine can run this model on this machine."""

    exit_code = ExitCode.NO_USABLE_ENGINE


class NetworkError(LlmrunError):
    """A server was unreachable, refused the request, wants authorization, or sent damaged data."""

    exit_code = ExitCode.NETWORK


class StorageError(LlmrunError):
    """The disk is full, or the cache cannot be read or written."""

    exit_code = ExitCode.STORAGE


class SecurityError(LlmrunError):
    """Refused because doing it would be unsafe."""

    exit_code = ExitCode.SECURITY


class PromptTooLongError(LlmrunError):
    """The prompt has more tokens than the context can hold."""

    exit_code = ExitCode.PROMPT_TOO_LONG


class BatchIncompleteError(LlmrunError):
    """Some requests of a batch failed; all others have been answered."""

    exit_code = ExitCode.BATCH_INCOMPLETE


class EngineCrashedError(LlmrunError):
    """The engine's process died."""

    exit_code = ExitCode.ENGINE_CRASHED


class OutputError(LlmrunError):
    """Standard output could not be written (other than by a reader that went away)."""

    exit_code = ExitCode.OUTPUT


class EngineTimeoutError(LlmrunError):
    """The engine or a chat template took longer than its limit."""

    exit_code = ExitCode.ENGINE_TIMEOUT
