"""The weights of a model, and a thread that reads them before the rest of a worker is there.

The library reads without Python's lock, but tells its progress and its log with it, hundreds of times. Each time it
would wait for as long as another thread may keep the lock, which is five milliseconds where nothing else is said.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from llmrun.engines.llama_cpp.native import Native, load_native
from llmrun.errors import LlmrunError, ModelFileError, NotEnoughMemoryError

__all__ = ["EarlyWeights", "begin_early", "load_weights", "take_early"]

_SWITCH_SECONDS = 2e-5
_REPORT_SECONDS = 0.1
_begun: "list[EarlyWeights]" = []


class EarlyWeights:
    """Weights that are read for a processor, from a path that comes through a pipe, or does not come.

    Attributes:
        native: The library.
    """

    def __init__(self, native: Native, descriptor: int) -> None:
        self.native = native
        self._descriptor = descriptor
        self._fraction = 0.0
        self._found: tuple[str, Any] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._descriptor, "rb") as pipe:
            path = os.fsdecode(pipe.read())
        # How many layers a GPU is to have, only a plan can say.
        if not path or self.native.api.llama_supports_gpu_offload():
            return
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            with contextlib.suppress(LlmrunError):
                self._found = path, load_weights(self.native, path, self._note)
        finally:
            sys.setswitchinterval(usual)

    def _note(self, fraction: float) -> None:
        self._fraction = fraction

    def wait(self, progress: Callable[[float], None]) -> tuple[str, Any] | None:
        """Return the path and the model, or None if it could not be loaded; `progress` gets the share that is read."""
        while self._thread.is_alive():
            self._thread.join(_REPORT_SECONDS)
            progress(self._fraction)
        return self._found


def begin_early(descriptor: int) -> None:
    """Load the library, and read the weights as soon as their path comes; what fails is found again later, and said."""
    with contextlib.suppress(LlmrunError):
        _begun.append(EarlyWeights(load_native(), descriptor))


def take_early() -> EarlyWeights | None:
    """Return what `begin_early` began, once."""
    return _begun.pop() if _begun else None


def load_weights(
    native: Native,
    path: str,
    progress: Callable[[float], None],
    *,
    gpu_layers: int = 0,
    vocabulary_only: bool = False,
) -> Any:
    """Load a GGUF file; `progress` gets the share that has been read.

    Raises:
        ModelFileError: The library refused it, or it is no decoder-only language model.
        NotEnoughMemoryError: The library could not allocate what it needs.
    """
    api = native.api

    def report(fraction: float, _data: object) -> bool:
        progress(fraction)
        return True

    params = api.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.vocab_only = vocabulary_only
    params.progress_callback = callback = api.llama_progress_callback(report)
    native.errors.clear()
    model = api.llama_model_load_from_file(os.fsencode(path), params)
    del callback
    if not model:
        raise _load_error(path, native.cause())
    if not api.llama_model_has_decoder(model) or api.llama_model_has_encoder(model):
        api.llama_model_free(model)
        raise ModelFileError(
            f"{path} is not a model that continues text: llmrun runs decoder-only language models",
            fix="a text-generation model",
        )
    return model


def _load_error(path: str, cause: str) -> LlmrunError:
    """Turn llama.cpp's log lines about a failed load into the error they stand for."""
    low = cause.lower()
    if "alloc" in low or "out of memory" in low:
        return NotEnoughMemoryError(f"llama.cpp could not load {path}: {cause}")
    return ModelFileError(f"llama.cpp refused {path}: {cause or 'it gives no reason'}")
