"""One loaded model measured at one point: a warm-up that does not count, then repetitions.

A repetition has two requests, as in llama-bench: one whose prompt is timed, and one whose decoding is timed. Of several
at once it has whole ones too, prompt and answer, as vLLM's own benchmark times them. All begin after the depth, which
stays in the context from the warm-up on; what an engine did process of it again does not count as prompt. Prompts
differ from repetition to repetition, so that nothing else is found in a cache.

Times of tokens are taken in the engine's process as they come, where a clock is read for every token anyway. Nothing
is sampled while it computes: memory, energy and what disturbs are counters of the system, read before and after.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrun.engines.client import WorkerClient
from llmrun.engines.measure.contention import Contention, ContentionWatch
from llmrun.engines.measure.energy import EnergyMeter
from llmrun.engines.measure.memory import gpu_memory, process_tree, reset_peak, tree_peak
from llmrun.engines.measure.points import Sizes
from llmrun.engines.measure.samples import Metric
from llmrun.engines.measure.statistics import percentile
from llmrun.engines.measure.workload import Workload
from llmrun.engines.types import Done, Event, SamplingOptions, Stats
from llmrun.errors import EngineCrashedError, LlmrunError

__all__ = ["Instruments", "Measured", "decode_rate_of_many", "measure_point"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """What is read besides the clock."""

    energy: EnergyMeter
    nvml: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a point.

    Attributes:
        samples: A value for every repetition, of every figure that could be taken.
        peak_memory_bytes: Of the engine's process and all that it started.
        gpu_memory_bytes: What they hold on NVIDIA GPUs; None where that cannot be told.
        cached_tokens: Tokens of the depth that did not have to be processed again, in the last repetition.
        contention: What else the machine did meanwhile.
        stopped: The signal that ended it after some of the repetitions; the caller ends by raising it again.
    """

    samples: dict[Metric, list[float]]
    peak_memory_bytes: int
    gpu_memory_bytes: int | None
    cached_tokens: int
    contention: Contention
    stopped: KeyboardInterrupt | SystemExit | None = None


@dataclass(slots=True)
class _Timed:
    """One answer: what the engine says of it, and when it was asked for and first heard of."""

    sent: float
    first: float = 0.0
    stats: Stats | None = None
    joules: float | None = None


@dataclass(slots=True)
class _Tally:
    samples: dict[Metric, list[float]] = field(default_factory=dict)
    cached_tokens: int = 0

    def add(self, metric: Metric, value: float | None) -> None:
        if value is not None:
            self.samples.setdefault(metric, []).append(value)

    def take(self, other: "_Tally") -> None:
        for metric, values in other.samples.items():
            self.samples.setdefault(metric, []).extend(values)
        self.cached_tokens = other.cached_tokens


def measure_point(
    worker: WorkerClient,
    workload: Workload,
    sizes: Sizes,
    parallel: int,
    repetitions: int,
    instruments: Instruments,
    step: Callable[[], None] = lambda: None,
) -> Measured:
    """Measure a point; `step` is called after the warm-up and after every repetition.

    Told to stop by a signal, it returns the repetitions that are done, if any are.

    Raises:
        LlmrunError: The engine failed, or gave another number of tokens than it was asked for.
    """
    tally = _Tally()
    reset_peak(process_tree(worker.pid))
    _repeat(worker, workload, sizes, parallel, instruments, _Tally())
    step()
    watch = ContentionWatch(process_tree(worker.pid))
    stopped: KeyboardInterrupt | SystemExit | None = None
    try:
        for _ in range(repetitions):
            _repeat(worker, workload, sizes, parallel, instruments, tally)
            step()
    except (KeyboardInterrupt, SystemExit) as stop:
        if not tally.samples:
            raise
        stopped = stop
    pids = process_tree(worker.pid)
    return Measured(
        samples=tally.samples,
        peak_memory_bytes=tree_peak(pids),
        gpu_memory_bytes=gpu_memory(instruments.nvml, pids),
        cached_tokens=tally.cached_tokens,
        contention=watch.end(pids),
        stopped=stopped,
    )


def _repeat(
    worker: WorkerClient, workload: Workload, sizes: Sizes, parallel: int, instruments: Instruments, tally: _Tally
) -> None:
    """Add the figures of one repetition, all of them when it is done."""
    depth, one = workload.depth(sizes.depth), _Tally()
    if sizes.prompt_tokens:
        prompts = [depth + workload.fresh(sizes.prompt_tokens) for _ in range(parallel)]
        _add_prefill(one, _ask(worker, prompts, 1, instruments.energy))
    if sizes.answer_tokens:
        prompts = [depth + workload.fresh(1) for _ in range(parallel)]
        _add_decode(one, _ask(worker, prompts, sizes.answer_tokens, instruments.energy))
    if parallel > 1 and sizes.prompt_tokens and sizes.answer_tokens:
        prompts = [depth + workload.fresh(sizes.prompt_tokens) for _ in range(parallel)]
        _add_throughput(one, _ask(worker, prompts, sizes.answer_tokens, instruments.energy))
    tally.take(one)


def _add_prefill(tally: _Tally, answers: list[_Timed]) -> None:
    stats = [answer.stats for answer in answers if answer.stats is not None]
    processed = sum(each.prompt_tokens - each.cached_tokens for each in stats)
    if len(stats) == 1:
        seconds = stats[0].prefill_seconds
        tally.add(Metric.TTFT, answers[0].first - answers[0].sent)
    else:
        began = min(each.token_times[0] - each.prefill_seconds for each in stats)  # with a context for all of them
        seconds = max(each.token_times[0] for each in stats) - began
        waited = [each.token_times[0] - answers[0].sent for each in stats]
        tally.add(Metric.TTFT, percentile(waited, 0.5))
    tally.cached_tokens = max(each.cached_tokens for each in stats)
    tally.add(Metric.PREFILL, processed / max(seconds, 1e-9))
    if answers[0].joules is not None:
        tally.add(Metric.PREFILL_ENERGY, answers[0].joules / processed)


def _add_decode(tally: _Tally, answers: list[_Timed]) -> None:
    stats = [answer.stats for answer in answers if answer.stats is not None]
    gaps = [
        later - earlier
        for each in stats
        for earlier, later in zip(each.token_times, each.token_times[1:], strict=False)
    ]
    if len(stats) == 1:
        rate = (stats[0].completion_tokens - 1) / max(stats[0].decode_seconds, 1e-9)
    else:
        rate = decode_rate_of_many([each.token_times for each in stats])
    tally.add(Metric.DECODE, rate)
    tally.add(Metric.TPOT, percentile(gaps, 0.5))
    tally.add(Metric.TPOT_P95, percentile(gaps, 0.95))
    if answers[0].joules is not None:
        tally.add(Metric.DECODE_ENERGY, answers[0].joules / sum(each.completion_tokens for each in stats))


def _add_throughput(tally: _Tally, answers: list[_Timed]) -> None:
    stats = [answer.stats for answer in answers if answer.stats is not None]
    seconds = max(each.token_times[-1] for each in stats) - answers[0].sent
    tally.add(Metric.THROUGHPUT, sum(each.completion_tokens for each in stats) / max(seconds, 1e-9))


def decode_rate_of_many(times: Sequence[Sequence[float]]) -> float:
    """Return the tokens a second of several answers, while all of them were being written; else over all their time.

    An engine that writes one after another has no such time: then the tokens that followed another count over the time
    from the first token of all to the last.
    """
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    if end > begin:
        return sum(begin < moment <= end for each in times for moment in each) / (end - begin)
    span = max(each[-1] for each in times) - min(each[0] for each in times)
    return (sum(len(each) for each in times) - 1) / max(span, 1e-9)


def _ask(worker: WorkerClient, prompts: list[list[int]], tokens: int, energy: EnergyMeter) -> list[_Timed]:
    """Have prompts answered at once, with so many tokens each."""
    options = SamplingOptions(
        temperature=0,
        top_p=1,
        top_k=0,
        min_p=0,
        repeat_penalty=1,
        max_tokens=tokens,
        seed=0,
        continues=True,
        ignore_end=True,
        timed=True,
    )
    before = energy.read()
    single = len(prompts) == 1
    answers = [_ask_one(worker, prompts[0], options)] if single else _ask_many(worker, prompts, options)
    joules = energy.joules_since(before)
    for answer in answers:
        answer.joules = joules
        given = 0 if answer.stats is None else answer.stats.completion_tokens
        if given != tokens:
            raise EngineCrashedError(f"{worker.engine} gave {given} tokens where {tokens} were asked for")
    return answers


def _ask_one(worker: WorkerClient, prompt: list[int], options: SamplingOptions) -> _Timed:
    answer = _Timed(sent=time.perf_counter())
    for event in worker.generate(prompt, options):
        _take(answer, event)
    return answer


def _ask_many(worker: WorkerClient, prompts: list[list[int]], options: SamplingOptions) -> list[_Timed]:
    sent = time.perf_counter()
    answers = {str(number): _Timed(sent=sent) for number in range(len(prompts))}
    requests = [(str(number), prompt, options) for number, prompt in enumerate(prompts)]
    for name, event in worker.generate_many(requests, len(prompts)):
        if isinstance(event, LlmrunError):
            raise event
        _take(answers[name], event)
    return list(answers.values())


def _take(answer: _Timed, event: Event) -> None:
    if not answer.first:
        answer.first = time.perf_counter()
    if isinstance(event, Done):
        answer.stats = event.stats
