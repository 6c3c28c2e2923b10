"""What `llmrun run --batch` does: check all requests, load the model, answer, and have each result safe at once.

Nothing is loaded before the whole file was checked, and nothing that is there is written over. However the command
ends, the same command with --resume goes on where it was.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli import early
from llmrun.cli.batch_progress import BatchCounts, choose_batch_progress
from llmrun.cli.batch_results import FileSink, OutSink, Sink
from llmrun.cli.loading import wait_loaded
from llmrun.cli.output import report_line, write_json
from llmrun.cli.preparing import prepare_asked, prepare_otherwise
from llmrun.cli.progress import choose_progress, format_seconds
from llmrun.cli.signals import StopRequest, stop_descriptor
from llmrun.cli.standby.starting import leave_standby
from llmrun.engines.batch.fitting import Fitter
from llmrun.engines.batch.parallel import choose_parallel
from llmrun.engines.batch.reading import BatchFile, Census
from llmrun.engines.batch.record import model_identity, result_record
from llmrun.engines.batch.request import BatchDefaults, BatchItem
from llmrun.engines.batch.results import Known, ResultFile, exists_error
from llmrun.engines.batch.runner import BatchRunner
from llmrun.engines.client import Interrupted, WorkerClient
from llmrun.engines.prepare import Prepared
from llmrun.engines.prompting import conversation_prompt, remember_tokens, verbatim_prompt
from llmrun.engines.selection.select import fallback_notice
from llmrun.engines.warm.flow import release
from llmrun.errors import BatchIncompleteError, EngineCrashedError, NoUsableEngineError, StorageError, UsageError
from llmrun.models.prompt.conversation import RenderedPrompt, Renderer
from llmrun.progress import SILENT

if TYPE_CHECKING:
    from llmrun.cli.run_flow import RunRequest

__all__ = ["BatchCommand", "execute_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCommand:
    """The command line, checked.

    Attributes:
        run: What it has in common with that for one prompt.
        batch: The file of requests, or `-`.
        output: The file of results, or `-`.
        resume: An output that is there is gone on with.
        retry_errors: Requests that failed are asked again.
        parallel: How many answers are written at once; None: as suits the engine.
        seed_is_given: All requests have the seed of the command.
    """

    run: "RunRequest"
    batch: str
    output: Path
    resume: bool
    retry_errors: bool
    parallel: int | None
    seed_is_given: bool

    @property
    def defaults(self) -> BatchDefaults:
        """What holds for requests that do not say otherwise."""
        run = self.run
        return BatchDefaults(
            sampling=run.sampling,
            seed_is_given=self.seed_is_given,
            system=run.system,
            raw=run.raw,
            overflow=run.overflow,
        )

    @property
    def quiet(self) -> bool:
        """Nothing is said but errors."""
        return self.run.quiet

    @property
    def goes_to_file(self) -> bool:
        """Whether results are kept in a file."""
        return str(self.output) != "-"

    def note(self, *texts: str) -> None:
        """Say lines to the user."""
        if not self.quiet:
            for text in texts:
                report_line(f"llmrun: {text}")


def execute_batch(command: BatchCommand) -> None:
    """Answer the requests that have no result yet.

    Raises:
        BatchIncompleteError: Some failed.
        LlmrunError: Nothing can be answered, or results cannot be written.
        SystemExit: 128 and the number of the signal that ended it.
    """
    with BatchFile(command.batch) as batch, contextlib.ExitStack() as cleanup:
        before = _open_output(command, batch)
        if before is not None:
            cleanup.callback(before.close)
        known = Known() if before is None else before.known
        models = known.models
        census = batch.check(
            command.defaults, known, choose_progress(quiet=command.quiet), retry_errors=command.retry_errors
        )
        _tell_of_before(command, known, census)
        counts = BatchCounts(census.total, census.total - census.to_do)
        if census.to_do:
            prepared = _prepare(command)
            _check_models(command, prepared, models)
            sink: Sink = FileSink(command.output, before) if command.goes_to_file else OutSink()
            cleanup.callback(sink.close)
            _answer_all(command, prepared, batch, census, counts, sink)
        _conclude(command, census, counts)


def _open_output(command: BatchCommand, batch: BatchFile) -> ResultFile | None:
    """Return the results of an earlier run, if there are any; see that there are none, if none are expected."""
    output = command.output
    if not command.goes_to_file:
        return None
    if batch.is_same_as(output):
        raise UsageError("--batch and --output are the same file", fix="another --output")
    if command.resume or command.retry_errors:
        return ResultFile.resume(output)
    if os.path.lexists(output):
        raise exists_error(output)
    if not os.access(output.parent, os.W_OK):
        cause = "it cannot be written to" if output.parent.is_dir() else "there is no such folder"
        raise StorageError(f"{output} cannot be made in {output.parent}: {cause}")
    return None


def _tell_of_before(command: BatchCommand, known: Known, census: Census) -> None:
    if known.cut_bytes:
        command.note(f"the last line of {command.output} was not whole: its {known.cut_bytes:,} bytes were cut off")
    if census.unknown and census.to_do == census.total:
        raise UsageError(
            f"none of the {census.unknown:,} results in {command.output} is of a request in {command.batch}",
            fix="another --output",
        )
    if census.unknown:
        command.note(
            f"{census.unknown:,} results in {command.output} are of requests that {command.batch} does not have"
        )
    if census.to_do < census.total:
        command.note(f"{census.total - census.to_do:,} of {census.total:,} requests have a result already")


def _prepare(command: BatchCommand) -> Prepared:
    run = command.run
    prepared = prepare_asked(run, run.sampling)
    fallback = fallback_notice(prepared.selection, run.model)
    command.note(*prepared.notices, *((fallback,) if fallback else ()))
    if run.draft is not None:
        command.note("--draft has no effect on a batch")
    if run.raw and run.system:
        command.note("--system is left out: with --raw prompts are sent as they are")
    return prepared


def _check_models(command: BatchCommand, prepared: Prepared, models: set[tuple[str, str | None]]) -> None:
    """Refuse to mix the answers of different models in one file."""
    reference, sha256 = model_identity(prepared)
    for other, other_sha256 in models:
        same = sha256 == other_sha256 if sha256 and other_sha256 else reference == other
        if not same:
            raise UsageError(
                f"{command.output} has results of another model: {other}", fix="that model, or another --output"
            )


def _answer_all(
    command: BatchCommand, prepared: Prepared, batch: BatchFile, census: Census, counts: BatchCounts, sink: Sink
) -> None:
    """Answer; when the engine does not even load, try the next one, as a single prompt would."""
    with stop_descriptor() as stop:
        try:
            try:
                _attempt(command, prepared, batch, census, counts, sink, stop)
            except (EngineCrashedError, NoUsableEngineError) as error:
                following = (
                    None
                    if counts.done > counts.before
                    else prepare_otherwise(command.run, prepared, command.run.sampling)
                )
                if following is None:
                    raise
                command.note(f"{error.message}; trying {following.plan.engine}", *following.notices)
                _attempt(command, following, batch, census, counts, sink, stop)
        except Interrupted:
            _tell_of_the_rest(command, counts)
            raise SystemExit(128 + stop.signal) from None
        except Exception:
            _tell_of_the_rest(command, counts)
            raise


def _tell_of_the_rest(command: BatchCommand, counts: BatchCounts) -> None:
    if not counts.seconds:
        return  # nothing was even begun
    done = f"stopped: {counts.done:,} of {counts.total:,} requests have a result"
    if not command.goes_to_file or not counts.done:
        command.note(done)
    else:
        command.note(f"{done} in {command.output}; the same command with --resume goes on")


def _attempt(
    command: BatchCommand,
    prepared: Prepared,
    batch: BatchFile,
    census: Census,
    counts: BatchCounts,
    sink: Sink,
    stop: StopRequest,
) -> None:
    """Answer on one engine."""
    parallel = choose_parallel(prepared.plan, command.parallel)
    prepared = remember_tokens(replace(prepared, plan=replace(prepared.plan, parallel=parallel)))
    progress = choose_batch_progress(quiet=command.quiet)
    begin = _Beginning(command, prepared, counts, sink, lambda: progress.begin(counts), stop)
    with early.take_renderer() as renderer:
        render = partial(_render, prepared, renderer)
        runner = BatchRunner(
            begin.start, render, Fitter(command.defaults.overflow, render), parallel, stop.descriptor, progress.note
        )
        try:
            for outcome in runner.run(batch.items(command.defaults, census)):
                sink.append(result_record(outcome, prepared))
                counts.failed += outcome.error is not None
                counts.answered += outcome.error is None
                counts.tokens += 0 if outcome.done is None else outcome.done.stats.completion_tokens
                progress.update()
        finally:
            progress.finish()
            if runner.worker is not None:
                command.note(*release(runner.worker, prepared.target, command.run.keep_seconds))
                if command.run.keep_seconds and prepared.target is not None:
                    leave_standby()


class _Beginning:
    """Starts workers: the first one in sight, and later ones when one has died."""

    def __init__(
        self,
        command: BatchCommand,
        prepared: Prepared,
        counts: BatchCounts,
        sink: Sink,
        show: Callable[[], None],
        stop: StopRequest,
    ) -> None:
        self._command = command
        self._prepared = prepared
        self._counts = counts
        self._sink = sink
        self._show = show
        self._stop = stop
        self._is_first = True

    def start(self) -> WorkerClient:
        """Return a worker that has the model loaded."""
        prepared = self._prepared
        if self._is_first:
            worker = prepared.worker or early.take_worker(prepared.plan.engine)
        else:
            worker = WorkerClient(prepared.plan.engine)
        worker.interrupt_descriptor = self._stop.descriptor
        try:
            worker.send_load(prepared.plan)
            wait_loaded(worker, prepared, choose_progress(quiet=self._command.quiet) if self._is_first else SILENT)
            self._sink.open()
        except BaseException:
            worker.close()
            raise
        if self._is_first:
            self._is_first = False
            self._counts.begin()
            self._show()
        return worker


def _render(prepared: Prepared, renderer: Renderer, item: BatchItem) -> RenderedPrompt:
    """Turn a request into what the model sees. A raw prompt was read from a file: control tokens in it stay text."""
    if item.raw:
        return verbatim_prompt(prepared, "", (item.messages[0].content,))
    return conversation_prompt(prepared, item.messages, renderer)


def _conclude(command: BatchCommand, census: Census, counts: BatchCounts) -> None:
    """Say what was done; that requests failed is an error."""
    failed = counts.failed + census.failed
    if command.run.json_output and command.goes_to_file:
        write_json(_summary(command, counts, failed))
    if counts.answered:
        command.note(
            f"{counts.answered:,} answers, {counts.tokens:,} tokens in {format_seconds(counts.seconds)}: "
            f"{counts.rate:,.1f} tokens/s"
        )
    if failed:
        where = f"; {command.output} says why" if command.goes_to_file else ""
        raise BatchIncompleteError(
            f"{failed:,} of {counts.total:,} requests failed{where}",
            fix="the same command with --retry-errors asks them again" if command.goes_to_file else None,
        )


def _summary(command: BatchCommand, counts: BatchCounts, failed: int) -> dict[str, object]:
    """Return the document of --json; docs/json.md has its fields."""
    return {
        "version": 1,
        "output": str(command.output),
        "requests": counts.total,
        "before": counts.before,
        "answered": counts.answered,
        "failed": failed,
        "completion_tokens": counts.tokens,
        "seconds": counts.seconds,
        "tokens_per_second": counts.rate,
    }
