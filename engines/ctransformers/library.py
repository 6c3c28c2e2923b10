"""The native library of ctransformers, without the traps of its Python class.

`LLM.tokenize` makes room for one token a character, and a character of several bytes can take one for each byte: the
library then writes beyond the buffer. A prompt longer than the context is only warned of. And to choose among the
builds in its wheel it has a package describe the processor, which takes a second. Here the buffer has room for every
byte, the session counts, and the processor's flags are read from where the system keeps them.
"""

import ctypes
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrun.engines.ctransformers.room import Growth
from llmrun.errors import ModelFileError, NoUsableEngineError
from llmrun.hardware.cpu import probe_cpu

__all__ = ["Model", "choose_build", "load_package"]

_ALL_LAYERS = 1000


def choose_build(folder: Path, flags: frozenset[str], architecture: str, *, gpu: bool) -> str | None:
    """Return which of the builds in the wheel to load, by the name of its folder; None: let the package choose.

    Args:
        folder: Of the package.
        flags: Instruction sets of the processor.
        architecture: Of the processor.
        gpu: Whether layers are to be on a GPU.

    Source: find_library in ctransformers/lib.py 0.2.27, which asks py-cpuinfo for the flags.
    """
    if gpu or architecture != "x86_64" or not flags:
        return None
    if (folder / "lib" / "local").is_dir():  # compiled here, from the source archive
        return "local"
    if "avx2" in flags:
        return "avx2"
    return "avx" if {"avx", "f16c"} <= flags else "basic"


def load_package() -> Any:
    """Return the module with the class `LLM`; without the rest of the package, which imports more than is needed.

    Raises:
        NoUsableEngineError: It is not installed, or cannot be loaded here.
    """
    try:
        return importlib.import_module("ctransformers.llm")
    except (ImportError, OSError) as error:
        raise NoUsableEngineError(
            f"ctransformers cannot be loaded: {str(error).splitlines()[0][:200]}", fix="llmrun install ctransformers"
        ) from error


class Model:
    """A loaded file, and keys and values of one sequence.

    Args:
        package: From `load_package`.
        path: The file, which has been checked: the library crashes on many that are damaged.
        kind: The model type, as ctransformers calls it.
        context_length: Tokens to make room for; of use to llama only, the others have it from their file.
        threads: To compute with.
        batch_tokens: Most tokens of a prompt that are processed at once.
        gpu_layers: Layers to put on a GPU; -1 for all.

    Attributes:
        processed: The tokens whose keys and values are there.
        threads: To compute the next tokens with.

    Raises:
        ModelFileError: The library refused the file.
    """

    def __init__(
        self,
        package: Any,
        path: str,
        kind: str,
        *,
        context_length: int,
        threads: int,
        batch_tokens: int,
        gpu_layers: int = 0,
    ) -> None:
        layers = _ALL_LAYERS if gpu_layers < 0 else gpu_layers
        config = package.Config(
            context_length=context_length, threads=threads, batch_size=batch_tokens, gpu_layers=layers
        )
        cpu, _ = probe_cpu()
        build = choose_build(Path(package.__file__).parent, cpu.isa_flags, cpu.architecture, gpu=layers > 0)
        try:
            self._model = package.LLM(path, kind, config=config, lib=build)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"ctransformers refused {path} as a model of type {kind}") from error
        except OSError as error:
            raise NoUsableEngineError(
                f"the library of ctransformers cannot be loaded: {str(error).splitlines()[0][:200]}",
                fix="leave out --gpu-layers, or python -m pip install 'ctransformers[cuda]'" if layers else None,
            ) from error
        self.threads, self._batch_tokens = threads, batch_tokens
        self.processed: list[int] = []

    @property
    def context_length(self) -> int:
        """Tokens that the library has made room for; 0 when it does not say."""
        return max(0, int(self._model.context_length))

    @property
    def bos(self) -> int:
        """The token that a text begins with."""
        return int(self._model.bos_token_id)

    @property
    def eos(self) -> int:
        """The token that ends a text."""
        return int(self._model.eos_token_id)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self._model.vocab_size)

    def tokenize(self, text: bytes) -> list[int]:
        """Return the tokens of a text without a NUL, BOS not among them."""
        room = len(text) + 8
        tokens = (ctypes.c_int * room)()
        count = self._model.ctransformers_llm_tokenize(text, False, tokens)
        return list(tokens[:count])

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for."""
        return bytes(self._model.ctransformers_llm_detokenize(token))

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return bool(self._model.is_eos_token(token))

    def cut_back(self, length: int) -> None:
        """Forget what came after the first `length` tokens: the next ones are written over them."""
        del self.processed[length:]

    def process(self, tokens: Sequence[int]) -> None:
        """Take the next tokens.

        Raises:
            ModelFileError: The library gave up, and does not say why.
        """
        array = (ctypes.c_int * len(tokens))(*tokens)
        done = self._model.ctransformers_llm_batch_eval(
            array, len(tokens), len(self.processed), self._batch_tokens, self.threads
        )
        if not done:
            raise ModelFileError("ctransformers could not process the prompt, and gives no reason")
        self.processed += tokens

    def make_room(self, growth: Growth) -> None:
        """Have the library make its pool larger; this must be the first that it computes.

        What it writes into the cache meanwhile is never read: keys and values are written before they are.
        """
        for position, count in ((growth.position, 1), (0, growth.tokens)):
            array = (ctypes.c_int * count)()
            self._model.ctransformers_llm_batch_eval(array, count, position, self._batch_tokens, self.threads)

    def logits(self, numpy: Any) -> Any:
        """Return a copy of the logits after the last token, shape (vocabulary,)."""
        size = int(self._model.ctransformers_llm_logits_size())
        address = ctypes.cast(self._model.ctransformers_llm_logits_data(), ctypes.c_void_p).value
        row = (ctypes.c_float * size).from_address(address or 0)
        return numpy.frombuffer(row, dtype=numpy.float32)[: self.size].copy()
