"""Starting a worker's process. Light, so that this can be the first thing that a command does."""

import os
import subprocess
import sys
import time

from llmrun.errors import EngineCrashedError

__all__ = ["StartedWorker", "worker_environment"]

_READS_EARLY = "llama-cpp"
_PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "LANG",
    "TZ",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LLAMA_CPP_LIB_PATH",
)
_PASSED_ON_PREFIXES = (
    "LC_",
    "PYTHON",
    "OMP_",
    "KMP_",
    "GOMP_",
    "GGML_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "XDG_",
    "LLMRUN_",
)


class StartedWorker:
    """A worker's process, its three pipes, and a fourth for the path of weights if its engine can read some early.

    Attributes:
        began: When it was started, in seconds of the monotonic clock.
        process: It.
        weights: The descriptor of the fourth pipe, while nothing was written to it.
    """

    def __init__(self, engine: str) -> None:
        self.began = time.monotonic()
        theirs: int | None = None
        self.weights: int | None = None
        if engine == _READS_EARLY:
            theirs, self.weights = os.pipe()
        passed = () if theirs is None else (theirs,)
        # Modules are no garbage: to look for some while they are imported takes long. `load` enables it.
        words = ", ".join([repr(str(engine)), *map(str, passed)])
        program = f"import gc; gc.disable(); from llmrun.engines.worker_start import main; main({words})"
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                env=worker_environment(),
                start_new_session=True,
                pass_fds=passed,
            )
        except OSError as error:
            self.close_weights()
            raise EngineCrashedError(f"no process could be started for {engine}: {error.strerror}") from error
        finally:
            if theirs is not None:
                os.close(theirs)

    def name_weights(self, path: str) -> None:
        """Say which weights will most likely be wanted; once."""
        if self.weights is not None:
            try:
                os.write(self.weights, os.fsencode(path))  # a path is shorter than what a pipe holds
            except BrokenPipeError:
                pass  # the process is gone: whoever reads its messages will say so
            finally:
                self.close_weights()

    def close_weights(self) -> None:
        """Let the process know that no path will come, if none did. May be called again."""
        if self.weights is not None:
            os.close(self.weights)
            self.weights = None


def worker_environment() -> dict[str, str]:
    """Return the worker's environment: what an engine may need, and no tokens or keys."""
    environment = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "GGML_NO_BACKTRACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "LLMRUN_PARENT": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    return environment
