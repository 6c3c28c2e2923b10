"""A smaller model that guesses what a larger one will say: its context is kept in step with the larger one's text."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.context import Context, can_go_back
from llmrun.engines.llama_cpp.native import Native
from llmrun.engines.llama_cpp.sampling import Sampler
from llmrun.engines.llama_cpp.vocabulary import Vocabulary
from llmrun.engines.types import LoadPlan, SamplingOptions
from llmrun.errors import UsageError

__all__ = ["DraftModel", "check_same_vocabulary"]

_GREEDY = SamplingOptions(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=None, seed=0)


class DraftModel:
    """A loaded smaller model, with a context of its own.

    Args:
        native: The library.
        model: The smaller model, which belongs to this object from now on.
        plan: The plan of the larger one.

    Attributes:
        can_go_back: Whether tokens can be taken out of its memory again.
    """

    def __init__(self, native: Native, model: Any, plan: LoadPlan) -> None:
        self._api = native.api
        self._model = model
        self._batch_tokens = plan.batch_tokens
        own = replace(plan, model_path=plan.draft_path or "", draft_path=None, context_is_fixed=False)
        self._context = Context(native, model, own)
        self._sampler = Sampler(self._api, Vocabulary(native, model), (), _GREEDY)
        self.can_go_back = can_go_back(self._api, model)

    def begin(self, tokens: int, cancel: Cancellation) -> None:
        """Get ready for a new text of about so many tokens."""
        self._context.begin(tokens, cancel)

    def guess(self, text: Sequence[int], count: int) -> list[int]:
        """Return `count` tokens that follow `text`, none if it was cancelled."""
        context = self._context
        start = context.cut_back(text)
        context.make_room(len(text) + count)
        for begin in range(start, len(text), self._batch_tokens):
            if not context.process(text[begin : begin + self._batch_tokens]):
                return []
        guesses: list[int] = []
        while True:
            guesses.append(self._sampler.sample(context.pointer, -1))
            if len(guesses) == count:
                return guesses
            if not context.step(guesses[-1]):
                return []

    def pause(self) -> None:
        """Give up the context; the next `begin` makes another."""
        self._context.close()

    def close(self) -> None:
        """Free the smaller model."""
        self._context.close()
        self._sampler.close()
        if self._model is not None:
            self._api.llama_model_free(self._model)
            self._model = None


def check_same_vocabulary(api: Any, model: Any, draft: Any, plan: LoadPlan) -> None:
    """Refuse a smaller model whose tokens are not those of the larger one.

    Raises:
        UsageError: Names both files and the first difference.
    """
    names = ("number of tokens", "begin token", "end token", "end of a turn", "texts of the tokens")
    for name, wanted, found in zip(names, _fingerprint(api, model), _fingerprint(api, draft), strict=True):
        if wanted != found:
            raise UsageError(
                f"{Path(plan.draft_path or '').name} cannot guess for {Path(plan.model_path).name}: "
                f"their vocabularies differ ({name}: {wanted} and {found})",
                fix="a smaller model of the same family with --draft",
            )


def _fingerprint(api: Any, model: Any) -> tuple[str, ...]:
    vocabulary = api.llama_model_get_vocab(model)
    size = api.llama_vocab_n_tokens(vocabulary)
    texts = hashlib.sha256()
    for token in range(size):
        texts.update((api.llama_vocab_get_text(vocabulary, token) or b"") + b"\0")
    special = (get(vocabulary) for get in (api.llama_vocab_bos, api.llama_vocab_eos, api.llama_vocab_eot))
    return (str(size), *map(str, special), texts.hexdigest()[:8])
