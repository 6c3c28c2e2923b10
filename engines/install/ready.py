"""Install a llama-cpp-python wheel that somebody else built: from the package index, a file or an address.

It is tried like one of our own, because a wheel built for another CPU does not fail: it dies at the first batch. The
package index that pip uses by default has only the sources of llama-cpp-python; its author and some distributors keep
indexes with wheels, and whoever uses one has it in pip's configuration.
"""

import time
from collections.abc import Callable
from pathlib import Path

from llmrun.engines.install.build_output import BuildMonitor, explain_failure
from llmrun.engines.install.commands import Installer, run_command
from llmrun.engines.install.types import Command, InstallRequest, InstallResult
from llmrun.engines.install.verify import Verification, verify_build
from llmrun.engines.install.wheels import build_lock, remove_folder
from llmrun.errors import LlmrunError, NoUsableEngineError, UsageError
from llmrun.folders import cache_folder
from llmrun.progress import Progress

__all__ = ["install_ready_wheel"]

_PACKAGE = "llama-cpp-python"
_BUILD_INSTEAD = "llmrun install llama-cpp builds one for this machine"


def install_ready_wheel(
    request: InstallRequest,
    version: str,
    installer: Installer,
    progress: Progress,
    *,
    threads: int,
    log: Path,
    verify: Callable[[Path | None, int], Verification] = verify_build,
) -> InstallResult:
    """Unpack the wheel aside, decode one batch with it, and install it.

    Raises:
        UsageError: The file that was named is not there.
        NoUsableEngineError: The index has no wheel, or the wheel does not work on this machine.
        NetworkError: The wheel could not be fetched.
    """
    started = time.monotonic()
    source = _find_source(request, version)
    aside = cache_folder("wheels", "ready")
    only_binary = ("--no-deps", "--only-binary", ":all:", source)
    unpack = Command(
        argv=(*installer.pip, "install", *installer.progress, "--upgrade", "--target", str(aside), *only_binary)
    )
    commands = (
        unpack,
        Command(argv=(*installer.install, "--force-reinstall", *only_binary)),
        Command(argv=(*installer.install, source)),
    )
    result = InstallResult(
        engine=request.engine,
        version=version if request.wheel is None else None,
        commands=commands,
        changed=not request.dry_run,
        build={"recipe": "prebuilt", "source": source},
    )
    if request.dry_run:
        return result
    with build_lock(progress):
        remove_folder(aside)
        try:
            _run(unpack, log, progress)
            verification = verify(aside, threads)
        finally:
            remove_folder(aside)
        if not verification.ok:
            message = f"the ready wheel does not work on this machine: {verification.cause}"
            raise NoUsableEngineError(message, fix=_BUILD_INSTEAD)
        for command in commands[1:]:
            _run(command, log, progress)
    return InstallResult(
        engine=request.engine,
        version=result.version,
        commands=commands,
        build={**result.build, "features": verification.features},
        seconds=time.monotonic() - started,
    )


def _find_source(request: InstallRequest, version: str) -> str:
    if request.wheel is None:
        return f"{_PACKAGE}=={version}"
    if "://" in request.wheel:
        return request.wheel
    path = Path(request.wheel)
    if path.suffix != ".whl" or not path.is_file():
        raise UsageError(f"--wheel {request.wheel}: there is no such wheel file (.whl)")
    return str(path.resolve())


def _run(command: Command, log: Path, progress: Progress) -> None:
    monitor = BuildMonitor(progress, _PACKAGE)
    progress.begin("fetching a ready wheel", None)
    try:
        run = run_command(command, log, monitor.feed)
    finally:
        monitor.finish()
        progress.finish()
    if run.code != 0:
        error = explain_failure(f"a ready wheel of {_PACKAGE}", run.tail, str(log), _BUILD_INSTEAD)
        raise _with_build_hint(error)


def _with_build_hint(error: LlmrunError) -> LlmrunError:
    """Where there is no wheel to be had, the way out is to build one."""
    if isinstance(error, NoUsableEngineError):
        return NoUsableEngineError(error.message, fix=_BUILD_INSTEAD)
    return error
