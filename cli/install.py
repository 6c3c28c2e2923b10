"""`llmrun install ENGINE`: parse, install, report. The command that is run is the one that --dry-run prints."""

from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import options as common

if TYPE_CHECKING:
    from llmrun.engines.install.types import InstallResult

__all__ = ["install"]

_ENGINES = ("llama-cpp", "pytorch", "vllm", "ctransformers")
_ACCELERATORS = ("cpu", "cuda", "rocm", "metal", "vulkan")
_JSON_VERSION = 1


def _one_of(name: str, allowed: tuple[str, ...], value: str | None) -> str | None:
    if value is not None and value not in allowed:
        raise typer.BadParameter(f"{value!r} is not {name}: {', '.join(allowed)}")
    return value


def _engine(value: str | None) -> str | None:
    return _one_of("an engine that can be installed", _ENGINES, value)


def _accelerator(value: str | None) -> str | None:
    return _one_of("an accelerator", _ACCELERATORS, value)


def install(
    engine: Annotated[
        str,
        typer.Argument(callback=_engine, metavar="ENGINE", help=f"{', '.join(_ENGINES)}.", show_default=False),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the exact commands, and run none.")] = False,
    prebuilt: Annotated[
        bool, typer.Option("--prebuilt", help="Take a ready wheel from pip's configured index; build nothing.")
    ] = False,
    wheel: Annotated[
        str | None, typer.Option("--wheel", metavar="FILE_OR_URL", help="Take this ready wheel; build nothing.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build although a wheel for this machine is kept.")
    ] = False,
    accelerator: Annotated[
        str | None,
        typer.Option(
            callback=_accelerator,
            metavar="NAME",
            help=f"Build for {', '.join(_ACCELERATORS)} [default: the GPU that is found, else cpu].",
        ),
    ] = None,
    no_kernels: Annotated[
        bool, typer.Option("--no-kernels", help="Build llama.cpp as it is, without llmrun's own kernels.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, metavar="N", help="Compile so many files at once [default: as cores and memory allow]."
        ),
    ] = None,
    json_output: common.JsonOutput = False,
    quiet: common.Quiet = False,
) -> None:
    """Build or install an engine, tuned for this machine, into the environment that llmrun runs in.

    llama-cpp is compiled with the best compiler that is here, tried on a small model, and kept for the next time.
    The other engines come as ready packages.

    \b
    llmrun install llama-cpp
    llmrun install llama-cpp --dry-run
    llmrun install llama-cpp --accelerator cuda
    llmrun install llama-cpp --wheel ./llama_cpp_python-0.3.36-py3-none-any.whl
    llmrun install ctransformers
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.progress import choose_progress
    from llmrun.engines.install.install import install_engine
    from llmrun.engines.install.types import InstallRequest
    from llmrun.engines.types import EngineName
    from llmrun.errors import UsageError
    from llmrun.hardware.types import Accelerator

    if (prebuilt or wheel) and (rebuild or accelerator or no_kernels or jobs):
        raise UsageError(
            "--prebuilt and --wheel build nothing, so --rebuild, --accelerator, --no-kernels and --jobs do not go with "
            "it"
        )
    if prebuilt and wheel:
        raise UsageError(
            "--prebuilt takes a wheel from the package index and --wheel the one it names: give one of them"
        )
    request = InstallRequest(
        engine=EngineName(engine),
        prebuilt=prebuilt,
        wheel=wheel,
        rebuild=rebuild,
        accelerator=Accelerator(accelerator) if accelerator not in {None, "cpu"} else None,
        cpu_only=accelerator == "cpu",
        kernels=not no_kernels,
        jobs=jobs,
        dry_run=dry_run,
    )
    result = install_engine(request, choose_progress(quiet))
    _report(result, dry_run=dry_run, as_json=json_output, quiet=quiet)


def _report(result: "InstallResult", *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Results on standard output, everything else on standard error."""
    from llmrun.cli.output import report_line, write_out

    if not quiet:
        for sentence in result.advice:
            report_line(f"llmrun: {sentence}")
        if not dry_run:
            report_line(f"llmrun: {render_result(result)}")
    if as_json:
        write_out(render_json(result))
    elif dry_run:
        write_out("".join(f"{command.render()}\n" for command in result.commands))


def render_result(result: "InstallResult") -> str:
    """Return the line that says what was done."""
    from llmrun.cli.progress import format_seconds

    name = f"{result.engine.value} {result.version}" if result.version else result.engine.value
    how = ", ".join(result.build[key] for key in ("recipe", "compiler") if key in result.build)
    state = f"is installed, in {format_seconds(result.seconds)}" if result.changed else "was installed already"
    return f"{name} {state}{f' ({how})' if how else ''}"


def render_json(result: "InstallResult") -> str:
    """Return the JSON document."""
    import json

    document = {
        "version": _JSON_VERSION,
        "engine": result.engine.value,
        "engine_version": result.version,
        "changed": result.changed,
        "build": dict(result.build),
        "commands": [command.render() for command in result.commands],
        "advice": list(result.advice),
        "seconds": round(result.seconds, 3),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
