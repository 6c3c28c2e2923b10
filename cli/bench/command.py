"""`llmrun bench`: how fast models are on this machine, on one engine or on all, with numbers that can be compared."""

from pathlib import Path
from typing import Annotated

import typer

from llmrun.cli import options as common
from llmrun.cli.bench.lists import engine_list, kv_type_list, layer_list, number_list
from llmrun.cli.option_checks import one_of

__all__ = ["bench"]

_FORMATS = ("json", "jsonl", "csv", "md")


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="What is measured: names as `llmrun run` takes them.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            envvar="LLMRUN_ENGINE",
            metavar="NAME,...|all",
            help="On these engines, or on all that can run it [default: the one that `run` would take].",
            rich_help_panel=common.MODEL_PANEL,
        ),
    ] = None,
    prompt_tokens: Annotated[
        str,
        typer.Option("-p", "--prompt-tokens", metavar="N,...", help="Tokens of the prompt; 0: no prefill is timed."),
    ] = "512",
    answer_tokens: Annotated[
        str, typer.Option("-n", "--answer-tokens", metavar="N,...", help="Tokens to decode; 0: no decoding is timed.")
    ] = "128",
    depth: Annotated[
        str, typer.Option("-d", "--depth", metavar="N,...", help="Tokens that are in the context before either.")
    ] = "0",
    parallel: Annotated[str, typer.Option("-b", "--parallel", metavar="N,...", help="Requests at once.")] = "1",
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", metavar="N", min=1, max=1000, help="Repetitions after a warm-up.")
    ] = 5,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            envvar="LLMRUN_THREADS",
            metavar="N,...",
            help="CPU threads [default: the physical cores that this process may use].",
            rich_help_panel=common.MODEL_PANEL,
        ),
    ] = None,
    gpu_layers: Annotated[
        str | None,
        typer.Option(
            "--gpu-layers",
            envvar="LLMRUN_GPU_LAYERS",
            metavar="N,...",
            help="Layers on the GPU, -1 for all [default: as many as fit].",
            rich_help_panel=common.MODEL_PANEL,
        ),
    ] = None,
    kv_type: Annotated[
        str,
        typer.Option(
            "--kv-type",
            envvar="LLMRUN_KV_TYPE",
            metavar="TYPE,...",
            help="Type of the KV cache: f16, q8_0 or q4_0.",
            rich_help_panel=common.MODEL_PANEL,
        ),
    ] = "f16",
    dtype: common.Dtype = "auto",
    quantization: common.Quantization = None,
    model_type: common.ModelType = None,
    allow_pickle: common.AllowPickle = False,
    trust_remote_code: common.TrustRemoteCode = False,
    offline: common.Offline = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare two results that --output json wrote, or two folders of them: which differences are real.",
        ),
    ] = False,
    save: Annotated[
        bool,
        typer.Option("--save", help="Keep what is measured with the defaults: it then decides which engine is chosen."),
    ] = False,
    no_limits: Annotated[
        bool, typer.Option("--no-limits", help="Leave out what the machine could do at most (some seconds).")
    ] = False,
    no_cold_start: Annotated[
        bool, typer.Option("--no-cold-start", help="Leave out how long `run` takes to its first token.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FORMAT",
            callback=one_of(_FORMATS),
            help="json, jsonl (a line for each row, as soon as it is done), csv or md, instead of a table.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Search for settings that are faster than the defaults, and keep them if they are."
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.svg|png",
            help="Draw what was measured, with the limits, into this file too.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Print how each figure is taken, and measure nothing if no MODEL is given.",
            rich_help_panel=common.OUTPUT_PANEL,
        ),
    ] = False,
    quiet: common.Quiet = False,
) -> None:
    """Measure how fast models are here.

    Every value of every list is measured with every value of the others: a warm-up that does not count, then the
    repetitions. The same token ids go to every engine. What else the machine did meanwhile is said beside the figures.
    Ends with exit code 6 when every engine failed, and after Ctrl-C with what is done.

    \b
    llmrun bench smollm2-135m-instruct
    llmrun bench smollm2-135m-instruct --engine all -r 3
    llmrun bench ./model.gguf -p 128,512,2048 -n 64 -d 0,4096 --threads 1,2,4
    llmrun bench ./model.gguf -b 1,4,16 --output json > today.json
    llmrun bench ./model.gguf -d 0,1024,4096 --plot depth.svg
    llmrun bench ./model.gguf --tune
    llmrun bench --compare yesterday.json today.json
    llmrun bench --compare before/ after/
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.bench.flow import BenchRequest, execute, print_definitions
    from llmrun.engines.measure.points import Sweep
    from llmrun.engines.plan import PlanRequest
    from llmrun.errors import UsageError

    if explain and not models:
        print_definitions()
        return
    if compare:
        from llmrun.cli.bench.compare import compare as compare_files

        compare_files(models or (), output)
        return
    if not models:
        raise UsageError("bench wants at least one MODEL", fix="llmrun bench smollm2-135m-instruct")
    engines, all_engines = engine_list(engine)
    sweep = Sweep(
        prompt_tokens=number_list("-p", prompt_tokens, 0, 1 << 24),
        answer_tokens=number_list("-n", answer_tokens, 0, 1 << 24),
        depths=number_list("-d", depth, 0, 1 << 24),
        parallel=number_list("-b", parallel, 1, 1024),
        threads=() if threads is None else number_list("--threads", threads, 1, 1024),
        kv_types=kv_type_list(kv_type),
        gpu_layers=layer_list(gpu_layers),
        repetitions=repetitions,
    )
    request = PlanRequest(
        dtype=dtype,
        quantization=quantization,
        pickle=allow_pickle,
        remote_code=trust_remote_code,
        model_type=model_type,
    )
    execute(
        BenchRequest(
            models=tuple(models),
            engines=engines,
            all_engines=all_engines,
            sweep=sweep,
            plan=request,
            offline=offline,
            with_limits=not no_limits,
            with_cold_start=not no_cold_start,
            output=output,
            explain=explain,
            save=save,
            plot=plot,
            tune=tune,
            quiet=quiet,
        )
    )
