"""How the next token is chosen: a chain of llama.cpp's own samplers, in C.

Every path (one sequence, several at once, tokens guessed ahead) takes its chain from here, so that the options mean
the same in all of them.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

from llmrun.engines.llama_cpp.burst import Burst, can_burst
from llmrun.engines.llama_cpp.candidates import find_candidates
from llmrun.engines.llama_cpp.grammar import grammar_of, make_grammar_sampler
from llmrun.engines.llama_cpp.vocabulary import Vocabulary
from llmrun.engines.types import SamplingOptions

__all__ = ["PENALTY_WINDOW", "Sampler"]

PENALTY_WINDOW = 64


class Sampler:
    """The chain of one answer; it remembers the tokens it chose, and those of the prompt that penalties look back on.

    Args:
        api: The library's functions.
        vocabulary: Number of logits, and what the tokens are.
        prompt: The tokens before the answer.
        options: What the user asked for.
    """

    def __init__(self, api: Any, vocabulary: Vocabulary, prompt: Sequence[int], options: SamplingOptions) -> None:
        self._api = api
        self._vocabulary = vocabulary
        self._chain = None
        self._is_greedy = options.temperature == 0
        self._candidates = find_candidates(api, vocabulary.size, options)
        grammar = grammar_of(options)
        first = [] if grammar is None else [make_grammar_sampler(api, vocabulary.pointer, grammar)]
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = api.llama_sampler_chain_init(params)
        for part in (*first, *_make_samplers(api, vocabulary.size, prompt, options)):
            api.llama_sampler_chain_add(self._chain, part)

    def sample(self, context: Any, output: int) -> int:
        """Choose a token from the logits of one output of the last batch (-1: its last)."""
        if self._candidates is None:
            return int(self._api.llama_sampler_sample(self._chain, context, output))
        if self._is_greedy:
            return self._candidates.best(context, output)
        array = self._candidates.array(context, output)
        self._api.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def make_burst(self) -> Burst | None:
        """Return what chooses many tokens in one call, as `sample` does; None if that needs more than the build has."""
        if self._candidates is None or not can_burst(self._api):
            return None
        chain = None if self._is_greedy else self._chain
        return Burst(self._api._lib, self._vocabulary.pointer, chain, self._candidates.count)

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = None


def _make_samplers(api: Any, vocabulary_size: int, prompt: Sequence[int], options: SamplingOptions) -> list[Any]:
    """Return the samplers in llama.cpp's own order: penalties, top-k, top-p, min-p, temperature, choice."""
    chain = []
    if options.repeat_penalty != 1:
        penalties = api.llama_sampler_init_penalties(vocabulary_size, PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0)
        for token in prompt[-PENALTY_WINDOW:]:
            api.llama_sampler_accept(penalties, token)
        chain.append(penalties)
    if options.temperature == 0:
        return [*chain, api.llama_sampler_init_greedy()]
    if options.top_k > 0:
        chain.append(api.llama_sampler_init_top_k(options.top_k))
    if options.top_p < 1:
        chain.append(api.llama_sampler_init_top_p(options.top_p, 1))
    if options.min_p > 0:
        chain.append(api.llama_sampler_init_min_p(options.min_p, 1))
    return [*chain, api.llama_sampler_init_temp(options.temperature), api.llama_sampler_init_dist(options.seed)]
