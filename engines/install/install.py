"""`llmrun install ENGINE`, without the terminal: probe the machine, choose, run, try, and say what was done."""

import shutil
import sys
import time
from pathlib import Path

from llmrun.engines.install.build_output import BuildMonitor, explain_failure
from llmrun.engines.install.commands import Installer, find_installer, run_command
from llmrun.engines.install.downloads import Download, ask_downloads, ask_requirements
from llmrun.engines.install.llama_cpp import LLAMA_CPP_VERSION, LlamaCppInstallation, new_log
from llmrun.engines.install.packages import PackagePlan, drop_requirements, plan_packages
from llmrun.engines.install.ready import install_ready_wheel
from llmrun.engines.install.types import Command, InstallRequest, InstallResult
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError, UsageError
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.toolchain import probe_toolchain
from llmrun.hardware.types import GpuVendor, Machine, Toolchain
from llmrun.progress import Progress

__all__ = ["install_engine"]

_LARGE_BYTES = 1 << 30


def install_engine(
    request: InstallRequest,
    progress: Progress,
    *,
    machine: Machine | None = None,
    toolchain: Toolchain | None = None,
    installer: Installer | None = None,
) -> InstallResult:
    """Install an engine, or say what would be run.

    Args:
        request: What the user asked for.
        progress: Who shows how far it is.
        machine: Stands in for this machine in tests.
        toolchain: Stands in for this machine's compilers.
        installer: Stands in for this environment's pip.

    Raises:
        UsageError: An option does not go with this engine or machine.
        NoUsableEngineError: The engine cannot be built or run here.
        NetworkError: Something could not be fetched.
        StorageError: The disk is full.
    """
    here = machine or probe_machine()
    pip = installer or find_installer()
    if request.engine is not EngineName.LLAMA_CPP:
        _refuse_build_options(request)
        return _install_packages(request, here, pip, progress)
    if request.prebuilt or request.wheel:
        return install_ready_wheel(
            request, LLAMA_CPP_VERSION, pip, progress, threads=here.cpu.threads, log=new_log(request.engine)
        )
    return LlamaCppInstallation(
        request=request,
        machine=here,
        toolchain=toolchain or probe_toolchain(),
        installer=pip,
        progress=progress,
        which=shutil.which,
    ).run()


def _refuse_build_options(request: InstallRequest) -> None:
    given = {
        "--prebuilt": request.prebuilt,
        "--wheel": request.wheel is not None,
        "--rebuild": request.rebuild,
        "--no-kernels": not request.kernels,
        "--jobs": request.jobs is not None,
    }
    for option, used in given.items():
        if used:
            raise UsageError(
                f"{option} is for llama-cpp, which is compiled here; {request.engine.value} comes as ready packages"
            )


def _install_packages(
    request: InstallRequest, machine: Machine, installer: Installer, progress: Progress
) -> InstallResult:
    started = time.monotonic()
    plan = plan_packages(request.engine, machine, request.accelerator)
    requirements = plan.requirements
    if plan.alone is not None:
        requirements = drop_requirements(ask_requirements(installer, plan.alone), plan.left_out)
    progress.begin("asking the package index what is missing", None)
    try:
        downloads = ask_downloads(installer, requirements)
        if plan.alone is not None:
            downloads += ask_downloads(installer, ("--no-deps", plan.alone))
    finally:
        progress.finish()
    _tell_size(downloads, machine, progress)
    commands = _package_commands(installer, requirements, plan.alone)
    if not request.dry_run:
        log = new_log(request.engine)
        for command in commands:
            _run(command, log, request.engine.value, progress)
        _try_imports(plan, log, progress)
    return InstallResult(
        engine=request.engine,
        version=None if request.dry_run else _installed_version(plan.imports[0]),
        commands=commands,
        changed=bool(downloads) and not request.dry_run,
        build={"because": plan.because},
        seconds=time.monotonic() - started,
    )


def _package_commands(installer: Installer, requirements: tuple[str, ...], alone: str | None) -> tuple[Command, ...]:
    commands = [Command(argv=(*installer.install, *requirements))]
    if alone is not None:
        commands.append(Command(argv=(*installer.install, "--no-deps", alone)))
    return tuple(commands)


def _tell_size(downloads: tuple[Download, ...], machine: Machine, progress: Progress) -> None:
    total = sum(download.size_bytes or 0 for download in downloads)
    if not downloads:
        progress.note("everything that it needs is installed")
        return
    progress.note(f"{len(downloads)} packages will be fetched, {total / 2**20:,.0f} MiB")
    nvidia = any(gpu.vendor is GpuVendor.NVIDIA for gpu in machine.gpus)
    torch = next((download for download in downloads if download.name == "torch"), None)
    if torch and not nvidia and machine.system == "linux" and total > _LARGE_BYTES and "+cpu" not in torch.version:
        progress.note(
            "most of it is CUDA libraries that this machine has no use for: the configured package index has no CPU "
            "build of torch (PIP_EXTRA_INDEX_URL can name one that has)"
        )


def _run(command: Command, log: Path, subject: str, progress: Progress) -> None:
    progress.begin(f"installing {subject}", None)
    monitor = BuildMonitor(progress, subject)
    try:
        run = run_command(command, log, monitor.feed)
    finally:
        monitor.finish()
        progress.finish()
    if run.code != 0:
        raise explain_failure(subject, run.tail, str(log), "")


def _try_imports(plan: PackagePlan, log: Path, progress: Progress) -> None:
    """Import what was installed in a child process, because a library for another CPU can kill the process."""
    statement = "; ".join(f"import {module}" for module in plan.imports)
    progress.begin("trying to import it", None)
    try:
        run = run_command(Command(argv=(sys.executable, "-P", "-c", statement)), log, lambda _line: None)
    finally:
        progress.finish()
    if run.code != 0:
        last = next((line.strip() for line in reversed(run.tail) if line.strip()), f"exit status {run.code}")
        raise NoUsableEngineError(
            f"it was installed, but importing {', '.join(plan.imports)} fails: {last}",
            fix=f"all of the output is in {log}",
        )


def _installed_version(module: str) -> str | None:
    from importlib import metadata

    names = metadata.packages_distributions().get(module, [])
    return metadata.version(names[0]) if names else None
