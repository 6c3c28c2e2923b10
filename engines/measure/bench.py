"""A whole sweep: every model on every engine with every setting, point after point, each as a row when it is done.

An engine that fails ends a row, not the sweep: the row says why, and the next one gets a process of its own. What is
asked of the caller is to take rows as they come, so that what is done by an interruption is not lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrun.engines.client import WorkerClient
from llmrun.engines.measure.candidates import Candidate, ModelIdentity
from llmrun.engines.measure.cold_start import ColdStart, measure_cold_start
from llmrun.engines.measure.energy import EnergyMeter, open_nvml
from llmrun.engines.measure.limits import Limits, decode_bytes, measure_again, measure_limits, prefill_operations
from llmrun.engines.measure.points import Point, Setup, Sweep
from llmrun.engines.measure.run import Instruments, Measured, measure_point
from llmrun.engines.measure.samples import Metric
from llmrun.engines.measure.statistics import Summary, summarize
from llmrun.engines.measure.workload import Workload
from llmrun.engines.memory.needs import trained_context
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import LlmrunError
from llmrun.hardware.types import Machine
from llmrun.progress import StagedProgress

__all__ = ["Bench", "Row"]

_COLD_START_CONTEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a point.

    Attributes:
        model: Which model.
        point: Which point.
        samples: A value for every repetition; empty if the engine failed.
        measured: What else was seen; None if it failed.
        error: Why it failed.
        mbu: Share of the memory bandwidth that decoding reached; None where either is unknown.
        mfu: Share of the fastest matrix product that prefill reached.
        cold_start_problem: Why the cold start could not be measured.
        tokens_digest: What tells whether another measurement had the same token ids.
        dtype: The type of numbers that was asked for; quantization likewise.
    """

    model: ModelIdentity
    point: Point
    samples: dict[Metric, tuple[float, ...]] = field(default_factory=dict)
    measured: Measured | None = None
    error: LlmrunError | None = None
    mbu: float | None = None
    mfu: float | None = None
    cold_start_problem: str | None = None
    tokens_digest: str | None = None
    dtype: str = PlanRequest().dtype
    quantization: str | None = None

    def summary(self, metric: Metric) -> Summary | None:
        """Return the statistics of a figure."""
        return summarize(self.samples.get(metric, ()))


@dataclass(slots=True)
class _Process:
    """A worker with its model loaded, and what it is asked with."""

    worker: WorkerClient
    workload: Workload
    load_seconds: float


class Bench:
    """One sweep.

    Args:
        candidates: The models and their engines.
        sweep: What is measured of each.
        machine: This one.
        request: What all plans have in common.
        progress: Shows what is done, and what is left.
        with_limits: Measure memory and arithmetic of the machine first, and memory again after each engine.
        with_cold_start: Start the command too.

    Attributes:
        limits: What was measured of the machine, by the number of threads.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        sweep: Sweep,
        machine: Machine,
        request: PlanRequest,
        progress: StagedProgress,
        *,
        with_limits: bool = True,
        with_cold_start: bool = True,
    ) -> None:
        self._candidates = candidates
        self._sweep = sweep
        self._machine = machine
        self._request = request
        self._types: dict[str, Any] = {"dtype": request.dtype, "quantization": request.quantization}
        self._progress = progress
        self._with_limits = with_limits
        self._with_cold_start = with_cold_start
        nvml = open_nvml()
        self.instruments = Instruments(energy=EnergyMeter(nvml), nvml=nvml)
        self.limits: dict[int, Limits] = {}
        self._tokens: dict[str, tuple[int, ...]] = {}  # by vocabulary
        self._steps_done = 0  # of the present point

    def run(self) -> Iterator[Row]:
        """Yield the rows as they are done.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was running has ended.
        """
        setups = [
            (candidate, setup)
            for candidate in self._candidates
            for engine in candidate.engines
            for setup in self._sweep.setups(engine, self._machine.cpu.threads)
        ]
        steps = 1 + len(self._sweep.sizes()) * (1 + self._sweep.repetitions)
        self._progress.begin("measuring", len(setups) * steps, "steps")
        try:
            for candidate, setup in setups:
                self._learn_limits(candidate, setup)
                yield from self._measure(candidate, setup)
                if self._with_limits:
                    self.limits[setup.threads] = measure_again(self.limits[setup.threads])
        finally:
            self._progress.finish()

    def _learn_limits(self, candidate: Candidate, setup: Setup) -> None:
        if setup.threads in self.limits:
            return
        if not self._with_limits:
            self.limits[setup.threads] = Limits(threads=setup.threads)
            return
        self._progress.stage("the machine's limits")
        stamps = " ".join(facts.stamp for facts in candidate.setting.engines.values())
        self.limits[setup.threads] = measure_limits(self._machine, setup.threads, stamps)

    def _measure(self, candidate: Candidate, setup: Setup) -> Iterator[Row]:
        """Yield the rows of one setup: a process that lives as long as nothing fails."""
        sizes = self._sweep.sizes()
        process: _Process | None = None
        error: LlmrunError | None = None
        cold = ColdStart()
        try:
            plan = candidate.plan_setup(setup, sizes, self._request)
            cold = self._start_cold(candidate, setup, plan)
        except LlmrunError as refused:
            error = refused
        self._progress.advance(1)
        try:
            for point in (Point(setup=setup, sizes=each) for each in sizes):
                self._steps_done = 0
                try:
                    if error is not None:
                        raise error
                    process = process or self._load(candidate, plan)
                    row = self._row(candidate, point, process, cold)
                except LlmrunError as failed:
                    failed.fix = failed.fix and failed.fix.replace("--context-length", "-p, -n, -d or -b")
                    row = Row(model=candidate.identity, point=point, error=failed, **self._types)
                    _end(process)
                    process = None
                if row.measured is None or row.measured.stopped is None:
                    self._step(1 + self._sweep.repetitions - self._steps_done)
                yield row
                if row.measured is not None and row.measured.stopped is not None:
                    raise row.measured.stopped
        finally:
            _end(process)

    def _step(self, count: int = 1) -> None:
        self._steps_done += count
        self._progress.advance(count)

    def _start_cold(self, candidate: Candidate, setup: Setup, plan: LoadPlan) -> ColdStart:
        if not self._with_cold_start or setup.parallel > 1:
            return ColdStart()
        self._progress.stage(f"{setup.engine}, cold start")
        # A prompt of one word has a template around it, for which the context of small sizes is too short.
        context = max(plan.context_length, min(_COLD_START_CONTEXT, trained_context(candidate.info)))
        return measure_cold_start(candidate.model.ref.text, setup, self._sweep.repetitions, context, self._request)

    def _load(self, candidate: Candidate, plan: LoadPlan) -> _Process:
        self._progress.stage(f"{plan.engine}, loading")
        worker = WorkerClient(plan.engine)
        try:
            worker.load(plan)
            # Files of one model share its vocabulary, whose size tells it where it is known.
            vocabulary = str(candidate.info.vocabulary_size or candidate.identity.digest)
            known = self._tokens.get(vocabulary)
            workload = Workload.from_tokenizer(worker.tokenize) if known is None else Workload(known)
            self._tokens[vocabulary] = workload.tokens
        except BaseException:
            worker.close()
            raise
        return _Process(worker, workload, worker.phases.get("load", 0.0))

    def _row(self, candidate: Candidate, point: Point, process: _Process, cold: ColdStart) -> Row:
        self._progress.stage(_name(point))
        measured = measure_point(
            process.worker,
            process.workload,
            point.sizes,
            point.setup.parallel,
            self._sweep.repetitions,
            self.instruments,
            self._step,
        )
        samples = {metric: tuple(values) for metric, values in measured.samples.items()}
        samples[Metric.LOAD] = (*cold.load_seconds, process.load_seconds)
        if cold.seconds:
            samples[Metric.COLD_START] = cold.seconds
        mbu, mfu = self._shares(candidate, point, samples)
        return Row(
            model=candidate.identity,
            point=point,
            samples=samples,
            measured=measured,
            mbu=mbu,
            mfu=mfu,
            cold_start_problem=cold.problem,
            tokens_digest=process.workload.digest,
            **self._types,
        )

    def _shares(
        self, candidate: Candidate, point: Point, samples: dict[Metric, tuple[float, ...]]
    ) -> tuple[float | None, float | None]:
        """Return the shares of the machine's limits: of memory while decoding, of arithmetic in the prefill."""
        setup, sizes, engine = point.setup, point.sizes, point.setup.engine
        on_gpu = candidate.on_gpu(engine) and setup.gpu_layers != 0
        limits = self.limits[setup.threads]
        bandwidth = limits.bytes_per_second
        operations = None if on_gpu else limits.operations_per_second
        if on_gpu:
            gpus = self._machine.gpus
            bandwidth = max((gpu.memory_bandwidth_bytes_per_second or 0.0 for gpu in gpus), default=0.0)
        mbu = mfu = None
        decode, prefill = summarize(samples.get(Metric.DECODE, ())), summarize(samples.get(Metric.PREFILL, ()))
        as_real = EngineName.LLAMA_CPP if engine is EngineName.FAKE else engine
        if decode is not None and bandwidth:
            context = sizes.depth + sizes.answer_tokens / 2
            read = decode_bytes(as_real, candidate.info, setup.kv_type, setup.parallel * context)
            mbu = read * decode.mean / setup.parallel / bandwidth
        if prefill is not None and operations:
            each = prefill_operations(as_real, candidate.info, sizes.depth + sizes.prompt_tokens / 2)
            mfu = each * prefill.mean / operations
        return mbu, mfu


def _name(point: Point) -> str:
    sizes, setup = point.sizes, point.setup
    depth = f" at {sizes.depth}" if sizes.depth else ""
    at_once = f", {setup.parallel} at once" if setup.parallel > 1 else ""
    return f"{setup.engine}, {sizes.prompt_tokens} + {sizes.answer_tokens}{depth}{at_once}"


def _end(process: _Process | None) -> None:
    """End a process, if there is one; nothing is left of it."""
    if process is not None:
        process.worker.close()
