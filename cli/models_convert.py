"""`llmrun models convert`: a legacy llama file becomes a GGUF, which runs on llama-cpp."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmrun.cli.options import JsonOutput, Quiet

__all__ = ["convert"]


def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A legacy file: NAME.ggmlv3.q4_0.bin")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="The GGUF; by default beside the legacy file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    context_length: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Tokens that the model was trained for, which legacy files do not say."),
    ] = None,
    rms_epsilon: Annotated[
        float | None, typer.Option(metavar="X", help="Epsilon of its norms: 1e-5 for Llama 2, 1e-6 for Llama 1.")
    ] = None,
    rope_base: Annotated[
        float | None, typer.Option(metavar="X", help="Base of its positions: 1e6 for Code Llama, else 1e4.")
    ] = None,
    quiet: Quiet = False,
    json_output: JsonOutput = False,
) -> None:
    """Convert a legacy GGML file of the llama kind to GGUF, and print the path of the result.

    The weights are copied as they are, not quantized again. The result is read back and run once with llama-cpp
    before it is put in place; the legacy file stays as it is. GGUF files run on llama-cpp, legacy ones only on
    ctransformers, which is slower.

    \b
    llmrun models convert llama-2-7b-chat.ggmlv3.q4_0.bin
    llmrun models convert old.bin --output new.gguf --rms-epsilon 1e-6
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli.output import inert, write_json, write_out
    from llmrun.cli.progress import choose_progress
    from llmrun.engines.convert import ConvertRequest, convert_file

    request = ConvertRequest(
        path=Path(file),
        output=Path(output) if output else None,
        overwrite=force,
        context_length=context_length,
        rms_epsilon=rms_epsilon,
        rope_base=rope_base,
    )
    done = convert_file(request, progress=choose_progress(quiet=quiet))
    if json_output:
        size_bytes = done.path.stat().st_size
        document = {"version": 1, "path": str(done.path), "size_bytes": size_bytes, "loaded": done.loaded}
        write_json({**document, "quantization": done.info.quantization, "context_length": done.info.context_length})
        return
    text = f"{done.path}\n"
    write_out(inert(text) if os.isatty(1) else text)
