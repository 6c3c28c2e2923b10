"""The part of llama-cpp-python that llmrun uses: its ctypes declarations, without the package around them.

`import llama_cpp` also imports numpy, jinja2 and diskcache for the high-level `Llama` class, which costs more time than
loading a small model. The low-level module needs none of them, so the package object is made here with nothing but its
path. Log lines of the library are kept, because the cause of a failure is told nowhere else.
"""

import ctypes
import importlib.util
import sys
import types
from collections import deque
from typing import Any

from llmrun.errors import NoUsableEngineError

__all__ = ["Native", "load_native"]

_INSTALL = "llmrun install llama-cpp"
_WARN, _ERROR, _CONTINUE = 3, 4, 5  # enum ggml_log_level in ggml.h


class Native:
    """The loaded library.

    Attributes:
        api: The module `llama_cpp.llama_cpp`.
        log: The last warnings and errors of the library, oldest first.
        stop_when_set: A C function for llama_set_abort_callback: true once the byte it is given is not NUL.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.log: deque[str] = deque(maxlen=40)
        self._level = 0
        self._callback = api.llama_log_callback(self._keep)
        api.llama_log_set(self._callback, None)
        strlen = ctypes.CDLL(None).strlen
        self.stop_when_set = api.ggml_abort_callback(ctypes.cast(strlen, ctypes.c_void_p).value)
        api.llama_backend_init()

    def _keep(self, level: int, text: bytes, _data: object) -> None:
        if level != _CONTINUE:
            self._level = level
        if self._level in (_WARN, _ERROR):
            self.log.append(text.decode("utf-8", "replace").rstrip())

    def cause(self) -> str:
        """Return the library's own last error lines as one sentence, or the empty string."""
        errors = [line for line in self.log if line and not line.isspace()]
        return "; ".join(errors[-3:])


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
        sys.modules["llama_cpp"] = package
    try:
        from llama_cpp import llama_cpp as api
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise NoUsableEngineError(f"llama-cpp is installed but cannot be loaded: {error}", fix=_INSTALL) from error
    return Native(api)
