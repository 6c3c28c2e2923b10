"""Prefill that begins with what the prefix cache on disk holds, and leaves there what it took long to compute.

The answer is the same with and without the cache, to the last bit on a CPU. A row of a batch comes out the same
whatever rows are beside it, but the library computes attention one way for batches of at least 64 rows and another way
for smaller ones. So a loaded state is cut back to where the rest of the prompt goes through in batches that end where
they end without the cache, and that are as large in the sense that matters: see `resume_point`.

The next turn of a conversation may ask for all that is there instead (`continues`): then nothing is processed twice,
and as the result may differ in its last bits, it is not kept on disk.

A state is copied after the first token of the answer is out, and written by a thread while the answer goes on.

Models whose memory cannot be cut back (recurrent ones; sliding windows that have moved on) can use a state only if the
prompt begins with all of it. For them it is kept shortly before the end of the prompt, and where this prompt parts from
an earlier one: the second question about a text tells where the text ends, and the third profits.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.context import Context
from llmrun.engines.llama_cpp.native import Native
from llmrun.engines.types import LoadPlan

if TYPE_CHECKING:
    from llmrun.engines.prefix_cache.store import CachedPrefix, PrefixCache

__all__ = ["DiskPrefix", "resume_point"]

_LEAST_TOKENS = 256
_LEAST_SECONDS = 0.25  # of prefill: what took less is not worth a file
_TILE_ROWS = 64  # rows from which attention is computed in tiles. Source: GGML_FA_TILE_Q in ggml-cpu/common.h
_WAIT_SECONDS = 5.0
_WAIT_CANCELLED_SECONDS = 0.2
_FREELY_COPIED_BYTES = 64 << 20
_MEMORY_SHARE = 4  # a larger copy may take a quarter of the available memory


def resume_point(covered: int, length: int, batch_tokens: int) -> int:
    """Return where to go on with a prompt of `length` tokens of which `covered` are there, at most `covered`.

    Batches end at multiples of `batch_tokens`. To begin at such a multiple is what happens without a cache too; to
    begin between two is the same if at least 64 rows follow in that batch.
    """
    grain = _TILE_ROWS if batch_tokens % _TILE_ROWS == 0 else batch_tokens
    whole = min(covered, length - 1) // batch_tokens * batch_tokens
    part = min(covered, length - grain) // grain * grain
    return max(whole, part, 0)


class DiskPrefix:
    """The prefix cache of one loaded model.

    Attributes:
        reused_tokens: How many tokens of the last prompt were not processed, thanks to memory or disk.
        look_seconds: How long the last search of the disk took; it is part of the prefill.
    """

    def __init__(self, native: Native, model: Any, plan: LoadPlan) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self._folder = Path(plan.cache_folder).absolute() if plan.cache_folder else None
        self._cut_limit = _cut_limit(self._api, model)
        self._store: PrefixCache | None = None
        self._found: CachedPrefix | None = None
        self._exact = 0  # leading tokens in the context whose state is what a prefill from nothing computes
        self._to_keep: list[int] | None = None
        self._writers: list[threading.Thread] = []
        self._problems: list[str] = []
        self.reused_tokens = 0
        self.look_seconds = 0.0

    def look(self, tokens: Sequence[int], held: Sequence[int]) -> int:
        """Look for an entry that saves much more than the context holds; return the tokens it needs room for."""
        self._release()
        self.look_seconds = 0.0
        if self._folder is None or len(tokens) <= _LEAST_TOKENS:
            return 0
        began = time.perf_counter()
        here = _common(held, tokens)
        self._found = self._cache().find(tokens[:-1], here + _LEAST_TOKENS, most=self._plan.context_length)
        self.look_seconds = time.perf_counter() - began
        return len(self._found.tokens) if self._found else 0

    def prefill(
        self, context: Context, tokens: Sequence[int], cancel: Cancellation, *, continues: bool = False
    ) -> bool:
        """Process what neither the context nor the disk holds of a prompt; False if it was cancelled."""
        self._to_keep = None
        start = self._begin(context, tokens, continues=continues)
        exact = start <= self._exact and self._folder is not None
        self._exact = min(self._exact, start)
        self.reused_tokens = start
        began = time.perf_counter()
        stops = self._stops(tokens, start) if exact else []
        while start < len(tokens):
            end = self._batch_end(start, len(tokens), stops)
            if cancel.requested or not context.process(tokens[start:end]):
                context.forget()
                return False
            start = end
            if end in stops:
                self._keep(context, list(tokens[:end]), began)
        if exact:
            self._exact = len(tokens)
            if self._can_cut(len(tokens)) and _was_long(began):
                self._to_keep = list(tokens)
        return True

    def keep(self, context: Context) -> None:
        """Copy the state of the prompt, if it took long, and begin to write it; before the answer's tokens are run."""
        tokens, self._to_keep = self._to_keep, None
        if tokens is not None and len(context.processed) == len(tokens):
            self._keep(context, tokens, None)

    def finish(self, cancel: Cancellation) -> list[str]:
        """Wait for what is being written, within bounds; return why something could not be kept."""
        deadline = time.monotonic() + (_WAIT_CANCELLED_SECONDS if cancel.requested else _WAIT_SECONDS)
        for writer in self._writers:
            writer.join(max(0.0, deadline - time.monotonic()))
        self._writers = [writer for writer in self._writers if writer.is_alive()]
        self._release()
        problems, self._problems = self._problems, []
        return problems

    def _begin(self, context: Context, tokens: Sequence[int], *, continues: bool) -> int:
        """Bring into the context as much of the prompt as there is; return where to go on."""
        found, self._found = self._found, None
        if found is not None:
            start = self._load(context, found, len(tokens), continues=continues)
            found.close()
            if start:
                self._exact = 0 if continues else start
                return start
        held = context.cut_back(tokens)
        if self._folder is None or continues:
            return held
        start = resume_point(min(held, self._exact), len(tokens), self._plan.batch_tokens)
        # A little is processed again for a state worth keeping; an answer in the context is not given up for it.
        if len(tokens) - held >= _LEAST_TOKENS and held - start <= _TILE_ROWS:
            return start if context.roll_back(start) else 0
        return held

    def _load(self, context: Context, found: "CachedPrefix", length: int, *, continues: bool) -> int:
        """Replace what the context holds by an entry, cut back to where the prompt goes on; 0 if that failed."""
        api, count = self._api, len(found.tokens)
        context.forget()
        state = (ctypes.c_uint8 * found.state.nbytes).from_buffer(found.state)
        accepted = api.llama_state_seq_set_data(context.pointer, state, len(state), 0)
        del state
        if accepted != found.state.nbytes:
            context.forget()
            self._cache().discard(found)
            return 0
        context.processed[:] = found.tokens
        start = count
        if self._can_cut(count):
            start = found.covered
            if not continues:
                start = resume_point(start, length, self._plan.batch_tokens)
        return start if context.roll_back(start) else 0

    def _stops(self, tokens: Sequence[int], start: int) -> list[int]:
        """Return where the state is kept before the end of the prompt, for models that need it."""
        length, batch = len(tokens), self._plan.batch_tokens
        if self._can_cut(length) or length <= _LEAST_TOKENS:
            return []
        parting = self._cache().longest_common(tokens)
        points = {resume_point(length, length, batch), resume_point(parting, length, batch)}
        return sorted(point for point in points if point >= start + _LEAST_TOKENS)

    def _batch_end(self, start: int, length: int, stops: Sequence[int]) -> int:
        batch = self._plan.batch_tokens
        return min([(start // batch + 1) * batch, length, *(stop for stop in stops if stop > start)])

    def _keep(self, context: Context, tokens: list[int], began: float | None) -> None:
        """Copy the state of `tokens`, which is what the context holds, and write it in a thread."""
        if began is not None and not _was_long(began):
            return
        size = int(self._api.llama_state_seq_get_size(context.pointer, 0))
        cache = self._cache()
        if not size or not _may_copy(size) or not cache.wants(tokens, size):
            return
        state = (ctypes.c_uint8 * size)()
        if self._api.llama_state_seq_get_data(context.pointer, state, size, 0) != size:
            return

        def write() -> None:
            _yield_to_others()
            if problem := cache.store(tokens, memoryview(state)):
                self._problems.append(problem)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        self._writers.append(writer)

    def _can_cut(self, count: int) -> bool:
        return self._cut_limit is None or count <= self._cut_limit

    def _cache(self) -> "PrefixCache":
        assert self._folder is not None, "asked only where there is one"
        if self._store is None:
            from llmrun.engines.prefix_cache.folder import limit_bytes
            from llmrun.engines.prefix_cache.store import PrefixCache

            plan = self._plan
            self._store = PrefixCache(
                self._folder,
                _model_key(self._api, plan),
                limit_bytes(),
                label=Path(plan.model_path).name,
                cut_limit=self._cut_limit,
            )
        return self._store

    def _release(self) -> None:
        if self._found is not None:
            self._found.close()
            self._found = None


def _cut_limit(api: Any, model: Any) -> int | None:
    """Return how many tokens a state may have that can be cut back: None for any number.

    A recurrent state is that after its last token, and a sliding window holds only the tokens before the last one.
    """
    if api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model):
        return 0
    return int(api.llama_model_n_swa(model)) or None


def _model_key(api: Any, plan: LoadPlan) -> str:
    """Return everything that a state depends on besides its tokens."""
    identity = plan.cache_key or _file_identity(Path(plan.model_path).resolve())
    library = Path(api._lib._name)
    build = [_file_identity(path) for path in sorted(library.parent.glob("lib*")) if path.is_file()]
    facts = [f"kv {plan.kv_type}", f"gpu {plan.gpu_layers}", f"batch {plan.batch_tokens}"]
    return "\n".join([identity, *build, *facts])


def _file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    count = 0
    for mine, wanted in zip(one, other, strict=False):
        if mine != wanted:
            break
        count += 1
    return count


def _was_long(began: float) -> bool:
    return time.perf_counter() - began >= _LEAST_SECONDS


def _may_copy(size: int) -> bool:
    """Return whether a copy of the state leaves enough memory."""
    if size <= _FREELY_COPIED_BYTES:
        return True
    from llmrun.hardware.memory import probe_memory

    memory, _ = probe_memory()
    return size <= memory.available_bytes // _MEMORY_SHARE


def _yield_to_others() -> None:
    """Let the threads that decode go first; what is not written meanwhile is written at the end of the answer."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
