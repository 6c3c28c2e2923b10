"""A manifest as a file: written as a whole or not at all, for its user's eyes only; read with every field checked."""

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrun.engines.manifest.decoding import FieldError, decode
from llmrun.engines.manifest.values import KIND, VERSION, Manifest
from llmrun.engines.memory.kv import KV_BYTES
from llmrun.errors import ModelFileError, StorageError, UsageError

__all__ = ["check_target", "read_manifest", "write_manifest"]

_MAX_BYTES = 64 << 20
_Check = Callable[[Any], bool]


def check_target(path: Path) -> None:
    """Refuse a place where no manifest can be written, before anything is computed for it.

    Raises:
        UsageError: The folder is not there or cannot be written, or something else than a file is in the place.
    """
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"--manifest {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--manifest {path}: the folder {folder} cannot be written")
    if path.exists() and not path.is_file():
        raise UsageError(f"--manifest {path}: it is there and is no file")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, with mode 0600, in place of what was there.

    Raises:
        StorageError: It cannot be written; what was there is still there.
    """
    document = {"kind": KIND, "version": VERSION, **asdict(manifest)}
    data = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageError(f"--manifest {path} cannot be written: {error.strerror or error}") from error


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        UsageError: The file is not there or cannot be read.
        ModelFileError: It is no manifest, is damaged, or of a version that is not known; names the field.
    """
    text = _read(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no manifest: it is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ModelFileError(
            f'{path} is no manifest: kind is not "{KIND}"', fix="llmrun run MODEL PROMPT --manifest FILE writes one"
        )
    if document.get("version") != VERSION:
        raise ModelFileError(
            f"{path} is a manifest of version {str(document.get('version'))[:20]}, and this llmrun reads {VERSION}"
        )
    try:
        manifest: Manifest = decode(Manifest, document, "")
    except FieldError as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
    wrong = next((name for name, found, check in _checks(manifest) if found is not None and not check(found)), None)
    if wrong is not None:
        raise ModelFileError(f"{path} is damaged: {wrong} has a value that is not allowed")
    return manifest


def _read(path: Path) -> str:
    try:
        status = path.stat()  # before it is opened: opening a pipe waits for ever
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"--replay {path}: it is no file")
        if status.st_size > _MAX_BYTES:
            raise ModelFileError(f"{path} is no manifest: it is larger than {_MAX_BYTES >> 20} MiB")
        return path.read_bytes().decode("utf-8", "surrogatepass")
    except OSError as error:
        raise UsageError(f"--replay {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelFileError(f"{path} is no manifest: it is not text in UTF-8") from error


def _between(low: float, high: float = math.inf) -> _Check:
    return lambda value: math.isfinite(value) and low <= value <= high


def _checks(manifest: Manifest) -> list[tuple[str, Any, _Check]]:
    """Return what the command line would not have let pass: field, value, and what it must be."""
    plan, sampling = manifest.options.plan, manifest.options.sampling
    whole = 2**31 - 1
    return [
        ("options.plan.context_length", plan.context_length, _between(1)),
        ("options.plan.threads", plan.threads, _between(1, 1024)),
        ("options.plan.gpu_layers", plan.gpu_layers, _between(-1, 100_000)),
        ("options.plan.kv_type", plan.kv_type, KV_BYTES.__contains__),
        ("options.plan.lookup", plan.lookup, ("auto", "on", "off").__contains__),
        ("options.plan.dtype", plan.dtype, ("auto", "float32", "bfloat16", "float16").__contains__),
        ("options.plan.quantization", plan.quantization, ("4-bit", "8-bit").__contains__),
        ("options.plan.parallel", plan.parallel, _between(1, 1)),
        ("options.sampling.temperature", sampling.temperature, _between(0)),
        ("options.sampling.top_p", sampling.top_p, _between(0, 1)),
        ("options.sampling.top_k", sampling.top_k, _between(0, whole)),
        ("options.sampling.min_p", sampling.min_p, _between(0, 1)),
        ("options.sampling.repeat_penalty", sampling.repeat_penalty, _between(math.ulp(0))),
        ("options.sampling.max_tokens", sampling.max_tokens, _between(1, whole)),
        ("options.sampling.seed", sampling.seed, _between(0, 2**32 - 2)),
        ("options.sampling.logprobs", sampling.logprobs, _between(0, 100)),
        ("options.sampling.stop", sampling.stop, all),
        ("plan.context_length", manifest.plan.context_length, _between(1)),
        ("plan.threads", manifest.plan.threads, _between(1, 1024)),
    ]
