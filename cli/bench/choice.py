"""Measuring in order to choose: `which-backend MODEL --measure` and `bench --save`."""

import datetime
from collections.abc import Mapping, Sequence

from llmrun.cli.bench.progress import choose_bench_progress
from llmrun.cli.output import report_line
from llmrun.engines.measure.bench import Bench, Row
from llmrun.engines.measure.candidates import Candidate, find_candidate
from llmrun.engines.measure.limits import Limits
from llmrun.engines.measure.points import Sweep, check_sizes
from llmrun.engines.measure.store import has_usual_types, keep_rows
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.selection.setting import Setting
from llmrun.hardware.types import Machine

__all__ = ["measure_engines", "save"]

_SWEEP = Sweep(prompt_tokens=(256,), answer_tokens=(64,), repetitions=5)


def measure_engines(reference: str, setting: Setting, *, offline: bool, quiet: bool) -> None:
    """Measure a model on every engine that can run it, or on the one that was asked for, and keep what comes of it."""
    progress = choose_bench_progress(quiet=quiet)
    candidate = find_candidate(
        reference,
        None if setting.forced is None else (setting.forced,),
        setting.machine,
        setting.request,
        all_engines=True,
        offline=offline,
        progress=progress,
    )
    check_sizes(_SWEEP, candidate.info, candidate.model.path.name)
    bench = Bench(
        [candidate],
        _SWEEP,
        setting.machine,
        setting.request,
        progress,
        with_cold_start=False,
    )
    rows: list[Row] = []
    try:
        rows.extend(bench.run())
    finally:  # after Ctrl-C, what is done
        save(rows, [candidate], setting.machine, setting.request, bench.limits, quiet=quiet)
    if not quiet:
        for row in rows:
            if row.error is not None:
                report_line(f"llmrun: {row.point.setup.engine} could not be measured: {row.error.message}")


def save(
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    machine: Machine,
    request: PlanRequest,
    limits: Mapping[int, Limits],
    *,
    quiet: bool,
) -> None:
    """Keep what can be used for choosing, and say what that is."""
    said = keep_rows(
        rows,
        {candidate.identity.digest: (candidate.model, candidate.info) for candidate in candidates},
        {engine: candidate.facts(engine) for candidate in candidates for engine in candidate.engines},
        machine,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        usual=has_usual_types(request),
        memory_seen={threads: each.bytes_per_second_seen for threads, each in limits.items()},
    )
    if not quiet:
        for line in said:
            report_line(f"llmrun: {line}")
