"""The built wheels that llmrun keeps, each under a key of everything that shaped it.

pip has a wheel cache too, but its key knows neither compiler nor options, so it would hand a build for one machine or
one set of options to another. A wheel is kept only after it has been tried (`verify`), it is put in place by one
rename, and it carries its own record (`llama_cpp/lib/llmrun-build.json`), so that an installed build can always be
told apart and is removed with its package.
"""

import base64
import contextlib
import hashlib
import json
import os
import platform
import shutil
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from llmrun.engines.install.types import Recipe
from llmrun.errors import NoUsableEngineError, StorageError
from llmrun.folders import cache_folder
from llmrun.hardware.types import Machine
from llmrun.progress import Progress

__all__ = [
    "BUILD_VARIABLES",
    "RECORD_MEMBER",
    "build_lock",
    "crash_reason",
    "find_kept_wheel",
    "forget_crash",
    "keep_wheel",
    "read_installed_record",
    "remember_crash",
    "remove_folder",
    "unpack_wheel",
    "wheel_key",
]

RECORD_MEMBER = "llama_cpp/lib/llmrun-build.json"
# Variables of the user's that compilers and CMake obey, so that they shape a build too.
BUILD_VARIABLES = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS", "HIPFLAGS", "SKBUILD_CMAKE_ARGS")
_LARGEST_UNPACKED_BYTES = 8 << 30
_KEY_HEX_DIGITS = 16


def wheel_key(recipe: Recipe, machine: Machine, version: str, sources: Iterable[Path]) -> str:
    """Return the name under which a build is kept: the same for the same wheel, another for any other.

    Args:
        recipe: How it is built.
        machine: What it is built for.
        version: Of llama-cpp-python.
        sources: llmrun's own files that go into it.
    """
    facts = {
        "version": version,
        "options": sorted(recipe.options),
        "variables": sorted(recipe.variables),
        "sources": [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources],
        "compiler": [recipe.compiler.family, recipe.compiler.version, recipe.compiler.openmp],
        "cpu": [machine.cpu.name, machine.cpu.architecture, sorted(machine.cpu.isa_flags)],
        "environment": [os.environ.get(name, "") for name in BUILD_VARIABLES],
        "platform": [sysconfig.get_platform(), platform.libc_ver()],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"llama-cpp-{version}-{recipe.name}-{digest[:_KEY_HEX_DIGITS]}"


def find_kept_wheel(key: str) -> Path | None:
    """Return the wheel that is kept under a key."""
    return next(iter(sorted(cache_folder("wheels", key).glob("*.whl"))), None)


def keep_wheel(built: Path, key: str, record: Mapping[str, str]) -> Path:
    """Put a tried wheel, with its record, in its place, and return the path.

    Raises:
        StorageError: The cache cannot be written.
    """
    target = cache_folder("wheels", key) / built.name
    part = target.with_suffix(".part")
    try:
        _copy_with_record(built, part, json.dumps(dict(record), indent=1).encode())
        part.replace(target)
        built.unlink()
        _marker(key).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"the built wheel cannot be kept in {target.parent}: {error.strerror or error}",
            fix="free some space, or set LLMRUN_CACHE_DIR to another disk",
        ) from error
    return target


def unpack_wheel(wheel: Path, folder: Path) -> None:
    """Unpack a wheel.

    Raises:
        NoUsableEngineError: It is not a wheel, or is damaged.
        StorageError: The folder cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST_UNPACKED_BYTES:
                raise NoUsableEngineError(f"{wheel} unpacks to more than {_LARGEST_UNPACKED_BYTES >> 30} GiB")
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise NoUsableEngineError(f"{wheel} is not a wheel, or is damaged: {error}") from error
    except OSError as error:
        raise StorageError(f"{wheel} cannot be unpacked: {error.strerror or error}") from error


def read_installed_record() -> dict[str, str] | None:
    """Return the record of the llama-cpp build in this environment, or None: none is there, or not llmrun's."""
    import importlib.util

    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(Path(folder).parent.joinpath(RECORD_MEMBER).read_text(encoding="utf-8"))
            if isinstance(record, dict):
                return {str(name): str(value) for name, value in record.items()}
    return None


def remember_crash(key: str, reason: str) -> None:
    """Note that this build crashes, so that the next installation does not build it again."""
    with contextlib.suppress(OSError):
        _marker(key).write_text(reason, encoding="utf-8")


def forget_crash(key: str) -> None:
    """Give this build another chance."""
    _marker(key).unlink(missing_ok=True)


def crash_reason(key: str) -> str | None:
    """Return why this build was found to crash, or None."""
    try:
        return _marker(key).read_text(encoding="utf-8")
    except OSError:
        return None


@contextlib.contextmanager
def build_lock(progress: Progress) -> Iterator[None]:
    """Hold the lock that keeps two installations from building at once."""
    import filelock

    lock = filelock.FileLock(cache_folder("wheels") / "build.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress.note("another llmrun is building an engine; waiting for it")
        lock.acquire()
    except OSError as error:
        raise StorageError(f"the cache cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _marker(key: str) -> Path:
    return cache_folder("wheels", key) / "crashed"


def _copy_with_record(source: Path, target: Path, record: bytes) -> None:
    """Copy a wheel and add the build record, listed in RECORD as the wheel format demands.

    Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for member in old.infolist():
            if member.filename == RECORD_MEMBER:
                continue
            data = old.read(member)
            if member.filename.endswith(".dist-info/RECORD"):
                kept = [line for line in data.splitlines() if not line.startswith(RECORD_MEMBER.encode())]
                digest = base64.urlsafe_b64encode(hashlib.sha256(record).digest()).rstrip(b"=").decode()
                kept.append(f"{RECORD_MEMBER},sha256={digest},{len(record)}".encode())
                data = b"\n".join(kept) + b"\n"
            new.writestr(member, data)
        new.writestr(RECORD_MEMBER, record)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def remove_folder(folder: Path) -> None:
    """Remove a working folder and all in it."""
    shutil.rmtree(folder, ignore_errors=True)
