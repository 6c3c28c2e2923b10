"""The native library of ctransformers, without the two traps of its Python class.

`LLM.tokenize` makes room for one token a character, and a character of several bytes can take one for each byte: the
library then writes beyond the buffer. And a prompt longer than the context is only warned of. Here the buffer has room
for every byte, and the session counts.
"""

import ctypes
import importlib
from collections.abc import Sequence
from typing import Any

from llmrun.errors import ModelFileError, NoUsableEngineError

__all__ = ["Model", "load_package"]

_ALL_LAYERS = 1000


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
        try:
            self._model = package.LLM(path, kind, config=config)
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"ctransformers refused {path} as a model of type {kind}") from error
        self._threads, self._batch_tokens = threads, batch_tokens
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
            array, len(tokens), len(self.processed), self._batch_tokens, self._threads
        )
        if not done:
            raise ModelFileError("ctransformers could not process the prompt, and gives no reason")
        self.processed += tokens

    def logits(self, numpy: Any) -> Any:
        """Return a copy of the logits after the last token, shape (vocabulary,)."""
        size = int(self._model.ctransformers_llm_logits_size())
        address = ctypes.cast(self._model.ctransformers_llm_logits_data(), ctypes.c_void_p).value
        row = (ctypes.c_float * size).from_address(address or 0)
        return numpy.array(row, dtype=numpy.float32)[: self.size]
