"""GGUF models through llama.cpp, on the low-level API of llama-cpp-python.

Why not the high-level `Llama` class: it copies logits into Python for every token, guesses a chat template when the
file has none, and cannot be interrupted inside a batch. Here sampling stays in C, prompts arrive rendered, and the
abort callback ends a running batch within milliseconds.

Prefill is bound by arithmetic and decode by memory bandwidth, so the prompt goes through in micro-batches and each
answer token alone. What the library defaults to and this adapter does not: n_ctx 512, half the cores, a full-size
cache for sliding-window layers, log lines on the terminal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp.context import Context, can_go_back, check_logits
from llmrun.engines.llama_cpp.native import Native, load_native
from llmrun.engines.llama_cpp.prefix import DiskPrefix
from llmrun.engines.llama_cpp.sampling import Sampler
from llmrun.engines.llama_cpp.speculation import Decoder
from llmrun.engines.llama_cpp.vocabulary import Vocabulary
from llmrun.engines.llama_cpp.weights import load_weights, take_early
from llmrun.engines.protocol import BatchEvent, BatchRequest, generate_one_by_one
from llmrun.engines.types import Done, EngineName, Event, LoadPlan, Notice, SamplingOptions, Segment

if TYPE_CHECKING:
    from llmrun.engines.llama_cpp.draft import DraftModel

__all__ = ["LlamaCppEngine", "LlamaCppSession"]

_FIRST_ANSWER_TOKENS = 1024  # room in the first context for an answer without --max-tokens


class LlamaCppEngine:
    """Loads GGUF files. Constructing it loads the shared library, so that this can be done before a plan exists."""

    name = EngineName.LLAMA_CPP

    def __init__(self) -> None:
        self._early = take_early()
        self._native = load_native() if self._early is None else self._early.native
        self._preloaded: tuple[str, Any] | None = None  # path and model

    def preload(self, path: str, progress: Callable[[float], None]) -> None:
        """Read the weights for a processor; how many layers a GPU is to have, only a plan can say."""
        if self._early is not None:
            self._preloaded, self._early = self._early.wait(progress), None
        elif self._preloaded is None and not self._native.api.llama_supports_gpu_offload():
            self._preloaded = path, load_weights(self._native, path, progress)

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> "LlamaCppSession":
        """Load a GGUF file; `progress` gets the share of the weights that has been read."""
        model = self._take_preloaded(plan) or load_weights(
            self._native, plan.model_path, progress, gpu_layers=plan.gpu_layers, vocabulary_only=plan.vocabulary_only
        )
        draft = None
        try:
            if plan.draft_path is not None and not plan.vocabulary_only:
                draft = self._load_draft(plan, model)
        except BaseException:
            self._native.api.llama_model_free(model)
            raise
        return LlamaCppSession(self._native, model, plan, draft)

    def _take_preloaded(self, plan: LoadPlan) -> Any:
        """Return the model that was read before its plan was known, or None if the plan wants something else."""
        if self._preloaded is None:
            return None
        (path, model), self._preloaded = self._preloaded, None
        if path == plan.model_path and not plan.gpu_layers and not plan.vocabulary_only:
            return model
        self._native.api.llama_model_free(model)
        return None

    def _load_draft(self, plan: LoadPlan, model: Any) -> "DraftModel":
        from llmrun.engines.llama_cpp.draft import DraftModel, check_same_vocabulary

        draft = load_weights(self._native, plan.draft_path or "", lambda _fraction: None, gpu_layers=plan.gpu_layers)
        try:
            check_same_vocabulary(self._native.api, model, draft, plan)
        except BaseException:
            self._native.api.llama_model_free(draft)
            raise
        return DraftModel(self._native, draft, plan)


class LlamaCppSession:
    """One loaded model."""

    def __init__(self, native: Native, model: Any, plan: LoadPlan, draft: "DraftModel | None" = None) -> None:
        self._native = native
        self._api = native.api
        self._model = model
        self._plan = plan
        self._vocabulary = Vocabulary(native, model)
        self._context = Context(native, model, plan)
        self._disk = DiskPrefix(native, model, plan)
        self._draft = draft
        self._notices: list[str] = []
        self._decoder = self._make_decoder()

    def _make_decoder(self) -> Decoder:
        plan, draft = self._plan, self._draft
        if can_go_back(self._api, self._model) and (draft is None or draft.can_go_back):
            return Decoder(self._context, plan.context_length, plan.lookup, draft)
        if plan.lookup == "on" or draft is not None:
            self._notices.append("nothing is guessed ahead: the memory of a recurrent model cannot go back")
        return Decoder(self._context, plan.context_length, "off", None)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        return self._vocabulary.tokenize(segments)

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        while self._notices:
            yield Notice(text=self._notices.pop())
        answer = Answer(self._vocabulary, len(tokens), options, self._plan.context_length)
        room = min(answer.limit, _FIRST_ANSWER_TOKENS) if options.max_tokens is None else answer.limit
        held = self._disk.look(tokens, self._context.processed)
        self._context.begin(max(len(tokens) + room, held), cancel, repeatable=options.repeatable)
        if self._draft is not None:
            self._draft.begin(len(tokens) + room, cancel)
        sampler = Sampler(self._api, self._vocabulary, tokens, options)
        answer.begin(self._disk.look_seconds)
        try:
            if self._disk.prefill(self._context, tokens, cancel, continues=options.continues):
                answer.prefilled()
                answer.cached_tokens = self._disk.reused_tokens
                check_logits(self._api, self._context.pointer, -1, self._vocabulary.size, self._plan.model_path)
                keep = partial(self._disk.keep, self._context)
                yield from self._decoder.decode(tokens, sampler, answer, cancel, keep)
        finally:
            sampler.close()
        for event in answer.end():
            if isinstance(event, Done):
                yield from (Notice(text=problem) for problem in self._disk.finish(cancel))
            yield event

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer many prompts, up to `parallel` of them at once, in the memory that the plan has for one."""
        if parallel == 1:
            yield from generate_one_by_one(self, requests, cancel)
            return
        from llmrun.engines.llama_cpp.parallel import ParallelDecoder

        self._context.close()  # the plan has memory for one context
        if self._draft is not None:
            self._draft.pause()
        decoder = ParallelDecoder(self._native, self._model, self._plan, self._vocabulary, cancel)
        try:
            yield from decoder.run(requests, parallel)
        finally:
            decoder.close()

    def close(self) -> None:
        """Free the contexts and the weights."""
        self._context.close()
        if self._draft is not None:
            self._draft.close()
        if self._model is not None:
            self._api.llama_model_free(self._model)
            self._model = None
