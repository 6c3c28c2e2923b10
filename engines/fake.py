"""An engine without a model, for tests of everything around an engine; `--engine fake` selects it.

It tokenizes a byte per token and answers from a script, given as JSON in the environment variable LLMRUN_FAKE, that
can also make it fail in the ways real engines do and cannot be asked to: die by a signal at a given token, hang, flood
standard error, stop in the middle of a character. Without the variable it echoes the prompt.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.protocol import BatchEvent, BatchRequest, Failure, check_prompt
from llmrun.engines.textstream import TextStream
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment, Stats
from llmrun.errors import LlmrunError, ModelFileError, UsageError

__all__ = ["FakeEngine", "FakeSession", "Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the fake engine does.

    Attributes:
        answer: Text of the answer; None echoes the prompt.
        answer_hex: The answer as bytes instead, for text that is no UTF-8.
        token_seconds: Time that each token takes.
        load_seconds: Time that loading takes.
        load_error: Refuse to load, with this message.
        crash_signal: Die by this signal …
        crash_at: … before this token (0: while loading).
        hang_at: Stop answering before this token, deaf to cancellation.
        prefill_seconds: Time before the first token, during which a cancellation is noticed.
        stderr: Text to write to standard error while loading.
        stderr_bytes: Write so many bytes to standard error while loading.
        stdout: Text to print to standard output while loading, as native libraries do.
        raise_at: Raise a bug before this token.
        wobble: Of four answers two take so much longer for each token, as a share.
        only_prompt: What is to go wrong at a token does so only where the prompt holds this text.
    """

    answer: str | None = None
    answer_hex: str | None = None
    token_seconds: float = 0.0
    load_seconds: float = 0.0
    load_error: str | None = None
    crash_signal: int | None = None
    crash_at: int = 0
    hang_at: int | None = None
    prefill_seconds: float = 0.0
    stderr: str = ""
    stderr_bytes: int = 0
    stdout: str = ""
    raise_at: int | None = None
    wobble: float = 0.0
    only_prompt: str | None = None


def read_script() -> Script:
    """Return the script in LLMRUN_FAKE.

    Raises:
        UsageError: It is no JSON object, or has unknown keys.
    """
    text = os.environ.get("LLMRUN_FAKE", "{}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"LLMRUN_FAKE is not JSON: {error}") from error
    unknown = set(values) - {field.name for field in fields(Script)}
    if unknown:
        raise UsageError(f"LLMRUN_FAKE has unknown keys: {', '.join(sorted(unknown))}")
    return Script(**values)


class FakeEngine:
    """Does what the script says."""

    name = EngineName.FAKE

    def load(self, plan: LoadPlan, progress: Callable[[float], None]) -> "FakeSession":
        """Pretend to load a model."""
        script = read_script()
        if script.stderr or script.stderr_bytes:
            sys.stderr.write(script.stderr + "x" * script.stderr_bytes)
            sys.stderr.flush()
        if script.stdout:
            print(script.stdout, flush=True)  # noqa: T201 - this is what the test is about
        progress(0.5)
        time.sleep(script.load_seconds)
        if script.load_error is not None:
            raise ModelFileError(script.load_error)
        if script.crash_signal is not None and script.crash_at == 0:
            os.kill(os.getpid(), script.crash_signal)
        return FakeSession(plan, script)


class FakeSession:
    """A session whose tokens are bytes."""

    def __init__(self, plan: LoadPlan, script: Script) -> None:
        self._plan = plan
        self._script = script
        self._answers = 0

    @property
    def context_length(self) -> int:
        """Tokens (bytes) of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Return the bytes of the prompt."""
        return list("".join(segment.text for segment in segments).encode())

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Give the scripted answer, byte by byte; ids of another vocabulary count as bytes too."""
        tokens = [token & 0xFF for token in tokens]
        script = self._script
        self._answers += 1
        token_seconds = script.token_seconds * (1 + script.wobble * (self._answers // 2 % 2))
        times: list[float] = []
        answer = self._answer(tokens)
        room = self._plan.context_length - len(tokens)
        limit = room if options.max_tokens is None else min(room, options.max_tokens)
        if options.ignore_end:
            answer *= 1 + limit // max(1, len(answer))
        stream = TextStream(options.stop)
        behaves_badly = script.only_prompt is None or script.only_prompt.encode() in bytes(tokens)
        started = time.perf_counter()
        while time.perf_counter() - started < script.prefill_seconds and not cancel.requested:
            time.sleep(0.01)
        first = time.perf_counter()
        count = 0
        for byte in answer[:limit]:
            if cancel.requested or stream.stopped:
                break
            if behaves_badly:
                self._misbehave(count + 1)
            time.sleep(token_seconds)
            count += 1
            times.append(time.perf_counter())
            if text := stream.feed(bytes([byte])):
                yield Delta(text=text)
        if text := stream.finish():
            yield Delta(text=text)
        stats = Stats(
            prompt_tokens=len(tokens),
            completion_tokens=count,
            prefill_seconds=first - started,
            decode_seconds=time.perf_counter() - first,
            token_times=tuple(times) if options.timed else (),
        )
        yield Done(finish_reason=self._reason(stream, cancel, len(answer), limit, room), stats=stats)

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer up to `parallel` requests in turns, a piece of each."""
        source = iter(requests)
        running: deque[tuple[str, Iterator[Event]]] = deque()
        while True:
            while len(running) < parallel and (request := next(source, None)) is not None:
                try:
                    check_prompt(request.tokens, self.context_length)
                except LlmrunError as error:
                    yield request.id, Failure(error=error)
                    continue
                running.append((request.id, self.generate(request.tokens, request.options, cancel)))
            if not running:
                return
            name, events = running.popleft()
            event = next(events, None)
            if event is not None:
                yield name, event
                running.append((name, events))

    def _answer(self, tokens: Sequence[int]) -> bytes:
        if self._script.answer_hex is not None:
            return bytes.fromhex(self._script.answer_hex)
        if self._script.answer is not None:
            return self._script.answer.encode()
        return bytes(tokens)

    @staticmethod
    def _reason(stream: TextStream, cancel: Cancellation, length: int, limit: int, room: int) -> FinishReason:
        if stream.stopped:
            return FinishReason.STOP
        if cancel.requested:
            return FinishReason.CANCELLED
        if length <= limit:
            return FinishReason.STOP
        return FinishReason.CONTEXT if limit == room else FinishReason.LENGTH

    def _misbehave(self, token: int) -> None:
        script = self._script
        if script.crash_signal is not None and token == script.crash_at:
            os.kill(os.getpid(), script.crash_signal)
        if token == script.raise_at:
            raise ZeroDivisionError("a bug in an adapter")
        while token == script.hang_at:
            time.sleep(1)

    def close(self) -> None:
        """Nothing to give back."""
