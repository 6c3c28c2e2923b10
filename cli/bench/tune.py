"""`llmrun bench MODEL --tune`: settings that are faster here than the defaults, if there are any."""

import datetime
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from llmrun.cli.bench.progress import choose_bench_progress
from llmrun.cli.output import inert, write_json, write_out
from llmrun.engines.measure.candidates import Candidate, find_candidate
from llmrun.engines.measure.contention import Contention, others_share
from llmrun.engines.measure.energy import EnergyMeter
from llmrun.engines.measure.points import Setup, Sizes, check_sizes, request_for
from llmrun.engines.measure.run import Instruments
from llmrun.engines.measure.store import has_usual_types
from llmrun.engines.measure.tune import (
    Settings,
    Trial,
    TuneResult,
    candidates,
    count_steps,
    measure_settings,
    tune,
)
from llmrun.engines.measure.tuned import Tuning, forget_tuning, keep_tuning
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import UsageError
from llmrun.hardware.machine import probe_machine

if TYPE_CHECKING:
    from llmrun.cli.bench.flow import BenchRequest

__all__ = ["execute_tune", "tune_text"]

_DISTURBING = 0.15  # cores that others took on average


def execute_tune(request: "BenchRequest") -> None:
    """Search, show what was found, and keep it if it is real.

    Raises:
        LlmrunError: The model cannot be found, or does not run with the defaults.
    """
    _check(request)
    progress = choose_bench_progress(quiet=request.quiet)
    machine = probe_machine()
    candidate = find_candidate(
        request.models[0],
        request.engines,
        machine,
        request.plan,
        all_engines=False,
        offline=request.offline,
        progress=progress,
    )
    sweep, engine = request.sweep, candidate.engines[0]
    check_sizes(sweep, candidate.info, candidate.model.path.name)
    sizes = sweep.sizes()[0]
    default = _default(candidate, engine, request)
    threads = sweep.threads or tuple(range(1, machine.cpu.logical_cores + 1))[-8:]
    tried = candidates(engine, default, threads, sweep.kv_types, sweep.gpu_layers)
    plan_for = _planner(candidate, engine, sizes, request)
    seen: list[Contention] = []
    measure = measure_settings(plan_for, sizes, Instruments(energy=EnergyMeter()), progress, seen)
    progress.begin("tuning", count_steps(len(tried)), "steps")
    try:
        found = tune(tried, measure, lambda: progress.advance(1))
    finally:
        progress.finish()
    taken = others_share(seen)
    objection = _keep(found, candidate, engine, request.plan, taken)
    if request.output == "json":
        write_json(_document(found, engine, candidate, sizes, objection, taken))
    else:
        write_out(tune_text(found, engine, sizes, objection))


def _check(request: "BenchRequest") -> None:
    """Refuse what a search cannot honour.

    Raises:
        UsageError: Names the option.
    """
    if len(request.models) != 1:
        raise UsageError("--tune wants one MODEL")
    if request.all_engines or len(request.engines or ()) > 1:
        raise UsageError(
            "--tune wants one engine", fix="--engine NAME, or none: then it is the one that run would take"
        )
    if request.output not in (None, "json"):
        raise UsageError(f"--tune is written as a table or as json, not as {request.output}")
    if request.plot is not None or request.save:
        raise UsageError(f"--tune goes without {'--save' if request.save else '--plot'}: its runs are of many settings")
    if request.sweep.parallel != (1,):
        raise UsageError("--tune searches for one request at a time: it goes without -b")
    sizes = request.sweep.sizes()
    if len(sizes) != 1:
        raise UsageError("--tune wants one size: one value each for -p, -n and -d")
    if not sizes[0].prompt_tokens or not sizes[0].answer_tokens:
        raise UsageError("--tune wants a prompt and an answer: -p and -n above 0")


def _default(candidate: Candidate, engine: EngineName, request: "BenchRequest") -> Settings:
    """Return what a plan has when nothing is asked for."""
    plan = candidate.plan(engine, request.plan)
    return Settings(threads=plan.threads, batch_tokens=plan.batch_tokens, flash_attention=plan.flash_attention)


def _planner(candidate: Candidate, engine: EngineName, sizes: Sizes, request: "BenchRequest") -> Any:
    def plan_for(settings: Settings) -> LoadPlan:
        setup = Setup(engine=engine, threads=settings.threads, kv_type=settings.kv_type, gpu_layers=settings.gpu_layers)
        return candidate.plan(engine, request_for(setup, [sizes], request.plan))

    return plan_for


def _keep(found: TuneResult, candidate: Candidate, engine: EngineName, request: PlanRequest, taken: float) -> str:
    """Keep settings that are really faster and can be put into plans; forget earlier ones if there are none.

    Returns:
        Why they are not kept; empty if they are.
    """
    facts, machine = candidate.facts(engine), candidate.setting.machine
    best, difference = found.best, found.difference
    if taken >= _DISTURBING:
        return (
            f"other programs took {taken:.2f} cores meanwhile, and what is best beside them need not be best alone; "
            "tune again on a quiet machine"
        )
    if not has_usual_types(request):
        return "only what is found with the usual --dtype and --quantization is put into plans"
    if not found.real or best is None or difference is None:
        forget_tuning(candidate.model, facts, machine)
        return "nothing is really faster"
    settings = best.settings
    tuning = Tuning(
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        flash_attention=settings.flash_attention,
        kv_type=settings.kv_type,
        gpu_layers=settings.gpu_layers,
        gain=difference.ratio,
        low=difference.low or difference.ratio,
        high=difference.high or difference.ratio,
    )
    return "" if keep_tuning(tuning, candidate.model, facts, machine) else "the cache cannot be written"


def tune_text(found: TuneResult, engine: EngineName, sizes: Sizes, objection: str) -> str:
    """Return what was found for people: the candidates, the fastest first, then the verdict.

    Args:
        found: What came of the search.
        engine: On which engine.
        sizes: What was run.
        objection: Why it is not kept; empty if it is.
    """
    lines = [f"{engine}: seconds to read {sizes.prompt_tokens} tokens and to write {sizes.answer_tokens}", ""]
    default = found.trials[0]
    timed = [trial for trial in found.trials if trial.final or trial.seconds]
    for trial in sorted(timed, key=_seconds):
        runs = len(trial.final or trial.seconds)
        mark = "default" if trial is default else ""
        lines.append(
            f"  {_seconds(trial):8.3f} s  {runs:>3} run{'s' if runs != 1 else ' '}  {trial.settings}  {mark}".rstrip()
        )
    lines += [f"  failed: {trial.settings}: {trial.failure}" for trial in found.trials if trial.failure]
    lines.append("")
    difference = found.difference
    if found.best is None or difference is None:
        lines.append("nothing else works here")
    elif found.real:
        lines.append(
            f"{difference.ratio:.2f}x as fast as the defaults (95% interval {difference.low:.2f} to "
            f"{difference.high:.2f}): {found.best.settings}"
        )
        lines.append(f"not kept: {objection}" if objection else "kept: run and chat use it from now on")
    else:
        lines.append(
            f"nothing is really faster than the defaults: the best other is {difference.ratio:.2f}x as fast "
            + ("" if difference.low is None else f"({difference.low:.2f} to {difference.high:.2f})")
        )
    return inert("\n".join(lines) + "\n")


def _seconds(trial: Trial) -> float:
    return median(trial.final or trial.seconds)


def _document(
    found: TuneResult, engine: EngineName, candidate: Candidate, sizes: Sizes, objection: str, taken: float
) -> dict[str, Any]:
    return {
        "version": 1,
        "model": candidate.model.ref.text,
        "engine": engine.value,
        "prompt_tokens": sizes.prompt_tokens,
        "answer_tokens": sizes.answer_tokens,
        "trials": [asdict(trial) for trial in found.trials],
        "best": None if found.best is None else asdict(found.best.settings),
        "gain": None if found.difference is None else asdict(found.difference),
        "real": found.real,
        "kept": not objection,
        "not_kept_because": objection or None,
        "others_took_cores": taken,
    }
