"""`llmrun chat`: a conversation."""

from pathlib import Path
from typing import Annotated, cast

import typer

from llmrun.cli import option_checks as check
from llmrun.cli import options as common
from llmrun.engines.plan import PlanRequest
from llmrun.engines.types import EngineName, SamplingOptions

__all__ = ["chat"]

CHAT_PANEL = "Conversation"
OVERFLOWS = ("drop-oldest", "stop", "summarize")
THINK = ("show", "hide", "dim")


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="As for `run`; a session that goes on has its own, unless another one is named.",
        ),
    ] = "",
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Go on with this session, or begin it; without it a new one is named after the time.",
            rich_help_panel=CHAT_PANEL,
        ),
    ] = None,
    continue_: Annotated[
        bool,
        typer.Option("--continue", "-c", help="Go on with the session that was used last.", rich_help_panel=CHAT_PANEL),
    ] = False,
    list_sessions: Annotated[
        bool, typer.Option("--list", help="List the sessions and end.", rich_help_panel=CHAT_PANEL)
    ] = False,
    on_overflow: Annotated[
        str,
        typer.Option(
            "--on-overflow",
            envvar="LLMRUN_CHAT_ON_OVERFLOW",
            metavar="WHAT",
            callback=check.one_of(OVERFLOWS),
            help="When the context is full: drop-oldest leaves the oldest turns out, stop refuses, summarize has the "
            "model sum them up.",
            rich_help_panel=CHAT_PANEL,
        ),
    ] = "drop-oldest",
    think: Annotated[
        str | None,
        typer.Option(
            "--think",
            envvar="LLMRUN_THINK",
            metavar="HOW",
            callback=check.one_of(THINK),
            help="What a model thinks before it answers: show, hide or dim [default: dim; show in a pipe].",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            envvar="LLMRUN_PLAIN",
            help="Show the exact text of answers instead of rendering their Markdown.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = False,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="PATH", help="Put this file before the first turn; may be repeated."),
    ] = None,
    system: common.System = None,
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
    seed: common.Seed = None,
    stop: common.Stop = [],  # noqa: B006 - typer copies it
    json_schema: common.JsonSchema = None,
    grammar: common.Grammar = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="With --list: one JSON document.", rich_help_panel=common.OUTPUT_PANEL)
    ] = False,
    quiet: common.Quiet = False,
) -> None:
    """Talk with a model.

    At a terminal, /help lists the commands, Ctrl-C stops an answer and Ctrl-D leaves. When standard input is a pipe,
    each line is a turn, and the answers go to standard output without any decoration. Every turn is on disk before
    the next prompt, and `--continue` goes on with it.

    \b
    llmrun chat smollm2-135m-instruct
    llmrun chat --continue
    llmrun chat llama-2-chat --session work --system "Answer in one sentence."
    llmrun chat --session work --on-overflow summarize
    llmrun chat --list
    printf 'I am Ada.\\nWho am I?\\n' | llmrun chat smollm2-135m-instruct
    """  # noqa: D301 - Typer reads the control character as "keep these lines as they are"
    if list_sessions:
        _show_list(json_output=json_output)
        return
    from llmrun.cli.chat.flow import ChatRequest, execute
    from llmrun.cli.chat.model import ModelRequest
    from llmrun.cli.chat.state import Settings
    from llmrun.cli.constraints import read_grammar, read_schema
    from llmrun.engines.conversation.window import Overflow
    from llmrun.engines.warm.flow import keep_alive_seconds
    from llmrun.errors import UsageError

    if json_output:
        raise UsageError("--json is for --list; /export FILE.json writes a conversation")
    if continue_ and session is not None:
        raise UsageError("--continue goes on with the session that was used last, --session with the one that it names")
    execute(
        ChatRequest(
            model=ModelRequest(
                model=model,
                engine=None if engine is None else EngineName(engine),
                plan=PlanRequest(
                    context_length=context_length,
                    threads=threads,
                    gpu_layers=gpu_layers,
                    kv_type=kv_type,
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
                offline=offline,
                fallback=not no_fallback,
                yes=yes,
                quiet=quiet,
            ),
            session=session,
            continues=continue_,
            settings=Settings(
                sampling=SamplingOptions(
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    min_p=min_p,
                    repeat_penalty=repeat_penalty,
                    max_tokens=max_tokens,
                    seed=0,
                    stop=tuple(stop),
                    json_schema=read_schema(json_schema),
                    grammar=read_grammar(grammar),
                ),
                seed=seed,
                overflow=cast("Overflow", on_overflow),
                think=think or "dim",
            ),
            system=system,
            files=tuple(file or ()),
            plain=plain,
        )
    )


def _show_list(*, json_output: bool) -> None:
    from llmrun.cli.chat.listing import list_document, list_text
    from llmrun.cli.output import inert, report_line, write_json, write_out
    from llmrun.engines.conversation.sessions import list_sessions

    sessions = list_sessions()
    if json_output:
        write_json(list_document(sessions))
        return
    write_out(inert(list_text(sessions)))
    if not sessions:
        report_line("llmrun: no sessions yet; to begin one: llmrun chat MODEL")
