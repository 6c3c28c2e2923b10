"""How long it takes from nothing to the first token: the command itself is run, as a user would.

A worker that another command left running would answer at once, so the command gets a cache folder of its own, which
is what such workers are found by. Everything that is in the real one is in it too, as links.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.measure.points import Setup
from llmrun.engines.memory.types import PlanRequest
from llmrun.errors import LlmrunError, StorageError
from llmrun.folders import cache_folder

__all__ = ["ColdStart", "cold_start_command", "measure_cold_start"]

_BUDGET_SECONDS = 20.0
_LIMIT_SECONDS = 600.0
_UNWANTED = ("LLMRUN_KEEP_ALIVE", "LLMRUN_CONFIG", "LLMRUN_SYSTEM", "LLMRUN_DRAFT", "LLMRUN_LOOKUP", "LLMRUN_QUIET")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """Seconds from starting the command to its answer, and of that to load the model, for each repetition.

    `problem` says why there are none.
    """

    seconds: tuple[float, ...] = ()
    load_seconds: tuple[float, ...] = ()
    problem: str | None = None


def measure_cold_start(
    model: str, setup: Setup, repetitions: int, context_length: int, request: PlanRequest
) -> ColdStart:
    """Start the command again and again, for at most so long as people wait; once at least.

    An engine that takes long to start is started fewer times.
    """
    seconds: list[float] = []
    loads: list[float] = []
    problem: str | None = None
    try:
        with tempfile.TemporaryDirectory() as folder:
            _link_cache(Path(folder))
            environment = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
            environment |= {"LLMRUN_CACHE_DIR": folder, "LLMRUN_OFFLINE": "1"}
            while len(seconds) < repetitions and (not seconds or sum(seconds) + seconds[-1] < _BUDGET_SECONDS):
                began = time.perf_counter()
                done = _run(cold_start_command(model, setup, context_length, request), environment)
                took = time.perf_counter() - began
                if done.returncode != 0:
                    problem = _first_line(done.stderr)
                    break
                seconds.append(took)
                with suppress(ValueError, KeyError, TypeError):
                    loads.append(float(json.loads(done.stdout)["timings"]["start_seconds"]["load"]))
    except (LlmrunError, OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    return ColdStart(seconds=tuple(seconds), load_seconds=tuple(loads), problem=problem)


def _run(command: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=_LIMIT_SECONDS
    )


def _first_line(data: bytes) -> str:
    lines = data.decode("utf-8", "replace").strip().splitlines()
    return lines[0].removeprefix("llmrun: error: ") if lines else "it ended without a word"


def _link_cache(folder: Path) -> None:
    try:
        for entry in cache_folder().absolute().iterdir():
            (folder / entry.name).symlink_to(entry)
    except OSError as error:
        raise StorageError(f"the cache cannot be read: {error.strerror}") from error


def cold_start_command(model: str, setup: Setup, context_length: int, request: PlanRequest) -> list[str]:
    """Return what is started: the model as in the other measurements, and one token."""
    script = Path(sys.executable).with_name("llmrun")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "llmrun"]
    layers = [] if setup.gpu_layers is None else ["--gpu-layers", str(setup.gpu_layers)]
    options = [
        *("--engine", setup.engine.value),
        *("--threads", str(setup.threads)),
        *("--kv-type", setup.kv_type),
        *("--context-length", str(context_length)),
        *layers,
        *([] if request.dtype == PlanRequest().dtype else ["--dtype", request.dtype]),
        *([] if request.quantization is None else ["--quantization", request.quantization]),
        *([] if request.model_type is None else ["--model-type", request.model_type]),
        *(["--allow-pickle"] if request.pickle else []),
        *(["--trust-remote-code"] if request.remote_code else []),
    ]
    return [*program, "run", model, "Hello", *options, "--max-tokens", "1", "--no-cache", "--json", "--quiet"]
