"""The folder that the rows about PyTorch and vLLM are measured on, and a worker for it."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from bench import Bench

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import ModelNotFoundError

__all__ = ["find_twin", "twin_worker"]

CONTEXT = 2048


def find_twin() -> str:
    """Return the safetensors twin of the test model.

    Raises:
        ModelNotFoundError: `make perf` made none, because the engines that read it are not for this machine.
    """
    folder = os.environ.get("LLMRUN_TEST_TWIN", "")
    if not os.path.isdir(folder):  # noqa: PTH112 - an empty name is no folder, and "." would be one
        raise ModelNotFoundError("LLMRUN_TEST_TWIN names no folder, which PyTorch and vLLM are measured with")
    return folder


@contextlib.contextmanager
def twin_worker(bench: Bench, engine: EngineName, **more: Any) -> Iterator[WorkerClient]:
    """Have a worker process with the twin loaded."""
    settings: dict[str, Any] = {"context_length": CONTEXT, "estimated_bytes": 3 << 30} | more
    worker = WorkerClient(engine)
    try:
        worker.load(LoadPlan(engine=engine, model_path=find_twin(), threads=bench.threads, **settings))
        yield worker
    finally:
        worker.close()
