"""What `llmrun run` does, step by step: read the prompt, prepare the model, render, stream, report.

The worker process was started before this module was imported. Everything that does not need it (reading headers,
rendering the prompt, importing the terminal library) happens while it imports its engine and loads the weights.
"""

import gc
import time
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.cli import early
from llmrun.cli.answering import events_until_stopped
from llmrun.cli.loading import wait_loaded
from llmrun.cli.output import TerminalWriter, report_line, write_json, write_out
from llmrun.cli.preparing import prepare_asked, prepare_otherwise
from llmrun.cli.prompt_input import PromptInput, read_prompt
from llmrun.cli.run_prompt import ModelPrompt, render_fitting, render_whole
from llmrun.cli.run_report import answer_document, dry_run_document, stats_lines
from llmrun.cli.signals import interrupt_descriptor
from llmrun.cli.standby.starting import leave_standby
from llmrun.engines.answer_fields import finish_notice
from llmrun.engines.client import WorkerClient
from llmrun.engines.plan import PlanRequest
from llmrun.engines.prepare import Prepared
from llmrun.engines.selection.select import fallback_notice
from llmrun.engines.types import Delta, Done, EngineName, FinishReason, Notice, SamplingOptions, TokenLogprob
from llmrun.engines.warm.flow import release, slow_start_hint
from llmrun.errors import EngineCrashedError, ExitCode, NoUsableEngineError
from llmrun.values import value

if TYPE_CHECKING:
    from llmrun.engines.conversation.shorten import Overflow
    from llmrun.engines.manifest.values import Manifest

__all__ = ["Outcome", "RunRequest", "execute"]


@value
class RunRequest:
    """The command line of `run`, checked."""

    model: str
    prompt: str | None
    files: tuple[Path, ...]
    system: str | None
    raw: bool
    engine: EngineName | None
    plan: PlanRequest
    draft: str | None
    keep_seconds: float | None
    sampling: SamplingOptions
    overflow: "Overflow" = "error"
    offline: bool
    yes: bool = False
    fallback: bool
    manifest: Path | None = None
    replay: "Manifest | None" = None
    dry_run: bool
    stats: bool
    json_output: bool
    quiet: bool


@value
class Outcome:
    """What is to be said after an answer that was recorded or repeated.

    Attributes:
        notices: For standard error.
        document: What `--json` says besides.
        code: The exit code, when nothing else went wrong.
    """

    notices: tuple[str, ...] = ()
    document: dict[str, Any] = field(default_factory=dict)
    code: int = 0


class _Notices:
    """Collects notices for the JSON document and shows them, unless told to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.texts: list[str] = []
        self._quiet = quiet

    def add(self, *texts: str) -> None:
        for text in texts:
            self.texts.append(text)
            if not self._quiet:
                report_line(f"llmrun: {text}")


def execute(request: RunRequest) -> None:
    """Answer the prompt, or with `--dry-run` show what the model would see.

    Raises:
        LlmrunError: Whatever went wrong; the answer so far has been written.
        SystemExit: 130 after Ctrl-C.
    """
    notices = _Notices(quiet=request.quiet)
    prompt = _read_prompt(request)
    notices.add(*prompt.notices)
    prepared = prepare_asked(request, request.sampling)
    notices.add(*prepared.notices)
    fallback = fallback_notice(prepared.selection, request.model)
    if fallback:
        notices.add(fallback)
    if request.sampling.logprobs is not None and not request.json_output:
        notices.add("--logprobs has no effect: log probabilities are in the document of --json")
    if request.raw and request.system:
        notices.add("--system is left out: with --raw the prompt is sent as it is")
    shown: list[str] = []
    try:
        _attempt(request, prompt, prepared, notices, shown)
    except (EngineCrashedError, NoUsableEngineError) as error:
        # Half an answer of one engine must not be followed by a whole one of another.
        following = None if shown else prepare_otherwise(request, prepared, request.sampling)
        if following is None:
            raise
        notices.add(f"{error.message}; trying {following.plan.engine}", *following.notices)
        _attempt(request, prompt, following, notices, shown)


def _read_prompt(request: RunRequest) -> PromptInput:
    if request.manifest is not None:
        from llmrun.engines.manifest.file import check_target

        check_target(request.manifest)
    if request.replay is not None:
        from llmrun.cli.replay import recorded_prompt

        return recorded_prompt(request.replay, quiet=request.quiet)
    return read_prompt(request.prompt, request.files, quiet=request.quiet)


def _attempt(request: RunRequest, prompt: PromptInput, prepared: Prepared, notices: _Notices, shown: list[str]) -> None:
    """Load the model on its engine and answer; `shown` receives the text that was written."""
    worker = prepared.worker or early.take_worker(prepared.plan.engine)
    try:
        worker.send_load(prepared.plan)
        shown_prompt = _render(request, prompt, prepared, worker)
        left_out = shown_prompt.shortened
        notices.add(*shown_prompt.rendered.notices, *(() if left_out is None else (left_out.notice,)))
        if request.dry_run:
            _show_dry_run(request, worker, prepared, shown_prompt)
        else:
            _answer(request, worker, prepared, shown_prompt, notices, shown)
            hint = slow_start_hint(worker) if request.keep_seconds is None else None
            notices.add(*((hint,) if hint else ()))
    finally:
        notices.add(*release(worker, prepared.target, request.keep_seconds))
        if prepared.target is not None and (request.keep_seconds or (worker.warm and request.keep_seconds is None)):
            leave_standby()


def _show_dry_run(request: RunRequest, worker: WorkerClient, prepared: Prepared, prompt: ModelPrompt) -> None:
    rendered = prompt.rendered
    worker.wait_loaded()
    tokens = worker.tokenize(rendered.segments)
    if request.json_output:
        write_json(dry_run_document(prepared, rendered, prompt.shortened, tokens))
        return
    write_out(rendered.text if rendered.text.endswith("\n") else rendered.text + "\n")
    report_line(f"llmrun: {len(tokens):,} tokens; template: {rendered.template_source}")


@value
class _Streamed:
    """What came of an answer; `done` is None if the engine was deaf to an interruption and had to be killed."""

    text: str
    logprobs: list[TokenLogprob]
    first_seconds: float
    done: Done | None


def _answer(
    request: RunRequest,
    worker: WorkerClient,
    prepared: Prepared,
    prompt: ModelPrompt,
    notices: _Notices,
    shown: list[str],
) -> None:
    started = time.perf_counter()
    worker.send_generate(prompt.rendered.segments, request.sampling)
    writer = None if request.json_output else TerminalWriter()
    gc.freeze()  # what was imported stays
    gc.enable()
    _wait_loaded(worker, prepared, quiet=request.quiet)
    streamed = _stream(worker, writer, notices, shown, started)
    done = streamed.done
    if done is None:
        raise SystemExit(ExitCode.INTERRUPTED)
    notices.add(*finish_notice(done, f"--max-tokens {request.sampling.max_tokens}", prepared.plan.context_length))
    outcome = _record(request, prepared, prompt, streamed.text, done)
    notices.add(*outcome.notices)
    if request.json_output:
        document = answer_document(
            prepared,
            prompt.rendered,
            prompt.shortened,
            request.sampling,
            streamed.text,
            streamed.logprobs,
            done,
            tuple(notices.texts),
            worker.phases,
        )
        write_json(document | outcome.document)
    if request.stats:
        for line in stats_lines(prepared, request.sampling, done, streamed.first_seconds, worker.phases):
            report_line(line)
    code = ExitCode.INTERRUPTED if done.finish_reason is FinishReason.CANCELLED else outcome.code
    if code:
        raise SystemExit(code)


def _record(request: RunRequest, prepared: Prepared, prompt: ModelPrompt, text: str, done: Done) -> Outcome:
    """Write the manifest and compare with the one that is repeated, where that is wanted."""
    if request.manifest is None and request.replay is None:
        return Outcome()
    from llmrun.cli.replay import conclude

    return conclude(request, prepared, prompt, text, done)


def _stream(
    worker: WorkerClient, writer: TerminalWriter | None, notices: _Notices, shown: list[str], started: float
) -> _Streamed:
    """Write the answer as it comes; whatever happens, end its last line."""
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    first_seconds = 0.0
    done: Done | None = None
    try:
        with interrupt_descriptor() as descriptor:
            for event in events_until_stopped(worker, descriptor):
                match event:
                    case Delta():
                        first_seconds = first_seconds or time.perf_counter() - started
                        text.append(event.text)
                        logprobs += event.logprobs
                        if writer is not None:
                            shown.append(event.text)
                            writer.write(event.text)
                    case Notice():
                        notices.add(event.text)
                    case Done():
                        done = event
    finally:
        if writer is not None:
            writer.end()
    return _Streamed(text="".join(text), logprobs=logprobs, first_seconds=first_seconds, done=done)


def _wait_loaded(worker: WorkerClient, prepared: Prepared, *, quiet: bool) -> int:
    from llmrun.cli.progress import choose_progress

    return wait_loaded(worker, prepared, choose_progress(quiet=quiet))


def _render(request: RunRequest, prompt: PromptInput, prepared: Prepared, worker: WorkerClient) -> ModelPrompt:
    """Turn the prompt into what the model sees; only to cut it, the engine has to be waited for."""
    if request.overflow == "error":
        return render_whole(prompt, prepared, request.system, raw=request.raw)
    return render_fitting(
        prompt,
        prepared,
        request.system,
        raw=request.raw,
        policy=request.overflow,
        max_tokens=request.sampling.max_tokens,
        worker=worker,
        context_length=_wait_loaded(worker, prepared, quiet=request.quiet),
    )
