"""GGUF models through llama.cpp, on the low-level API of llama-cpp-python.

Why not the high-level `Llama` class: it copies logits into Python for every token, guesses a chat template when the
file has none, and cannot be interrupted inside a batch. Here sampling stays in C, prompts arrive rendered, and the
abort callback ends a running batch within milliseconds.

Prefill is bound by arithmetic and decode by memory bandwidth, so the prompt goes through in micro-batches and each
answer token alone. What the library defaults to and this adapter does not: n_ctx 512, half the cores, a full-size
cache for sliding-window layers, log lines on the terminal.
"""

import ctypes
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp_native import Native, load_native
from llmrun.engines.textstream import TextStream
from llmrun.engines.types import Delta, Done, EngineName, Event, FinishReason, LoadPlan, SamplingOptions, Segment, Stats
from llmrun.errors import EngineCrashedError, LlmrunError, ModelFileError, NotEnoughMemoryError

__all__ = ["LlamaCppEngine", "LlamaCppSession"]

_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type
_PENALTY_WINDOW = 64
_CONTEXT_STEP = 256
_FIRST_ANSWER_TOKENS = 1024  # room in the first context for an answer without --max-tokens
_ABORTED = 2  # llama_decode: the abort callback said stop


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
    """One loaded model.

    Its context (KV cache and compute buffers) is made at the first request, as large as that request needs, and grows
    up to the plan's length while an answer is written: a cache for every token a model could take costs gigabytes, and
    the time to clear them, that most answers never use.
    """

    def __init__(self, native: Native, model: Any, plan: LoadPlan) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self._vocabulary = self._api.llama_model_get_vocab(model)
        self._vocabulary_size = int(self._api.llama_vocab_n_tokens(self._vocabulary))
        self._context: Any = None
        self._cells = 0  # tokens that the present context holds
        self._cancel = Cancellation()
        self._piece = ctypes.create_string_buffer(256)
        self._processed: list[int] = []  # the tokens whose keys and values the KV cache holds

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        tokens: list[int] = []
        for segment in segments:
            tokens += self._tokenize(segment)
        if self._api.llama_vocab_get_add_bos(self._vocabulary):
            bos = self._api.llama_vocab_bos(self._vocabulary)
            if bos >= 0 and tokens[:1] != [bos]:
                tokens.insert(0, bos)
        return tokens

    def _tokenize(self, segment: Segment) -> list[int]:
        data = segment.text.encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (ctypes.c_int32 * room)()
        api = self._api
        count = api.llama_tokenize(self._vocabulary, data, len(data), buffer, room, False, segment.special)
        if count < 0:
            buffer = (ctypes.c_int32 * -count)()
            count = api.llama_tokenize(self._vocabulary, data, len(data), buffer, -count, False, segment.special)
        return list(buffer[:count])

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        answer = _FIRST_ANSWER_TOKENS if options.max_tokens is None else options.max_tokens
        self._cancel = cancel
        self._make_room(len(tokens) + answer)
        self._watch_cancellation()
        sampler = self._make_sampler(tokens, options)
        try:
            yield from self._answer(tokens, options, sampler, cancel)
        finally:
            self._api.llama_sampler_free(sampler)

    def _answer(
        self, tokens: Sequence[int], options: SamplingOptions, sampler: Any, cancel: Cancellation
    ) -> Iterator[Event]:
        started = time.perf_counter()
        finish = self._prefill(tokens, cancel)
        first = last = time.perf_counter()
        room = self._plan.context_length - len(tokens)
        limit = room if options.max_tokens is None else min(room, options.max_tokens)
        stream = TextStream(options.stop)
        count = 0
        if finish is None:
            self._check_logits()
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

    def _prefill(self, tokens: Sequence[int], cancel: Cancellation) -> FinishReason | None:
        """Process the prompt beyond what the KV cache already holds; return a reason if it was cancelled."""
        api, start = self._api, self._reusable(tokens)
        batch_tokens = self._plan.batch_tokens
        for begin in range(start, len(tokens), batch_tokens):
            chunk = tokens[begin : begin + batch_tokens]
            array_ = (ctypes.c_int32 * len(chunk))(*chunk)
            if cancel.requested or not self._run(api.llama_batch_get_one(array_, len(chunk))):
                self._forget()
                return FinishReason.CANCELLED
            self._processed += chunk
        return None

    def _reusable(self, tokens: Sequence[int]) -> int:
        """Cut the KV cache back to what it shares with `tokens`; return how many tokens that is.

        The last token is always processed again, because its logits start the answer.
        """
        common = 0
        for mine, wanted in zip(self._processed, tokens[:-1], strict=False):
            if mine != wanted:
                break
            common += 1
        memory = self._api.llama_get_memory(self._context)
        if self._processed[common:] and not self._api.llama_memory_seq_rm(memory, 0, common, -1):
            self._forget()
            return 0
        del self._processed[common:]
        return common

    def _forget(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        self._processed.clear()

    def _decode(self, sampler: Any, limit: int, cancel: Cancellation) -> Iterator[bytes]:
        """Yield the bytes of one token after another until the model ends its turn, the limit, or a cancellation."""
        api, vocabulary, context = self._api, self._vocabulary, self._context
        token_array = (ctypes.c_int32 * 1)()
        batch = api.llama_batch_get_one(token_array, 1)
        sample, is_end = api.llama_sampler_sample, api.llama_vocab_is_eog
        for index in range(limit):
            token = sample(sampler, context, -1)
            if is_end(vocabulary, token):
                return
            yield self._token_bytes(token)
            if cancel.requested or index + 1 == limit:
                return
            if len(self._processed) >= self._cells:
                self._make_room(2 * self._cells)
                context = self._context
            token_array[0] = token
            if not self._run(batch):
                return
            self._processed.append(token)

    def _run(self, batch: Any) -> bool:
        """Run one batch; False if it was aborted on request.

        Raises:
            NotEnoughMemoryError: The KV cache has no room left for the batch.
            EngineCrashedError: llama.cpp reported any other failure.
        """
        status = self._api.llama_decode(self._context, batch)
        if status == 0:
            return True
        if status == _ABORTED:
            return False
        if status == 1:
            raise NotEnoughMemoryError("llama.cpp found no room in its KV cache for the batch")
        raise EngineCrashedError(f"llama.cpp failed to process a batch (status {status}): {self._native.cause()}")

    def _token_bytes(self, token: int) -> bytes:
        size = self._api.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, False)
        if size < 0:
            self._piece = ctypes.create_string_buffer(-size)
            size = self._api.llama_token_to_piece(self._vocabulary, token, self._piece, -size, 0, False)
        return self._piece.raw[:size]

    def _check_logits(self) -> None:
        """Refuse weights that give no finite logits: sampling from them would print garbage and succeed."""
        logits = self._api.llama_get_logits_ith(self._context, -1)
        values = array("f", ctypes.string_at(logits, 4 * self._vocabulary_size))
        if not isfinite(sum(values)):
            raise ModelFileError(
                f"the weights of {self._plan.model_path} look damaged: the model's output is not finite",
                fix="download the model again",
            )

    def _make_room(self, tokens: int) -> None:
        """See that the context holds `tokens`, or the plan's length if that is less; what it held is kept."""
        if self._context is not None and self._cells >= min(tokens, self._plan.context_length):
            return
        rounded = -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        cells = self._plan.context_length if self._plan.context_is_fixed else min(rounded, self._plan.context_length)
        state = self._save_state()
        self._free_context()
        self._context = self._new_context(cells)
        self._cells = cells
        self._watch_cancellation()
        if state is not None:
            self._api.llama_state_seq_set_data(self._context, state, len(state), 0)

    def _save_state(self) -> Any:
        """Return keys and values of what was processed, or None if that is nothing."""
        if self._context is None or not self._processed:
            return None
        size = self._api.llama_state_seq_get_size(self._context, 0)
        state = (ctypes.c_uint8 * size)()
        self._api.llama_state_seq_get_data(self._context, state, size, 0)
        return state

    def _new_context(self, cells: int) -> Any:
        api, plan = self._api, self._plan
        params = api.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = plan.batch_tokens
        params.n_threads = params.n_threads_batch = plan.threads
        params.type_k = params.type_v = _KV_TYPES[plan.kv_type]
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.swa_full = False
        params.no_perf = True
        self._native.errors.clear()
        context = api.llama_init_from_model(self._model, params)
        if not context:
            raise NotEnoughMemoryError(
                f"llama.cpp could not make a context of {cells:,} tokens: {self._native.cause()}",
                fix="a smaller --context-length",
            )
        return context

    def _free_context(self) -> None:
        if self._context is not None:
            self._api.llama_free(self._context)
            self._context = None

    def _watch_cancellation(self) -> None:
        self._api.llama_set_abort_callback(self._context, self._native.stop_when_set, self._cancel.address)

    def _make_sampler(self, tokens: Sequence[int], options: SamplingOptions) -> Any:
        """Chain the samplers in llama.cpp's own order: penalties, top-k, top-p, min-p, temperature, choice."""
        api = self._api
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = api.llama_sampler_chain_init(params)
        if options.repeat_penalty != 1:
            penalties = api.llama_sampler_init_penalties(
                self._vocabulary_size, _PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0
            )
            for token in tokens[-_PENALTY_WINDOW:]:
                api.llama_sampler_accept(penalties, token)
            api.llama_sampler_chain_add(chain, penalties)
        if options.temperature == 0:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
            return chain
        if options.top_k > 0:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_k(options.top_k))
        if options.top_p < 1:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_min_p(options.min_p, 1))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(options.temperature))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_dist(options.seed))
        return chain

    def close(self) -> None:
        """Free the context and the weights."""
        self._free_context()
        if self._model is not None:
            self._api.llama_model_free(self._model)
            self._model = None


def _load_error(plan: LoadPlan, cause: str) -> LlmrunError:
    """Turn llama.cpp's log lines about a failed load into the error they stand for."""
    low = cause.lower()
    if "alloc" in low or "out of memory" in low:
        return NotEnoughMemoryError(f"llama.cpp could not load {plan.model_path}: {cause}")
    return ModelFileError(f"llama.cpp refused {plan.model_path}: {cause or 'it gives no reason'}")
