"""Answers that a JSON schema or a GBNF grammar allows: llama.cpp's own grammar sampler.

A schema becomes a grammar by the converter that comes with llama-cpp-python. With a grammar, tokens are chosen one by
one from those that it allows; guesses ahead are checked by the same sampler, so that they stay exact.
"""

import importlib
import json
from typing import Any

from llmrun.engines.types import SamplingOptions
from llmrun.errors import UsageError

__all__ = ["grammar_of", "make_grammar_sampler"]

_LONGEST_CHARACTERS = 1 << 20


def grammar_of(options: SamplingOptions) -> str | None:
    """Return the GBNF grammar that an answer has to follow, or None.

    Raises:
        UsageError: The schema is none, or says what cannot be turned into a grammar.
    """
    if options.json_schema is not None and options.grammar is not None:
        raise UsageError("an answer can follow a JSON schema or a grammar, not both")
    if options.json_schema is None:
        return options.grammar
    converter: Any = importlib.import_module("llama_cpp.llama_grammar")
    try:
        schema = json.loads(options.json_schema)
        if not isinstance(schema, dict | bool):
            raise ValueError("it must be a JSON object")
        text = str(converter.json_schema_to_gbnf(options.json_schema))
    except Exception as error:  # whatever the converter makes of a text by the user
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"the JSON schema cannot be used: {lines[0][:300]}") from error
    return text


def make_grammar_sampler(api: Any, vocabulary: Any, grammar: str) -> Any:
    """Return the sampler that allows only what a grammar does.

    Raises:
        UsageError: It is no grammar in GBNF, or has no rule `root`.
    """
    if len(grammar) > _LONGEST_CHARACTERS:
        raise UsageError(f"the grammar has {len(grammar):,} characters, more than the {_LONGEST_CHARACTERS:,} it may")
    sampler = api.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
    if not sampler:
        raise UsageError("the grammar cannot be used: llama.cpp does not understand it", fix="GBNF with a rule `root`")
    return sampler
