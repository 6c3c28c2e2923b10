"""The part of llama-cpp-python that llmrun uses: its ctypes declarations, without the package around them.

`import llama_cpp` also imports numpy, jinja2 and diskcache for the high-level `Llama` class, which costs more time than
loading a small model. The low-level module needs none of them, so the package object is made here with nothing but its
path. Log lines of the library are kept, because the cause of a failure is told nowhere else.
"""

import ctypes
import importlib.util
import re
import sys
import types
from typing import Any

from llmrun.errors import NoUsableEngineError

__all__ = ["Native", "load_native"]

_INSTALL = "llmrun install llama-cpp"
_CALL_STACK = re.compile(r"^(?:\w+: |error loading model(?: \w+)?: )+")  # "llama_model_load: error loading model: "
_KEPT_ERRORS = 40
_ERROR, _CONTINUE = 4, 5  # enum ggml_log_level in ggml.h
_callbacks: list[Any] = []


class Native:
    """The loaded library.

    Attributes:
        api: The module `llama_cpp.llama_cpp`.
        errors: The first error lines since the list was cleared.
        stop_when_set: A C function for llama_set_abort_callback: true once the byte it is given is not NUL.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.errors: list[str] = []
        self._level = 0
        self._callback = api.llama_log_callback(self._keep)
        api.llama_log_set(self._callback, None)
        _callbacks.append(self._callback)  # the library calls it for as long as it is loaded
        strlen = ctypes.CDLL(None).strlen
        self.stop_when_set = api.ggml_abort_callback(ctypes.cast(strlen, ctypes.c_void_p).value)
        api.llama_backend_init()

    def _keep(self, level: int, text: bytes, _data: object) -> None:
        if level != _CONTINUE:
            self._level = level
        if self._level == _ERROR and len(self.errors) < _KEPT_ERRORS:
            self.errors.append(text.decode("utf-8", "replace").rstrip())

    def cause(self) -> str:
        """Return the first error line since the list was cleared, without its call stack, or the empty string.

        The first one is the cause; those after it come from the functions that passed the failure on.
        """
        first = next((line for line in self.errors if line.strip()), "")
        return _CALL_STACK.sub("", first).strip()


def load_native() -> Native:
    """Load the shared library.

    Raises:
        NoUsableEngineError: llama-cpp-python is not installed, or its library cannot be loaded here.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise NoUsableEngineError("llama-cpp is not installed", fix=_INSTALL)
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec  # so that whoever looks for the package still finds it
        sys.modules["llama_cpp"] = package
    try:
        from llama_cpp import llama_cpp as api
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise NoUsableEngineError(f"llama-cpp is installed but cannot be loaded: {error}", fix=_INSTALL) from error
    return Native(api)
