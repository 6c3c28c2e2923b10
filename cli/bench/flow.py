"""What `llmrun bench` does: find the models, check the sizes, measure, and write what came of it, however it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.cli.bench.formats import definitions_text, write_row, write_whole
from llmrun.cli.bench.plot import check_plot, write_plot
from llmrun.cli.bench.progress import choose_bench_progress
from llmrun.cli.output import report_line, write_out
from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.measure.bench import Bench, Row
from llmrun.engines.measure.candidates import Candidate, find_candidate
from llmrun.engines.measure.points import Sweep, check_sizes
from llmrun.engines.measure.result import document
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName
from llmrun.errors import ExitCode, NotEnoughMemoryError, NoUsableEngineError
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import Machine
from llmrun.progress import StagedProgress

__all__ = ["BenchRequest", "execute", "print_definitions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """The command line of `bench`, checked."""

    models: tuple[str, ...]
    engines: tuple[EngineName, ...] | None
    all_engines: bool
    sweep: Sweep
    plan: PlanRequest
    offline: bool
    with_limits: bool
    with_cold_start: bool
    output: str | None
    explain: bool
    save: bool
    plot: Path | None
    tune: bool
    quiet: bool


def execute(request: BenchRequest) -> None:
    """Measure, and write the result.

    Raises:
        LlmrunError: A model cannot be found, a size cannot be measured, or every engine failed.
        SystemExit: 130 after Ctrl-C, 143 and 129 after TERM and HUP; what was done has been written.
    """
    if request.tune:
        from llmrun.cli.bench.tune import execute_tune

        execute_tune(request)
        return
    check_plot(request.plot)
    progress = choose_bench_progress(quiet=request.quiet)
    machine = probe_machine()
    candidates = _find_all(request, machine, progress)
    for candidate in candidates:
        check_sizes(request.sweep, candidate.info, candidate.model.path.name)
    bench = Bench(
        candidates,
        request.sweep,
        machine,
        request.plan,
        progress,
        with_limits=request.with_limits,
        with_cold_start=request.with_cold_start,
    )
    rows, stopped = _collect(bench, request)
    if request.save:  # first: what cannot be written must not take what was measured with it
        from llmrun.cli.bench.choice import save

        save(rows, candidates, machine, request.plan, bench.limits, quiet=request.quiet)
    _write(request, bench, rows, machine, candidates, interrupted=stopped is not None)
    if stopped is not None:
        raise SystemExit(stopped)
    _raise_if_all_failed(rows)


def print_definitions() -> None:
    """Say how each figure is taken."""
    write_out(definitions_text())


def _find_all(request: BenchRequest, machine: Machine, progress: StagedProgress) -> list[Candidate]:
    """Return the models, each once, however often and by whatever names it was given."""
    found: dict[Path, Candidate] = {}
    for reference in request.models:
        candidate = _find(request, reference, machine, progress)
        first = found.setdefault(candidate.model.path.resolve(), candidate)
        if first is not candidate and not request.quiet:
            report_line(f"llmrun: {reference} is measured once: it is the same as {first.model.ref.text}")
    return list(found.values())


def _find(request: BenchRequest, reference: str, machine: Machine, progress: StagedProgress) -> Candidate:
    return find_candidate(
        reference,
        request.engines,
        machine,
        request.plan,
        all_engines=request.all_engines,
        offline=request.offline,
        progress=progress,
    )


def _collect(bench: Bench, request: BenchRequest) -> tuple[list[Row], int | None]:
    """Return the rows, and the exit code of the signal that ended the measurement before its end, if one did."""
    rows: list[Row] = []
    stopped = None
    try:
        for row in bench.run():
            rows.append(row)
            if request.output == "jsonl":
                write_row(row)
    except (KeyboardInterrupt, SystemExit) as stop:  # TERM and HUP end a command by SystemExit
        stopped = int(ExitCode.INTERRUPTED) if isinstance(stop, KeyboardInterrupt) else int(stop.code or 0)
        follows = "; what was measured until then follows" if rows and request.output != "jsonl" else ""
        report_line(f"llmrun: interrupted{follows}")
    return rows, stopped


def _write(
    request: BenchRequest,
    bench: Bench,
    rows: Sequence[Row],
    machine: Machine,
    candidates: Sequence[Candidate],
    *,
    interrupted: bool,
) -> None:
    made = document(
        rows,
        machine,
        bench.limits,
        _facts(candidates),
        repetitions=request.sweep.repetitions,
        energy_source=bench.instruments.energy.source,
        interrupted=interrupted,
    )
    if request.output not in (None, "jsonl") or (request.output is None and rows):
        write_whole(made, request.output)
    if request.plot is not None and any(row.error is None for row in rows):
        write_plot(made, request.plot)
    if request.explain:
        report_line(definitions_text().rstrip())


def _facts(candidates: Sequence[Candidate]) -> dict[EngineName, EngineFacts]:
    return {engine: candidate.facts(engine) for candidate in candidates for engine in candidate.engines}


def _raise_if_all_failed(rows: Sequence[Row]) -> None:
    failures = [row.error for row in rows if row.error is not None]
    if not failures or len(failures) < len(rows):
        return
    first = failures[0]
    if all(isinstance(error, NotEnoughMemoryError) for error in failures):
        raise first
    reasons = "; ".join(dict.fromkeys(_reason(row) for row in rows))
    raise NoUsableEngineError(f"nothing could be measured: {reasons}", fix=first.fix)


def _reason(row: Row) -> str:
    engine, message = row.point.setup.engine, "" if row.error is None else row.error.message
    return message if message.startswith(engine) else f"{engine}: {message}"
