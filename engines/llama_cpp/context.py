"""The context of one sequence: its KV cache, what the cache holds, and the batches that fill it.

A context is made at the first request, as large as that request needs, and grows up to the plan's length while an
answer is written: a cache for every token a model could take costs gigabytes, and the time to clear them, that most
answers never use.
"""

import ctypes
import time
from array import array
from collections.abc import Sequence
from math import isfinite
from typing import Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.batch import Batch
from llmrun.engines.llama_cpp.burst import Burst
from llmrun.engines.llama_cpp.native import Native
from llmrun.engines.llama_cpp.threads import DecodeThreads
from llmrun.engines.speculation import MOST_GUESSES
from llmrun.engines.types import LoadPlan
from llmrun.errors import EngineCrashedError, ModelFileError, NotEnoughMemoryError

__all__ = ["Context", "can_go_back", "check_logits", "cut_sequence", "new_context", "read_logits", "run_batch"]

_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # enum ggml_type
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
_CONTEXT_STEP = 256
_SPLIT_TOKENS = 256  # cells are looked at in steps of 256. Source: flash_attn_ext in ggml-cpu/ops.cpp, get_n_kv
_ABORTED = 2  # llama_decode: the abort callback said stop


class Context:
    """Keys and values of one sequence, and the logits of its last token.

    Attributes:
        pointer: The library's context, replaced when it grows; None before the first request.
        processed: The tokens whose keys and values the cache holds.
    """

    def __init__(self, native: Native, model: Any, plan: LoadPlan) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self.pointer: Any = None
        self.processed: list[int] = []
        self._cells = 0  # tokens that the present context holds
        self._cancel = Cancellation()
        self._one = (ctypes.c_int32 * 1)()
        self._single = native.api.llama_batch_get_one(self._one, 1)  # points to `_one`, so it is made once
        self._batch: Batch | None = None
        self._threads = DecodeThreads(native.api, plan)
        self._is_answering = False
        self._is_repeatable = False

    def begin(self, tokens: int, cancel: Cancellation, *, repeatable: bool = False) -> None:
        """See that there is room for `tokens` and that `cancel` ends a running batch."""
        self._cancel = cancel
        self._is_repeatable = repeatable
        self.make_room(tokens)
        self._watch_cancellation()

    def prefill(self, tokens: Sequence[int]) -> bool:
        """Process what the cache does not hold yet of a prompt; False if it was cancelled."""
        start = self.cut_back(tokens)
        step = self._plan.batch_tokens
        for begin in range(start, len(tokens), step):
            if self._cancel.requested or not self.process(tokens[begin : begin + step]):
                self.forget()
                return False
        return True

    def logit_values(self, output: int) -> Any:
        """Return the logits, as numbers, of an output of the last batch (-1: its last)."""
        vocabulary = self._api.llama_model_get_vocab(self._model)
        return read_logits(self._api, self.pointer, output, self._api.llama_vocab_n_tokens(vocabulary))

    def cut_back(self, tokens: Sequence[int]) -> int:
        """Cut the cache back to what it shares with `tokens`; return how many tokens that is.

        The last token is always processed again, because its logits start the answer.
        """
        common = 0
        for mine, wanted in zip(self.processed, tokens[:-1], strict=False):
            if mine != wanted:
                break
            common += 1
        return common if self.roll_back(common) else 0

    def roll_back(self, count: int) -> bool:
        """Keep the first `count` tokens; False if the model's memory cannot do that, and nothing is left."""
        if count >= len(self.processed):
            return True
        if not cut_sequence(self._api, self._model, self.pointer, 0, count):
            self.forget()
            return False
        del self.processed[count:]
        return True

    def forget(self) -> None:
        """Empty the cache."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self.pointer), False)
        self.processed.clear()

    def process(self, tokens: Sequence[int]) -> bool:
        """Run at most a micro-batch of tokens, with the logits of the last one; False if it was cancelled."""
        buffer = (ctypes.c_int32 * len(tokens))(*tokens)
        if self._is_answering:
            self._threads.end(self.pointer)
            self._is_answering = False
        if not run_batch(self._native, self.pointer, self._api.llama_batch_get_one(buffer, len(tokens))):
            return False
        self.processed += tokens
        return True

    def step(self, token: int) -> bool:
        """Run one token of the answer, growing the context if it is full; False if it was cancelled."""
        self._prepare_token()
        self._one[0] = token
        began = time.perf_counter()
        if not run_batch(self._native, self.pointer, self._single):
            return False
        self._threads.observe(self.pointer, (time.perf_counter() - began,))
        self.processed.append(token)
        return True

    def run_burst(self, burst: Burst, text: Sequence[int], most: int, seconds: float) -> bool:
        """Run the last token of the text and those that `burst` chooses after it; False if it was cancelled.

        Args:
            burst: Has the tokens afterwards, also if it was cancelled.
            text: Prompt and answer.
            most: How many tokens to choose at most; fewer while fewer threads are tried, or if the context is full.
            seconds: When these are over, it ends.
        """
        self._prepare_token()
        most = min(most, self._cells - len(self.processed), self._threads.patience or most)
        status = burst.run(self.pointer, text, most, seconds)
        if burst.tokens:
            self.processed += [text[-1], *burst.tokens[:-1]]
            self._threads.observe(self.pointer, burst.seconds)
        return _went_well(self._native, status)

    def _prepare_token(self) -> None:
        """See that there are a cell and threads for a token of the answer."""
        if len(self.processed) >= self._cells:
            self.make_room(2 * self._cells)
        if not self._is_answering:
            self._threads.begin(self.pointer, repeatable=self._is_repeatable)
            self._is_answering = True

    def check(self, tokens: Sequence[int]) -> bool:
        """Run the last token and guesses for what follows, with the logits of all of them; False if cancelled."""
        needed = len(self.processed) + len(tokens)
        if needed > self._cells:
            self.make_room(max(2 * self._cells, needed))
        if self._batch is None:
            self._batch = Batch(self._api, 1 + MOST_GUESSES)
        self._batch.clear()
        self._batch.add(tokens, len(self.processed), 0, len(tokens))
        if not run_batch(self._native, self.pointer, self._batch.native):
            return False
        self.processed += tokens
        return True

    @property
    def can_be_cut(self) -> bool:
        """Whether `roll_back` always can: neither a recurrent state nor a sliding window keeps what was before."""
        return can_go_back(self._api, self._model) and not self._api.llama_model_n_swa(self._model)

    @property
    def regime(self) -> tuple[bool, int]:
        """What decides how the library computes a single token: attention is split among threads from 512 cells on."""
        return len(self.processed) >= _SPLIT_TOKENS, int(self._api.llama_n_threads(self.pointer))

    def lasts(self, tokens: int) -> bool:
        """Whether the regime is the same for all of so many tokens more."""
        count = len(self.processed)
        return count >= _SPLIT_TOKENS or count + tokens <= _SPLIT_TOKENS

    def logits(self, output: int) -> bytes:
        """Return a copy of the logits of one output of the last batch."""
        size = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        return ctypes.string_at(self._api.llama_get_logits_ith(self.pointer, output), 4 * size)

    def make_room(self, tokens: int) -> None:
        """See that the context holds `tokens`, or the plan's length if that is less; what it held is kept."""
        if self.pointer is not None and self._cells >= min(tokens, self._plan.context_length):
            return
        rounded = -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        cells = self._plan.context_length if self._plan.context_is_fixed else min(rounded, self._plan.context_length)
        state = self.save_state()
        self._free()
        self.pointer = new_context(self._native, self._model, self._plan, cells, outputs=1 + MOST_GUESSES)
        self._cells = cells
        self._watch_cancellation()
        if self._is_answering:
            self._threads.apply(self.pointer)
        if state is not None:
            self._api.llama_state_seq_set_data(self.pointer, state, len(state), 0)

    def save_state(self) -> Any:
        """Return keys and values of what was processed, as an array of bytes, or None if that is nothing."""
        if self.pointer is None or not self.processed:
            return None
        size = self._api.llama_state_seq_get_size(self.pointer, 0)
        state = (ctypes.c_uint8 * size)()
        self._api.llama_state_seq_get_data(self.pointer, state, size, 0)
        return state

    def _watch_cancellation(self) -> None:
        self._api.llama_set_abort_callback(self.pointer, self._native.stop_when_set, self._cancel.address)

    def close(self) -> None:
        """Free the memory; the next `begin` takes it again."""
        self._free()
        self.processed.clear()
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def _free(self) -> None:
        if self.pointer is not None:
            self._api.llama_free(self.pointer)
            self.pointer = None
            self._cells = 0


def new_context(native: Native, model: Any, plan: LoadPlan, cells: int, *, sequences: int = 1, outputs: int = 1) -> Any:
    """Make a context.

    Args:
        native: The library.
        model: The loaded model.
        plan: Threads, types and sizes.
        cells: Tokens of all sequences together; each has an equal share for itself, because attention over the cells
            of others, if only to skip them, cost a quarter of the speed at 16 sequences.
        sequences: How many sequences there are.
        outputs: Most tokens of one batch whose logits are wanted: a buffer for those of a whole micro-batch takes
            100 MB with a vocabulary of 50,000 tokens.

    Raises:
        NotEnoughMemoryError: The library could not allocate it.
    """
    api = native.api
    params = api.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = plan.batch_tokens
    params.n_seq_max = sequences
    params.n_outputs_max = max(outputs, sequences)
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = plan.threads
    params.type_k = params.type_v = _KV_TYPES[plan.kv_type]
    params.flash_attn_type = _FLASH_ATTENTION[plan.flash_attention]
    params.swa_full = False
    params.no_perf = True
    native.errors.clear()
    context = api.llama_init_from_model(model, params)
    if not context:
        raise NotEnoughMemoryError(
            f"llama.cpp could not make a context of {cells:,} tokens: {native.cause()}",
            fix="a smaller --context-length",
        )
    return context


def run_batch(native: Native, context: Any, batch: Any) -> bool:
    """Run one batch; False if it was aborted on request.

    Raises:
        NotEnoughMemoryError: The KV cache has no room left for the batch.
        EngineCrashedError: llama.cpp reported any other failure.
    """
    return _went_well(native, native.api.llama_decode(context, batch))


def _went_well(native: Native, status: int) -> bool:
    if status == 0:
        return True
    if status == _ABORTED:
        return False
    if status == 1:
        raise NotEnoughMemoryError("llama.cpp found no room in its KV cache for the batch")
    raise EngineCrashedError(f"llama.cpp failed to process a batch (status {status}): {native.cause()}")


def can_go_back(api: Any, model: Any) -> bool:
    """Whether tokens can be taken out of the model's memory again: not out of a recurrent state."""
    return not (api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model))


def cut_sequence(api: Any, model: Any, context: Any, sequence: int, count: int) -> bool:
    """Keep the first `count` tokens of a sequence; False if the model's memory no longer has what that takes.

    A recurrent state is that after its last token, and a sliding window holds only the tokens before the last one.
    """
    memory = api.llama_get_memory(context)
    window = api.llama_model_n_swa(model)
    if window and api.llama_memory_seq_pos_min(memory, sequence) > max(0, count - window):
        return False
    return bool(api.llama_memory_seq_rm(memory, sequence, count, -1))


def read_logits(api: Any, context: Any, output: int, vocabulary_size: int) -> Any:
    """Return a copy of the logits of an output of the last batch, as numbers of 32 bits."""
    return array("f", ctypes.string_at(api.llama_get_logits_ith(context, output), 4 * vocabulary_size))


def check_logits(api: Any, context: Any, output: int, vocabulary_size: int, model_path: str) -> None:
    """Refuse weights that give no finite logits: sampling from them would print garbage and succeed.

    Raises:
        ModelFileError: Some logit of that output of the last batch is not a finite number.
    """
    if not isfinite(sum(read_logits(api, context, output, vocabulary_size))):
        raise ModelFileError(
            f"the weights of {model_path} look damaged: the model's output is not finite",
            fix="download the model again",
        )
