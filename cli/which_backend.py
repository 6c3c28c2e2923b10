"""`llmrun which-backend`: what this machine has, which engine runs a model here, why, and why not the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import options as common

if TYPE_CHECKING:
    from llmrun.engines.installed.facts import EngineFacts
    from llmrun.engines.selection.setting import Setting
    from llmrun.engines.types import EngineName
    from llmrun.hardware.types import Machine

__all__ = ["which_backend"]

_NO_CHOICE = 6


def which_backend(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Judge the engines for this model; without one, show the machine."),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option("--machine", metavar="FILE", help="Answer for the machine that this file describes."),
    ] = None,
    save_machine: Annotated[
        Path | None, typer.Option("--save-machine", metavar="FILE", help="Write this machine down, for --machine.")
    ] = None,
    engine: common.Engine = None,
    context_length: common.ContextLength = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = None,
    kv_type: common.KvType = "f16",
    offline: common.Offline = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Forget what was found out about engines and memory, and look again.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure MODEL on every engine that can run it; from now on that decides."),
    ] = False,
    json_output: common.JsonOutput = False,
    quiet: common.Quiet = False,
) -> None:
    """Show which engine runs a model here, and why; or what this machine has.

    Nothing is downloaded and no model is loaded: of a model on the hub, only the headers are read.
    Ends with exit code 6 when no engine can run the model.
    --measure loads the model on every engine, and takes from half a minute to minutes.
    For the machine of a file, the engines are taken to be installed there.

    \b
    llmrun which-backend
    llmrun which-backend smollm2-135m-instruct
    llmrun which-backend ./model.gguf --context-length 32768 --json
    llmrun which-backend bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
    llmrun which-backend ./model.gguf --measure
    llmrun which-backend --save-machine laptop.json
    llmrun which-backend llama-2-chat --machine laptop.json
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    if measure and (model is None or machine is not None):
        from llmrun.errors import UsageError

        wants = "--measure wants a MODEL, and measures on this machine"
        raise UsageError(wants, fix="llmrun which-backend MODEL --measure")
    looked_at, engines = _elsewhere(machine) if machine else _here(recheck=recheck, quiet=quiet, thorough=model is None)
    if save_machine is not None:
        _save(looked_at, save_machine)
    if model is None:
        _show_machine(looked_at, engines, here=machine is None, json_output=json_output)
        return
    from llmrun.engines.plan import PlanRequest, check_request
    from llmrun.engines.selection.setting import Setting
    from llmrun.engines.types import DRIVEN_ENGINES, EngineName

    request = PlanRequest(context_length=context_length, threads=threads, gpu_layers=gpu_layers, kv_type=kv_type)
    check_request(request)
    setting = Setting(
        machine=looked_at,
        engines=engines,
        request=request,
        forced=None if engine is None else EngineName(engine),
        runnable=None if machine else DRIVEN_ENGINES,
        measured=machine is None,
    )
    if measure:
        from llmrun.cli.bench.choice import measure_engines

        measure_engines(model, setting, offline=offline, quiet=quiet)
    _show_model(model, setting, here=machine is None, offline=offline, quiet=quiet, json_output=json_output)


def _show_machine(
    machine: "Machine", engines: "dict[EngineName, EngineFacts]", *, here: bool, json_output: bool
) -> None:
    from llmrun.cli import machine_report as report
    from llmrun.cli.output import write_json, write_out
    from llmrun.engines.selection.prospects import find_prospects
    from llmrun.hardware.toolchain import probe_toolchain

    toolchain = probe_toolchain(verify=False) if here else None
    prospects = find_prospects(machine, engines)
    if json_output:
        write_json(report.machine_document(machine, toolchain, engines, prospects))
    else:
        write_out(report.machine_text(machine, toolchain, engines, prospects))


def _show_model(model: str, setting: "Setting", *, here: bool, offline: bool, quiet: bool, json_output: bool) -> None:
    from functools import partial

    from llmrun.cli import which_backend_report as report
    from llmrun.cli.output import marks, write_json, write_out
    from llmrun.cli.progress import choose_progress
    from llmrun.engines.installed.health import check_health
    from llmrun.engines.selection.judgement import judge
    from llmrun.engines.selection.subject import find_subject
    from llmrun.engines.selection.suggestions import suggest
    from llmrun.engines.selection.tried import judge_tried
    from llmrun.models.reference import parse_reference

    progress = choose_progress(quiet=quiet)
    find = partial(find_subject, parse_reference(model), offline=offline, progress=progress)
    if here:
        check = partial(check_health, machine=setting.machine, progress=progress)
        judged, setting = judge_tried(find, setting, check, with_speed=True)
    else:
        judged = judge(find(setting), setting, with_speed=True)
    suggestions = suggest(judged, setting)
    if json_output:
        write_json(report.model_document(judged, setting.machine, setting.engines, suggestions))
    else:
        write_out(report.model_text(judged, suggestions, marks()))
    if judged.chosen is None:
        raise typer.Exit(_NO_CHOICE)


def _elsewhere(file: Path) -> "tuple[Machine, dict[EngineName, EngineFacts]]":
    """Return the machine of a file, with every engine taken to be installed there."""
    from llmrun.engines.installed.facts import assume_engine
    from llmrun.engines.types import EngineName
    from llmrun.hardware.profile import read_machine

    machine = read_machine(file)
    has_gpu = bool(machine.gpus)
    names = [name for name in EngineName if name is not EngineName.FAKE]
    return machine, {name: assume_engine(name, gpu_support=has_gpu) for name in names}


def _here(*, recheck: bool, quiet: bool, thorough: bool) -> "tuple[Machine, dict[EngineName, EngineFacts]]":
    """Return this machine and its engines.

    Asked `thorough`ly, what was never found out about them is found out now and kept. For the question about a model,
    an engine is tried when the answer turns out to rest on it (see `engines/selection/tried.py`).
    """
    from dataclasses import replace

    from llmrun.cli.progress import choose_progress
    from llmrun.engines.installed.facts import UNKNOWN, probe_engines
    from llmrun.engines.installed.health import check_health
    from llmrun.folders import cache_folder
    from llmrun.hardware.bandwidth import known_bandwidth, learn_bandwidth
    from llmrun.hardware.machine import probe_machine

    progress = choose_progress(quiet=quiet)
    machine = probe_machine(disk_folder=cache_folder())
    bandwidth = None if recheck else known_bandwidth(machine)
    if bandwidth is None and (thorough or recheck):
        progress.note("measuring the memory, once")
        bandwidth = learn_bandwidth(machine, again=recheck)
    machine = replace(machine, memory_bandwidth_bytes_per_second=bandwidth)
    engines = probe_engines(machine)
    for name, facts in engines.items():
        if facts.installed and (recheck or (thorough and facts.health == UNKNOWN)):
            engines[name] = check_health(name, facts, recheck, machine=machine, progress=progress)
    return machine, engines


def _save(machine: "Machine", path: Path) -> None:
    import json

    from llmrun.errors import StorageError
    from llmrun.hardware.profile import machine_to_json

    try:
        path.write_text(json.dumps(machine_to_json(machine), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--save-machine {path} cannot be written: {error.strerror or error}") from error
