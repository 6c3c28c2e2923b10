"""Answers that a JSON schema or a grammar allows, through xgrammar, on the bytes that tokens stand for.

A `Constraint` follows one answer: it takes the tokens that were chosen and says which may come next. It is the same for
every engine whose logits are tensors. Compiling takes a part of a second, so that compiled grammars are kept.
"""

import importlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.errors import UsageError

__all__ = ["Constraint", "compile_constraint"]

_MOST_WHITESPACE = 20  # between the parts of a JSON text: without a limit small models go on for ever


class Constraint:
    """What one answer may go on with.

    Args:
        compiled: From `compile_constraint`.
    """

    def __init__(self, compiled: Any) -> None:
        self._xgrammar: Any = importlib.import_module("xgrammar")
        self._matcher = self._xgrammar.GrammarMatcher(compiled)
        self._size = int(compiled.tokenizer_info.vocab_size)
        self._mask: Any = self._xgrammar.allocate_token_bitmask(1, self._size)

    def accept(self, tokens: Iterable[int]) -> None:
        """Take tokens that were chosen."""
        for token in tokens:
            if not self._matcher.is_terminated():
                self._matcher.accept_token(token)

    def apply(self, logits: Any) -> None:
        """Set the logits of tokens that may not come next to -inf.

        Args:
            logits: One row, in float32; longer than the vocabulary where the model pads it.
        """
        if self._matcher.is_terminated():
            return
        self._matcher.fill_next_token_bitmask(self._mask)
        row = logits.view(1, -1)
        self._xgrammar.apply_token_bitmask_inplace(row, self._mask.to(row.device))


def compile_constraint(
    source: str | HuggingFaceTokenizer, vocabulary_size: int, json_schema: str | None, grammar: str | None
) -> Any:
    """Return a compiled schema or grammar for a tokenizer, or the one of a folder, and a model of so many logits.

    Raises:
        UsageError: It is none, or needs something that xgrammar does not have.
    """
    if json_schema is not None and grammar is not None:
        raise UsageError("an answer can follow a JSON schema or a grammar, not both")
    return _compile(source, vocabulary_size, json_schema, grammar)


@lru_cache(maxsize=32)
def _compile(
    source: str | HuggingFaceTokenizer, vocabulary_size: int, json_schema: str | None, grammar: str | None
) -> Any:
    compiler = _compiler(source, vocabulary_size)
    try:
        if json_schema is not None:
            json.loads(json_schema)
            return compiler.compile_json_schema(json_schema, any_whitespace=True, max_whitespace_cnt=_MOST_WHITESPACE)
        return compiler.compile_grammar(grammar or "")
    except Exception as error:  # whatever the library makes of a text by the user
        what = "JSON schema" if json_schema is not None else "grammar"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UsageError(f"the {what} cannot be used: {lines[-1][:300]}") from error


@lru_cache(maxsize=2)
def _compiler(source: str | HuggingFaceTokenizer, vocabulary_size: int) -> Any:
    xgrammar: Any = importlib.import_module("xgrammar")
    tokenizer = HuggingFaceTokenizer(Path(source)) if isinstance(source, str) else source
    known = min(tokenizer.size, vocabulary_size)
    pieces = [tokenizer.token_bytes(token) for token in range(known)]
    info = xgrammar.TokenizerInfo(
        pieces,
        xgrammar.VocabType.RAW,
        vocab_size=vocabulary_size,
        stop_token_ids=sorted(each for each in tokenizer.ends if each < vocabulary_size),
    )
    return xgrammar.GrammarCompiler(info, max_threads=1)
