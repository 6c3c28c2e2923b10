"""Build llama-cpp-python for this machine, try it, keep its wheel, and install it.

The order is what makes it safe: a wheel is built into the cache, unpacked, and one batch is decoded with it in a child
process. Only then is it kept and installed. A build that crashes is never installed: it is remembered, and the next
safer recipe is built instead.
"""

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.install.advice import advise, find_compiler_command
from llmrun.engines.install.build_output import BuildMonitor, explain_failure
from llmrun.engines.install.commands import Installer, Run, run_command
from llmrun.engines.install.recipe import choose_recipes
from llmrun.engines.install.types import Command, InstallRequest, InstallResult, Recipe
from llmrun.engines.install.verify import Verification, kernel_formats, verify_build
from llmrun.engines.install.wheels import (
    build_lock,
    crash_reason,
    find_kept_wheel,
    forget_crash,
    keep_wheel,
    read_installed_record,
    remember_crash,
    remove_folder,
    unpack_wheel,
    wheel_key,
)
from llmrun.engines.types import EngineName
from llmrun.errors import NoUsableEngineError, StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.types import Machine, Toolchain
from llmrun.progress import Progress

__all__ = ["LLAMA_CPP_VERSION", "LlamaCppInstallation", "describe_recipe", "install_wheel_commands", "new_log"]

LLAMA_CPP_VERSION = "0.3.36"
_PACKAGE = "llama-cpp-python"
_SUBJECT = "llama-cpp"
_CMAKE_FILE = Path(__file__).resolve().with_name("llama_cpp.cmake")
_KERNELS_FOLDER = _CMAKE_FILE.with_name("kernels")
_CANDIDATES_FOLDER = _CMAKE_FILE.with_name("candidates")
_BUILD_BYTES = 2 << 30  # sources twice, objects and the wheel took 0.7 GB; with GPU kernels more
_COMPILE_JOB_BYTES = 1 << 30  # the largest file took 0.7 GB with Clang 19
_SHOWN_TAIL_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppInstallation:
    """One installation: what is asked, where, and who watches.

    Attributes:
        request: What the user asked for.
        machine: This machine.
        toolchain: What can compile here.
        installer: How to call pip.
        progress: Who shows how far it is.
        which: Finds a program on PATH, to name the right package manager.
    """

    request: InstallRequest
    machine: Machine
    toolchain: Toolchain
    installer: Installer
    progress: Progress
    which: Callable[[str], str | None]

    def run(self) -> InstallResult:
        """Build and install, or say what would be done.

        Raises:
            NoUsableEngineError: Nothing here can build it, or no build of it works.
            NetworkError: The sources could not be fetched.
            StorageError: The disk is full, or the cache cannot be written.
            UsageError: The accelerator that was asked for has no toolkit here.
        """
        started = time.monotonic()
        try:
            recipes = choose_recipes(
                self.machine,
                self.toolchain,
                accelerator=self.request.accelerator,
                cpu_only=self.request.cpu_only,
                kernels=self.request.kernels,
            )
        except NoUsableEngineError as error:
            raise NoUsableEngineError(error.message, fix=self._compiler_fix()) from None
        if self.request.dry_run:
            return self._result(self._next_recipe(recipes), started, changed=False, commands=self._plan(recipes))
        with build_lock(self.progress):
            return self._install_first_that_works(recipes, started)

    def build_command(self, recipe: Recipe) -> Command:
        """Return the command that builds the wheel of a recipe into the cache."""
        options = (f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={_CMAKE_FILE}", *recipe.options)
        argv = (
            *(*self.installer.pip, "wheel", "-v", *self.installer.progress),
            *("--no-deps", "--no-binary", _PACKAGE, "--cache-dir", str(cache_folder("pip"))),
            *("--config-settings=build.targets=llama", "--config-settings=install.components=Unspecified"),
            *("--wheel-dir", str(self._staging(recipe)), f"{_PACKAGE}=={LLAMA_CPP_VERSION}"),
        )
        variables = (
            ("CC", recipe.compiler.cc),
            ("CXX", recipe.compiler.cxx),
            *recipe.variables,
            ("CMAKE_ARGS", shlex.join(options)),
            ("CMAKE_BUILD_PARALLEL_LEVEL", str(self._jobs())),
            # Sources and objects go where they are removed also after the process was killed.
            ("TMPDIR", str(self._staging(recipe) / "tmp")),
        )
        return Command(argv=argv, variables=variables)

    def install_commands(self, wheel: Path) -> tuple[Command, ...]:
        """Return the commands that put a wheel, and what it needs, into the environment."""
        return install_wheel_commands(self.installer, wheel)

    def _plan(self, recipes: Sequence[Recipe]) -> tuple[Command, ...]:
        recipe = self._next_recipe(recipes)
        kept = None if self.request.rebuild else find_kept_wheel(self._key(recipe))
        if kept is not None:
            self.progress.note("a wheel for this machine is kept already; --rebuild builds it again")
            return self.install_commands(kept)
        name = f"llama_cpp_python-{LLAMA_CPP_VERSION}-py3-none-{_platform_tag()}.whl"
        wheel = cache_folder("wheels", self._key(recipe)) / name
        return (self.build_command(recipe), *self.install_commands(wheel))

    def _next_recipe(self, recipes: Sequence[Recipe]) -> Recipe:
        """Return the first recipe that is not known to crash."""
        if self.request.rebuild:
            return recipes[0]
        return next((recipe for recipe in recipes if crash_reason(self._key(recipe)) is None), recipes[-1])

    def _install_first_that_works(self, recipes: Sequence[Recipe], started: float) -> InstallResult:
        reasons: list[str] = []
        for recipe in recipes:
            key = self._key(recipe)
            if self.request.rebuild:
                forget_crash(key)
            known = crash_reason(key)
            if known is not None:
                self.progress.note(f"the {recipe.name} build is known to fail here ({known}); taking a safer one")
                reasons.append(f"{recipe.name}: {known}")
                continue
            if not self.request.rebuild and (read_installed_record() or {}).get("key") == key:
                if self._verify(None).ok:
                    return self._result(recipe, started, changed=False, commands=())
                self.progress.note("the installed build does not work any more; installing it again")
            wheel, failure = self._obtain(recipe, key)
            if wheel is not None:
                commands = self.install_commands(wheel)
                for command in commands:
                    self._run_installer(command, new_log(self.request.engine))
                return self._result(recipe, started, changed=True, commands=commands)
            reasons.append(f"{recipe.name}: {failure.cause}")
            if not failure.crashed and not recipe.kernels:
                break
            remember_crash(key, failure.cause)
            self.progress.note(f"the {recipe.name} build fails here: {failure.cause}; it is not kept")
        raise NoUsableEngineError(
            f"no build of llama-cpp works on this machine: {'; '.join(reasons)}", fix=self._compiler_fix()
        )

    def _obtain(self, recipe: Recipe, key: str) -> tuple[Path | None, Verification]:
        """Return a wheel that works, kept or newly built, or why there is none."""
        kept = None if self.request.rebuild else find_kept_wheel(key)
        if kept is not None:
            verification = self._verify_wheel(kept)
            if verification.ok:
                return kept, verification
            self.progress.note(f"the kept wheel does not work ({verification.cause}); building it again")
            kept.unlink(missing_ok=True)
        staging = self._staging(recipe)
        remove_folder(staging)
        try:
            built = self._build(recipe, staging)
        except NoUsableEngineError as error:
            if not recipe.kernels:
                raise
            return None, Verification(ok=False, cause=error.message)
        else:
            verification = self._verify_wheel(built)
            if not verification.ok:
                return None, verification
            if recipe.kernels and not kernel_formats(verification.features):
                self.progress.note(
                    "llmrun's kernels do not fit this version of llama.cpp, which was built without them"
                )
            return keep_wheel(built, key, self._record(recipe, key, verification)), verification
        finally:
            remove_folder(staging)

    def _build(self, recipe: Recipe, staging: Path) -> Path:
        _check_free_space(staging)
        staging.joinpath("tmp").mkdir(parents=True)
        # pip 23.1 and newer take a wheel that they built before, whatever the options: only its downloads are wanted.
        remove_folder(cache_folder("pip") / "wheels")
        monitor = BuildMonitor(self.progress, f"{_SUBJECT} {LLAMA_CPP_VERSION}")
        log = new_log(self.request.engine)
        try:
            run = run_command(self.build_command(recipe), log, monitor.feed)
        finally:
            monitor.finish()
        built = next(iter(staging.glob("*.whl")), None) if run.code == 0 else None
        if built is None:
            raise self._failure(run, log)
        return built

    def _run_installer(self, command: Command, log: Path) -> None:
        self.progress.begin("installing", None)
        try:
            run = run_command(command, log, lambda _line: None)
        finally:
            self.progress.finish()
        if run.code != 0:
            raise self._failure(run, log)

    def _failure(self, run: Run, log: Path) -> Exception:
        for line in run.tail[-_SHOWN_TAIL_LINES:]:
            self.progress.note(f"  {line}")
        return explain_failure(f"{_SUBJECT} {LLAMA_CPP_VERSION}", run.tail, str(log), self._compiler_fix())

    def _verify_wheel(self, wheel: Path) -> Verification:
        with tempfile.TemporaryDirectory(prefix="llmrun-wheel-") as folder:
            try:
                unpack_wheel(wheel, Path(folder))
            except NoUsableEngineError as error:
                return Verification(ok=False, cause=error.message)
            return self._verify(Path(folder))

    def _verify(self, folder: Path | None) -> Verification:
        self.progress.begin("trying one batch", None)
        try:
            return verify_build(folder, self.machine.cpu.threads)
        finally:
            self.progress.finish()

    def _record(self, recipe: Recipe, key: str, verification: Verification) -> dict[str, str]:
        return {
            **describe_recipe(recipe),
            "key": key,
            "options": " ".join(recipe.options),
            "cpu": self.machine.cpu.name or self.machine.cpu.architecture,
            "features": verification.features,
            "kernels": kernel_formats(verification.features),
            "gpu_offload": str(verification.gpu_offload).lower(),
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "verified": "one batch and single tokens decoded, with and without repacked weights",
        }

    def _result(self, recipe: Recipe, started: float, *, changed: bool, commands: tuple[Command, ...]) -> InstallResult:
        fix = self._compiler_fix()
        advice = advise(self.machine, self.toolchain, recipe.compiler, recipe.accelerator, fix)
        return InstallResult(
            engine=self.request.engine,
            version=LLAMA_CPP_VERSION,
            commands=commands,
            changed=changed,
            build=describe_recipe(recipe),
            advice=(advice,) if advice else (),
            seconds=time.monotonic() - started,
        )

    def _jobs(self) -> int:
        if self.request.jobs is not None:
            return self.request.jobs
        cpu = self.machine.cpu
        by_quota = cpu.affinity if cpu.quota is None else min(cpu.affinity, int(cpu.quota))
        return max(1, min(by_quota, self.machine.memory.available_bytes // _COMPILE_JOB_BYTES))

    def _key(self, recipe: Recipe) -> str:
        folders = (_CANDIDATES_FOLDER, _KERNELS_FOLDER) if recipe.kernels else (_CANDIDATES_FOLDER,)
        sources = [_CMAKE_FILE, *(file for folder in folders for file in sorted(folder.iterdir()))]
        return wheel_key(recipe, self.machine, LLAMA_CPP_VERSION, sources)

    def _staging(self, recipe: Recipe) -> Path:
        return cache_folder("wheels", self._key(recipe)) / "building"

    def _compiler_fix(self) -> str:
        return find_compiler_command(self.machine.system, self.which)


def new_log(engine: EngineName) -> Path:
    """Return where this process keeps the installer's output."""
    return cache_folder("logs") / f"install-{engine.value}-{time.strftime('%Y%m%d')}-{os.getpid()}.log"


def describe_recipe(recipe: Recipe) -> dict[str, str]:
    """Return what tells one build from another, for the record and for the user."""
    compiler = recipe.compiler
    return {
        "version": LLAMA_CPP_VERSION,
        "recipe": recipe.name,
        "compiler": f"{compiler.family} {'.'.join(str(part) for part in compiler.version)}",
        "accelerator": recipe.accelerator.value if recipe.accelerator else "none",
        "because": ", ".join(recipe.because),
    }


def install_wheel_commands(installer: Installer, wheel: Path) -> tuple[Command, ...]:
    """Return the commands that install a wheel file, and the packages it needs if one of them is missing."""
    commands = [Command(argv=(*installer.install, "--no-deps", "--force-reinstall", str(wheel)))]
    if _missing_requirements():
        commands.append(Command(argv=(*installer.install, *_REQUIREMENTS)))
    return tuple(commands)


# What llama-cpp-python's metadata asks for.
_REQUIREMENTS = ("typing-extensions>=4.5.0", "numpy>=1.20.0", "diskcache>=5.6.1", "jinja2>=3.1.6")


def _missing_requirements() -> bool:
    from importlib import metadata

    for requirement in _REQUIREMENTS:
        try:
            metadata.version(requirement.partition(">=")[0])
        except metadata.PackageNotFoundError:
            return True
    return False


def _platform_tag() -> str:
    import sysconfig

    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _check_free_space(folder: Path) -> None:
    import shutil

    parent = folder.parent
    free = shutil.disk_usage(parent).free
    if free < _BUILD_BYTES:
        raise StorageError(
            f"building llama-cpp needs {_BUILD_BYTES / 2**30:.0f} GiB; {parent} has {free / 2**30:.1f} GiB free",
            fix="free some space, or set LLMRUN_CACHE_DIR to a folder on another disk",
        )
