"""Answers the requests of a batch with a worker process, and goes on when that process dies.

Requests are rendered when the worker asks for them. If the process dies or falls silent, those that it had begun are
under suspicion: a new process gets them one by one, so that the one that cannot be answered gets the error and no
other does. Several such errors in a row are not the fault of requests: then the batch ends with the last of them.

A prompt that may be too long is set aside when some of it may be left out: only an idle worker can count tokens.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from llmrun.engines.batch.fitting import Fitter
from llmrun.engines.batch.request import BatchItem
from llmrun.engines.client import Interrupted, WorkerClient
from llmrun.engines.conversation.reasoning import opening_mark
from llmrun.engines.conversation.shorten import Shortened
from llmrun.engines.types import Delta, Done, Event, FinishReason, Notice, SamplingOptions, Segment, TokenLogprob
from llmrun.errors import EngineCrashedError, EngineTimeoutError, ExitCode, LlmrunError
from llmrun.models.prompt.conversation import RenderedPrompt

__all__ = ["BatchRunner", "Outcome"]

_MOST_FAILURES = 3  # in a row, of those that are no request's own fault
_NOT_ITS_FAULT = frozenset(
    {
        ExitCode.MODEL_FILE,
        ExitCode.NOT_ENOUGH_MEMORY,
        ExitCode.NO_USABLE_ENGINE,
        ExitCode.ENGINE_CRASHED,
        ExitCode.ENGINE_TIMEOUT,
    }
)
_SET_ASIDE = 16  # requests that may be too long, before the others wait for them


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a request.

    Attributes:
        item: The request.
        pieces: The text of the answer, as it came.
        logprobs: Of its tokens, if they were asked for.
        notices: What the user should know about it.
        overflow: What was left out of the prompt.
        opened: The mark of reasoning that the prompt ends with.
        done: The end of the answer, or None if it failed.
        error: Why it failed.
    """

    item: BatchItem
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    overflow: Shortened | None = None
    opened: str = ""
    done: Done | None = None
    error: LlmrunError | None = None

    @property
    def text(self) -> str:
        """All of the answer."""
        return "".join(self.pieces)


class BatchRunner:
    """One batch.

    Args:
        start: Returns a worker that has the model loaded.
        render: Turns a request into what the model sees.
        fitter: Cuts what is too long.
        parallel: How many answers are written at once.
        interrupt: When this descriptor becomes readable, the batch ends.
        note: Tells the user something.

    Attributes:
        worker: The worker of the moment.
    """

    def __init__(
        self,
        start: Callable[[], WorkerClient],
        render: Callable[[BatchItem], RenderedPrompt],
        fitter: Fitter,
        parallel: int,
        interrupt: int,
        note: Callable[[str], None],
    ) -> None:
        self._start = start
        self._render = render
        self._fitter = fitter
        self._parallel = parallel
        self._interrupt = interrupt
        self._note = note
        self.worker: WorkerClient | None = None
        self._under_way: dict[str, Outcome] = {}  # sent, and not ended
        self._begun: set[str] = set()  # of those, the ones that the engine has
        self._ended: list[Outcome] = []  # failed before they were sent
        self._aside: list[BatchItem] = []  # may be too long
        self._fitted: deque[tuple[Outcome, RenderedPrompt]] = deque()  # were too long, and are to be sent
        self._failures = 0

    def run(self, items: Iterator[BatchItem]) -> Iterator[Outcome]:
        """Yield what came of each request, in the order in which they end.

        Raises:
            Interrupted: The descriptor became readable. What was complete by then has been yielded.
            LlmrunError: Nothing can be answered any more.
        """
        source = _Source(items)
        while True:
            try:
                yield from self._watched(self._answer(source, self._parallel))
                if not self._aside:
                    return
                self._fit()
                continue
            except (EngineCrashedError, EngineTimeoutError) as error:
                suspects, innocent = self._after_death()
                if not suspects:
                    raise
                source.give_back(innocent)
                self._note(
                    f"{error.message}; it is started again, and what it was answering ({len(suspects):,} "
                    f"request{'s' if len(suspects) > 1 else ''}) is asked one by one"
                )
            for item in suspects:
                yield from self._watched(self._alone(item))

    def _alone(self, item: BatchItem) -> Iterator[Outcome]:
        """Answer one request; if the worker dies of it again, that is its error."""
        try:
            yield from self._answer([item], 1)
            if self._aside:
                self._fit()
                yield from self._answer((), 1)
        except (EngineCrashedError, EngineTimeoutError) as error:
            if self.worker is None:  # it was not even loaded
                raise
            self._after_death()
            yield Outcome(item=item, error=error)

    def _watched(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """Pass outcomes on, and give up when the engine or the model fails again and again."""
        for outcome in outcomes:
            yield outcome
            error = outcome.error
            self._failures = self._failures + 1 if error is not None and error.exit_code in _NOT_ITS_FAULT else 0
            if error is not None and self._failures >= _MOST_FAILURES:
                raise error

    def _answer(self, items: Iterable[BatchItem], parallel: int) -> Iterator[Outcome]:
        if self.worker is None:
            self.worker = self._start()
        worker = self.worker
        worker.interrupt_descriptor = self._interrupt
        try:
            for name, event in worker.generate_many(self._requests(items, worker), parallel, self._begun.add):
                yield from self._take_ended()
                yield from self._take(name, event)
            yield from self._take_ended()
        except Interrupted:
            yield from self._cancel(worker)
            raise
        finally:
            worker.interrupt_descriptor = None

    def _requests(
        self, items: Iterable[BatchItem], worker: WorkerClient
    ) -> Iterator[tuple[str, Sequence[Segment], SamplingOptions]]:
        """Render requests as they are wanted; one that cannot be rendered has failed."""
        while self._fitted:
            yield self._send(*self._fitted.popleft())
        for item in items:
            outcome = Outcome(item=item)
            try:
                rendered = self._render(item)
            except LlmrunError as error:
                outcome.error = error
                self._ended.append(outcome)
                continue
            if not self._fitter.may_be_too_long(item, rendered, worker.wait_loaded()):
                yield self._send(outcome, rendered)
                continue
            self._aside.append(item)
            if len(self._aside) == _SET_ASIDE:
                return

    def _send(self, outcome: Outcome, rendered: RenderedPrompt) -> tuple[str, Sequence[Segment], SamplingOptions]:
        item = outcome.item
        self._under_way[item.id] = outcome
        outcome.notices += rendered.notices
        outcome.opened = opening_mark(rendered.text)
        return item.id, rendered.segments, item.sampling

    def _fit(self) -> None:
        """Cut what was set aside, as far as it is too long."""
        assert self.worker is not None
        while self._aside:
            item = self._aside.pop(0)
            outcome = self._under_way[item.id] = Outcome(item=item)
            self._begun.add(item.id)  # should the worker die of it
            try:
                rendered, outcome.overflow = self._fitter.fit(item, self.worker)
            except (EngineCrashedError, EngineTimeoutError):
                raise
            except LlmrunError as error:
                outcome.error = error
                self._ended.append(outcome)
            else:
                if outcome.overflow is not None:
                    outcome.notices.append(outcome.overflow.notice)
                self._fitted.append((outcome, rendered))
            del self._under_way[item.id]
            self._begun.discard(item.id)

    def _take_ended(self) -> Iterator[Outcome]:
        ended, self._ended = self._ended, []
        yield from ended

    def _take(self, name: str, event: Event | LlmrunError) -> Iterator[Outcome]:
        """Take in an event of a request; yield what came of it when that was the last one."""
        outcome = self._under_way[name]
        match event:
            case Delta():
                outcome.pieces.append(event.text)
                outcome.logprobs += event.logprobs
                return
            case Notice():
                outcome.notices.append(event.text)
                return
            case Done():
                outcome.done = event
            case _:
                outcome.error = event
        del self._under_way[name]
        self._begun.discard(name)
        if outcome.done is None or outcome.done.finish_reason is not FinishReason.CANCELLED:
            yield outcome

    def _cancel(self, worker: WorkerClient) -> Iterator[Outcome]:
        """Have the worker stop; what it completed in the same moment counts."""
        os.read(self._interrupt, 64)
        with contextlib.suppress(Interrupted, LlmrunError):
            for name, event in worker.cancel_many():
                if name in self._under_way:
                    yield from self._take(name, event)

    def _after_death(self) -> tuple[list[BatchItem], list[BatchItem]]:
        """Let go of the worker; return the requests that it had begun, and those that it only had."""
        if self.worker is not None:
            self.worker.kill()
            self.worker = None
        suspects = [outcome.item for name, outcome in self._under_way.items() if name in self._begun]
        innocent = [outcome.item for name, outcome in self._under_way.items() if name not in self._begun]
        self._under_way.clear()
        self._begun.clear()
        return suspects, innocent


class _Source:
    """Requests, of which some may be given back."""

    def __init__(self, items: Iterator[BatchItem]) -> None:
        self._items = items
        self._returned: deque[BatchItem] = deque()

    def __iter__(self) -> Iterator[BatchItem]:
        return self

    def __next__(self) -> BatchItem:
        return self._returned.popleft() if self._returned else next(self._items)

    def give_back(self, items: Sequence[BatchItem]) -> None:
        """Have these come next."""
        self._returned.extendleft(reversed(items))
