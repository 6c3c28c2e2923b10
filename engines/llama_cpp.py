"""GGUF models through llama.cpp, on the low-level API of llama-cpp-python.

Why not the high-level `Llama` class: it copies logits into Python for every token, guesses a chat template when the
file has none, and cannot be interrupted inside a batch. Here sampling stays in C, prompts arrive rendered, and the
abort callback ends a running batch within milliseconds.

Prefill is bound by arithmetic and decode by memory bandwidth, so the prompt goes through in micro-batches and each
answer token alone. What the library defaults to and this adapter does not: n_ctx 512, half the cores, a full-size
cache for sliding-window layers, log lines on the terminal.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp_context import Context, check_logits
from llmrun.engines.llama_cpp_native import Native, load_native
from llmrun.engines.llama_cpp_sampling import Sampler
from llmrun.engines.llama_cpp_vocabulary import Vocabulary
from llmrun.engines.textstream import TextStream
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment, Stats
from llmrun.errors import LlmrunError, ModelFileError, NotEnoughMemoryError

__all__ = ["LlamaCppEngine", "LlamaCppSession"]

_FIRST_ANSWER_TOKENS = 1024  # room in the first context for an answer without --max-tokens


class LlamaCppEngine:
    """Loads GGUF files. Constructing it loads the shared library, so that this can be done before a plan exists."""

    name = EngineName.LLAMA_CPP

    def __init__(self) -> None:
        self._native = load_native()

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> "LlamaCppSession":
        """Load a GGUF file; `progress` gets the share of the weights that has been read."""
        native, api = self._native, self._native.api

        def report(fraction: float, _data: object) -> bool:
            progress(fraction)
            return True

        params = api.llama_model_default_params()
        params.n_gpu_layers = plan.gpu_layers
        params.vocab_only = plan.vocabulary_only
        params.progress_callback = callback = api.llama_progress_callback(report)
        native.errors.clear()
        model = api.llama_model_load_from_file(plan.model_path.encode(), params)
        del callback
        if not model:
            raise _load_error(plan, native.cause())
        if not api.llama_model_has_decoder(model) or api.llama_model_has_encoder(model):
            api.llama_model_free(model)
            raise ModelFileError(
                f"{plan.model_path} is not a model that continues text: llmrun runs decoder-only language models",
                fix="a text-generation model",
            )
        return LlamaCppSession(native, model, plan)


class LlamaCppSession:
    """One loaded model."""

    def __init__(self, native: Native, model: Any, plan: LoadPlan) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self._vocabulary = Vocabulary(native, model)
        self._context = Context(native, model, plan)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        return self._vocabulary.tokenize(segments)

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        answer = _FIRST_ANSWER_TOKENS if options.max_tokens is None else options.max_tokens
        self._context.begin(len(tokens) + answer, cancel)
        sampler = Sampler(self._api, self._vocabulary.size, tokens, options)
        try:
            yield from self._answer(tokens, options, sampler, cancel)
        finally:
            sampler.close()

    def _answer(
        self, tokens: Sequence[int], options: SamplingOptions, sampler: Sampler, cancel: Cancellation
    ) -> Iterator[Event]:
        started = time.perf_counter()
        finish = None if self._context.prefill(tokens) else FinishReason.CANCELLED
        first = last = time.perf_counter()
        room = self._plan.context_length - len(tokens)
        limit = room if options.max_tokens is None else min(room, options.max_tokens)
        stream = TextStream(options.stop)
        count = 0
        if finish is None:
            check_logits(self._api, self._context.pointer, self._vocabulary.size, self._plan.model_path)
            for text in self._decode(sampler, limit, cancel):
                count += 1
                last = time.perf_counter()
                first = last if count == 1 else first
                if piece := stream.feed(text):
                    yield Delta(text=piece)
                if stream.stopped:
                    break
            finish = self._finish_reason(count, limit, room, stream, cancel)
        if tail := stream.finish():
            yield Delta(text=tail)
        yield Done(
            finish_reason=finish,
            stats=Stats(
                prompt_tokens=len(tokens),
                completion_tokens=count,
                prefill_seconds=first - started,
                decode_seconds=last - first,
            ),
        )

    @staticmethod
    def _finish_reason(count: int, limit: int, room: int, stream: TextStream, cancel: Cancellation) -> FinishReason:
        if stream.stopped:
            return FinishReason.STOP
        if cancel.requested:
            return FinishReason.CANCELLED
        if count < limit:
            return FinishReason.STOP
        return FinishReason.CONTEXT if limit == room else FinishReason.LENGTH

    def _decode(self, sampler: Sampler, limit: int, cancel: Cancellation) -> Iterator[bytes]:
        """Yield the bytes of one token after another until the model ends its turn, the limit, or a cancellation."""
        context, vocabulary = self._context, self._vocabulary
        for index in range(limit):
            token = sampler.sample(context.pointer, -1)
            if vocabulary.is_end(token):
                return
            yield vocabulary.token_bytes(token)
            if cancel.requested or index + 1 == limit or not context.step(token):
                return

    def close(self) -> None:
        """Free the context and the weights."""
        self._context.close()
        if self._model is not None:
            self._api.llama_model_free(self._model)
            self._model = None


def _load_error(plan: LoadPlan, cause: str) -> LlmrunError:
    """Turn llama.cpp's log lines about a failed load into the error they stand for."""
    low = cause.lower()
    if "alloc" in low or "out of memory" in low:
        return NotEnoughMemoryError(f"llama.cpp could not load {plan.model_path}: {cause}")
    return ModelFileError(f"llama.cpp refused {plan.model_path}: {cause or 'it gives no reason'}")
