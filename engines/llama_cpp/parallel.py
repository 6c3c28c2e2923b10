"""Many prompts at once: continuous batching over the sequences of one llama.cpp context.

A step runs one batch: the next token of every answer that is being written, and a piece of the one prompt that is
joining. Reading the weights once for all of them is what makes it faster than one by one; prompts join one after
another, in pieces, so that the others go on meanwhile, and a prompt copies what it shares with an earlier one.

Memory: all sequences together get at most the cells that the plan has for one, in equal shares. A wave is as many of
the waiting requests as fit side by side, each with room for its prompt and its --max-tokens (without a limit: its part
of the whole). Requests that need more wait for the next wave, and so does an answer that outgrows its share: it is then
taken up again where it was.

The library runs neighbouring sequences in one go, so the sequences in use are kept without gaps.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.batch import Batch
from llmrun.engines.llama_cpp.context import (
    can_go_back,
    check_logits,
    cut_sequence,
    new_context,
    read_logits,
    run_batch,
)
from llmrun.engines.llama_cpp.native import Native
from llmrun.engines.llama_cpp.sampling import Sampler
from llmrun.engines.llama_cpp.vocabulary import Vocabulary
from llmrun.engines.protocol import BatchEvent, BatchRequest, Failure, check_prompt
from llmrun.engines.types import LoadPlan
from llmrun.errors import LlmrunError

__all__ = ["ParallelDecoder", "choose_share"]

_CELL_STEP = 256
_LEAST_ANSWER_TOKENS = 256  # room for an answer without a limit
_JOIN_TOKENS = 128  # of a prompt in a step in which answers are written too: large enough to be processed efficiently
_SHARED_TOKENS = 16  # copying a sequence for less costs more than processing it
_MOST_SEQUENCES = 64


@dataclass(slots=True)
class _Task:
    """A request on its way: `tokens` are those of the prompt and of the answer so far."""

    request: BatchRequest
    answer: Answer
    sampler: Sampler
    tokens: list[int]
    need: int  # cells
    begun: bool = False


@dataclass(slots=True)
class _Slot:
    """One sequence of the context; `processed` are the tokens whose keys and values it holds, task or not."""

    sequence: int
    processed: list[int] = field(default_factory=list)
    task: _Task | None = None

    @property
    def to_do(self) -> int:
        """Tokens of the task that are still to be processed."""
        return len(self.task.tokens) - len(self.processed) if self.task else 0


def choose_share(needs: Sequence[int], parallel: int, cells: int) -> tuple[int, int]:
    """Return the cells of each sequence and the number of sequences, for waiting requests with these needs.

    The share with which most of them run at once; among equals the largest, in which more of those to come will fit.
    """
    best = (0, 0)
    for need in needs:
        share = min(-(-need // _CELL_STEP) * _CELL_STEP, cells)
        fitting = sum(other <= share for other in needs)
        count = max(1, min(parallel, fitting, cells // share))
        best = max(best, (count, share))
    return best[1], best[0]


class ParallelDecoder:
    """Answers many requests; made for one call."""

    def __init__(
        self, native: Native, model: Any, plan: LoadPlan, vocabulary: Vocabulary, cancel: Cancellation
    ) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self._vocabulary = vocabulary
        self._cancel = cancel
        self._cells = -(-plan.context_length // _CELL_STEP) * _CELL_STEP
        self._can_copy = can_go_back(self._api, model)
        self._context: Any = None
        self._share = 0
        self._slots: list[_Slot] = []
        self._waiting: deque[_Task] = deque()
        self._later: list[_Task] = []
        self._events: list[tuple[str, BatchEvent]] = []
        self._batch = Batch(self._api, plan.batch_tokens)

    def run(self, requests: Iterable[BatchRequest], parallel: int) -> Iterator[tuple[str, BatchEvent]]:
        """Yield the events of all requests, each with the id of its own."""
        parallel = max(1, min(parallel, _MOST_SEQUENCES, self._plan.batch_tokens))
        source = iter(requests)
        while True:
            self._take(source, parallel)
            yield from self._drain()
            if not self._waiting:
                return
            self._open_wave(parallel)
            while not self._cancel.requested and (self._join(source, parallel) or self._busy()):
                self._close_gap()
                if not self._step():
                    break
                yield from self._drain()
            self._waiting.extend(self._later)
            self._later.clear()
            if self._cancel.requested:
                self._cancel_all(source)
                yield from self._drain()
                return

    def _drain(self) -> Iterator[tuple[str, BatchEvent]]:
        events, self._events = self._events, []
        yield from events

    def _busy(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.task is not None]

    def _take(self, source: Iterator[BatchRequest], count: int) -> None:
        """See that `count` requests are waiting, if there are so many."""
        while len(self._waiting) < count:
            request = next(source, None)
            if request is None:
                return
            try:
                check_prompt(request.tokens, self._plan.context_length)
                self._waiting.append(self._make_task(request, count))
            except LlmrunError as error:
                self._events.append((request.id, Failure(error=error)))

    def _make_task(self, request: BatchRequest, parallel: int) -> _Task:
        tokens, options = request.tokens, request.options
        answer = Answer(self._vocabulary, len(tokens), options, self._plan.context_length)
        room = answer.limit
        if options.max_tokens is None:
            room = min(room, max(_LEAST_ANSWER_TOKENS, self._cells // parallel - len(tokens)))
        sampler = Sampler(self._api, self._vocabulary, tokens, options)
        return _Task(request, answer, sampler, list(tokens), len(tokens) + room)

    def _open_wave(self, parallel: int) -> None:
        """Make a context for the requests that wait."""
        self._share, count = choose_share([task.need for task in self._waiting], parallel, self._cells)
        self._free()
        self._context = new_context(self._native, self._model, self._plan, self._share * count, sequences=count)
        self._api.llama_set_abort_callback(self._context, self._native.stop_when_set, self._cancel.address)
        self._slots = [_Slot(index) for index in range(count)]

    def _join(self, source: Iterator[BatchRequest], parallel: int) -> bool:
        """Give a free sequence to the next request that fits, unless another one is joining; True if one does so."""
        if any(slot.to_do > 1 for slot in self._slots):
            return True
        free = next((slot for slot in self._slots if slot.task is None), None)
        if free is None:
            return False
        while True:
            if len(self._later) < parallel:
                self._take(source, parallel)
            if not self._waiting:
                return False
            task = self._waiting.popleft()
            if task.need > self._share:
                self._later.append(task)
                continue
            self._start(free, task)
            return True

    def _start(self, slot: _Slot, task: _Task) -> None:
        """Put a task into a sequence, with what it shares with any sequence."""
        if not task.begun:
            task.answer.begin()
        best, common = slot, _common(slot.processed, task.tokens)
        for other in self._slots if self._can_copy else ():
            shared = _common(other.processed, task.tokens)
            if shared >= max(common + 1, _SHARED_TOKENS):
                best, common = other, shared
        common = min(common, len(task.tokens) - 1)
        if best is not slot and common:
            self._copy(best.sequence, slot.sequence)
            slot.processed = list(best.processed)
        if not cut_sequence(self._api, self._model, self._context, slot.sequence, common):
            common = 0
            self._api.llama_memory_seq_rm(self._memory, slot.sequence, -1, -1)
        slot.processed = task.tokens[:common]
        slot.task = task
        if not task.begun:
            task.answer.cached_tokens = common

    @property
    def _memory(self) -> Any:
        return self._api.llama_get_memory(self._context)

    def _copy(self, source: int, target: int) -> None:
        self._api.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._api.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def _close_gap(self) -> None:
        """Move the last sequence in use into the first one that is free before it."""
        busy = self._busy()
        gap = next((slot for slot in self._slots if slot.task is None), None)
        if gap is None or not busy or gap.sequence > busy[-1].sequence:
            return
        if self._waiting or not self._can_copy:  # the next request fills it; a recurrent state has no neighbours
            return
        last = busy[-1]
        self._copy(last.sequence, gap.sequence)
        self._api.llama_memory_seq_rm(self._memory, last.sequence, -1, -1)
        last.sequence, gap.sequence = gap.sequence, last.sequence
        gap.processed.clear()
        self._slots.sort(key=lambda slot: slot.sequence)

    def _step(self) -> bool:
        """Run one batch and take the tokens that it gives; False if it was cancelled."""
        batch, busy = self._batch, self._busy()
        batch.clear()
        writing = sum(slot.to_do == 1 for slot in busy)
        budget = _JOIN_TOKENS if writing else self._plan.batch_tokens
        budget = min(budget, self._plan.batch_tokens - writing)
        outputs = []
        for slot in busy:
            assert slot.task is not None
            begin = len(slot.processed)
            piece = slot.task.tokens[begin : begin + budget]
            is_last = begin + len(piece) == len(slot.task.tokens)
            batch.add(piece, begin, slot.sequence, 1 if is_last else 0)
            slot.processed += piece
            if is_last:
                outputs.append((slot, slot.task, len(batch) - 1))
        if not run_batch(self._native, self._context, batch.native):
            return False
        for slot, task, output in outputs:
            self._advance(slot, task, output)
        return True

    def _advance(self, slot: _Slot, task: _Task, output: int) -> None:
        """Take the next token of an answer."""
        answer, name = task.answer, task.request.id
        if not task.begun:
            answer.prefilled()
            try:
                check_logits(self._api, self._context, output, self._vocabulary.size, self._plan.model_path)
            except LlmrunError as error:
                self._events.append((name, Failure(error=error)))
                self._leave(slot, task)
                return
            task.begun = True
        token = task.sampler.sample(self._context, output)
        logits = partial(read_logits, self._api, self._context, vocabulary_size=self._vocabulary.size)
        if delta := answer.add(token, answer.describe(token, logits, output)):
            self._events.append((name, delta))
        task.tokens.append(token)
        if answer.finish is not None:
            self._events += ((name, event) for event in answer.end())
            self._leave(slot, task)
        elif len(task.tokens) > self._share:
            slot.task = None
            task.need = min(2 * self._share, self._plan.context_length)
            self._later.append(task)

    def _leave(self, slot: _Slot, task: _Task) -> None:
        slot.task = None
        task.sampler.close()

    def _cancel_all(self, source: Iterator[BatchRequest]) -> None:
        """End every answer, also those that have not begun."""
        unfinished = [slot.task for slot in self._slots if slot.task is not None]
        for task in (*unfinished, *self._waiting):
            self._events += ((task.request.id, event) for event in task.answer.end())
        for request in source:
            answer = Answer(self._vocabulary, len(request.tokens), request.options, self._plan.context_length)
            answer.finish = None
            self._events += ((request.id, event) for event in answer.end())

    def _free(self) -> None:
        if self._context is not None:
            self._api.llama_free(self._context)
            self._context = None

    def close(self) -> None:
        """Free everything, whatever state it is in."""
        for task in (*(slot.task for slot in self._slots if slot.task), *self._waiting, *self._later):
            task.sampler.close()
        self._batch.close()
        self._free()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    count = 0
    for mine, wanted in zip(one, other, strict=False):
        if mine != wanted:
            break
        count += 1
    return count
