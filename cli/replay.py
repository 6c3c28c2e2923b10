"""`run --manifest` and `run --replay`: from a request to a manifest and back, and what differs the second time."""

import os
from collections.abc import Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli.prompt_input import PromptInput, PromptSource, assemble_prompt, read_file, read_stdin
from llmrun.cli.run_flow import Outcome, RunRequest
from llmrun.engines.manifest.compare import compare, describe_difference, first_difference
from llmrun.engines.manifest.file import read_manifest, write_manifest
from llmrun.engines.manifest.record import make_manifest, sha256_of
from llmrun.engines.manifest.values import AttachedRecord, Manifest, Options
from llmrun.engines.types import Done, EngineName, FinishReason
from llmrun.errors import ExitCode, SecurityError, UsageError
from llmrun.models.reference import parse_reference
from llmrun.models.types import RefKind

if TYPE_CHECKING:
    from llmrun.cli.run_prompt import ModelPrompt
    from llmrun.engines.prepare import Prepared

__all__ = ["conclude", "recorded_prompt", "recorded_request"]

_KEPT_TEXT_BYTES = 64 << 10
_MAY_BE_GIVEN = frozenset(
    {"model", "engine", "replay", "manifest", "json_output", "stats", "quiet", "offline", "yes", "keep_alive"}
    | {"no_fallback", "dry_run", "allow_pickle", "trust_remote_code"}
)


def recorded_request(request: RunRequest, path: Path, given: Set[str]) -> RunRequest:
    """Return the request that a manifest holds; of the command line only what does not change the answer counts.

    Args:
        request: The command line.
        path: The manifest.
        given: Names of the parameters that stand on the command line itself.

    Raises:
        UsageError: The manifest cannot be read, or something is given that it decides.
        ModelFileError: It is no manifest.
        SecurityError: It wants what could run code, and the command line does not allow that.
    """
    _check_given(given)
    manifest = read_manifest(path)
    _check_allowed(manifest, request, path)
    options, plan = manifest.options, manifest.options.plan
    engine = request.engine if "engine" in given and request.engine is not None else manifest.engine.name
    fixed = plan.context_length is not None or options.on_overflow != "error"
    return replace(
        request,
        model=request.model if "model" in given else _reference(manifest),
        system=options.system,
        raw=options.raw,
        engine=EngineName(engine),
        plan=replace(
            plan,
            context_length=manifest.plan.context_length if fixed else None,
            threads=manifest.plan.threads,
            vocabulary_only=request.plan.vocabulary_only,
            draft_path=None,
            pickle=request.plan.pickle,
            remote_code=request.plan.remote_code,
        ),
        draft=options.draft,
        sampling=replace(options.sampling, repeatable=True),
        overflow=options.on_overflow,
        replay=manifest,
    )


def _check_given(given: Set[str]) -> None:
    """Refuse what the manifest decides."""
    decided = sorted(given - _MAY_BE_GIVEN)
    if decided:
        name = {"prompt": "a prompt"}.get(decided[0], f"--{decided[0].replace('_', '-')}")
        raise UsageError(f"{name} cannot be given with --replay: the manifest decides it", fix="leave it out")


def _check_allowed(manifest: Manifest, request: RunRequest, path: Path) -> None:
    """Refuse what could run code, unless it is allowed here: whoever made the manifest cannot allow it."""
    wanted, allowed = manifest.options.plan, request.plan
    for is_wanted, is_allowed, option in (
        (wanted.pickle, allowed.pickle, "--allow-pickle"),
        (wanted.remote_code, allowed.remote_code, "--trust-remote-code"),
    ):
        if is_wanted and not is_allowed:
            raise SecurityError(
                f"{path} was made with {option}, which can run code", fix=f"add {option} if you trust it"
            )


def _reference(manifest: Manifest) -> str:
    """Return the model as it was typed; a path by its absolute form."""
    typed = manifest.model.reference
    return manifest.model.path if parse_reference(typed).kind is RefKind.PATH else typed


def recorded_prompt(manifest: Manifest, *, quiet: bool) -> PromptInput:
    """Return the prompt of a manifest; files are read again, and long standard input is wanted again.

    Raises:
        UsageError: A file is not there any more, or nothing is piped in.
    """
    sources = []
    for record in manifest.prompt.attached:
        if record.path is not None:
            sources.append(PromptSource(path=Path(record.path), data=read_file(Path(record.path))))
        elif record.text is not None:
            sources.append(PromptSource(path=None, data=record.text.encode()))
        else:
            piped = read_stdin(quiet=quiet)
            if not piped:
                raise UsageError(
                    f"the manifest has only the sha256 of what was piped in ({record.size_bytes:,} bytes)",
                    fix="pipe it in again: llmrun run --replay FILE < TEXT",
                )
            sources.append(PromptSource(path=None, data=piped))
    typed = manifest.prompt.typed
    return assemble_prompt(None if typed is None else os.fsencode(typed), sources)


def conclude(request: RunRequest, prepared: "Prepared", prompt: "ModelPrompt", text: str, done: Done) -> Outcome:
    """Write the manifest, if one is wanted, and compare the answer with the one that is repeated.

    Raises:
        StorageError: The manifest cannot be written.
    """
    if done.finish_reason is FinishReason.CANCELLED:
        return Outcome(notices=("the answer was interrupted: there is nothing to record or compare",))
    from llmrun.cli.progress import choose_progress

    now = make_manifest(
        prepared,
        prompt.rendered,
        _options(request),
        prompt.given.typed,
        tuple(_attached(source.path, source.data) for source in prompt.given.sources),
        text,
        done,
        choose_progress(quiet=request.quiet),
    )
    if request.manifest is not None:
        write_manifest(now, request.manifest)
    return Outcome() if request.replay is None else _compared(request.replay, now)


def _options(request: RunRequest) -> Options:
    return Options(
        engine=request.engine,
        draft=request.draft,
        system=request.system,
        raw=request.raw,
        on_overflow=request.overflow,
        plan=request.plan,
        sampling=request.sampling,
    )


def _attached(path: Path | None, data: bytes) -> AttachedRecord:
    """Describe what was attached; what was piped in is nowhere else, so its text is kept if it is short."""
    text = None
    if path is None and len(data) <= _KEPT_TEXT_BYTES:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = None
    return AttachedRecord(
        path=None if path is None else str(path.absolute()), size_bytes=len(data), sha256=sha256_of(data), text=text
    )


def _compared(then: Manifest, now: Manifest) -> Outcome:
    differences = compare(then, now)
    place = first_difference(then.answer.text, now.answer.text)
    lines = [f"replay: {difference.text}" for difference in differences]
    if not differences:
        lines.append("replay: model, template, engine, machine and prompt are the same")
    if place is None:
        lines.append(f"replay: the answer is identical ({now.answer.completion_tokens:,} tokens)")
    else:
        lines.append(f"replay: the answer differs {describe_difference(then.answer.text, now.answer.text, place)}")
    document = {
        "of": then.created,
        "identical": place is None,
        "first_difference": place,
        "differences": [asdict(difference) for difference in differences],
    }
    return Outcome(
        notices=tuple(lines), document={"replay": document}, code=0 if place is None else ExitCode.ANSWER_DIFFERS
    )
