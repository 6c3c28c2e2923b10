"""Models in the formats before GGUF, through ctransformers 0.2.27.

The library has not been maintained since 2023 and crashes on what it does not expect, so it gets nothing but files that
our own reader has checked (`models/ggml`), tokens that fit in the context, and buffers that are large enough.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.ctransformers.library import Model, load_package
from llmrun.engines.ctransformers.room import EvaluationRoom
from llmrun.engines.ctransformers.sampling import Sampler
from llmrun.engines.ctransformers.threads import ComputeThreads
from llmrun.engines.ctransformers.vocabulary import Vocabulary
from llmrun.engines.protocol import BatchEvent, BatchRequest, generate_one_by_one
from llmrun.engines.types import EngineName, Event, LoadPlan, SamplingOptions, Segment
from llmrun.errors import ModelFileError, UsageError
from llmrun.models.ggml.header import read_ggml_header

__all__ = ["CtransformersEngine", "CtransformersSession"]

_PIECE_SECONDS = 0.2  # between two looks at a request to cancel


class CtransformersEngine:
    """Loads legacy GGML files."""

    name = EngineName.CTRANSFORMERS

    def __init__(self) -> None:
        self._package = load_package()

    def load(
        self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None
    ) -> "CtransformersSession":
        """Load a file. The weights are mapped, so that there is no progress to report but its end."""
        kind = plan.model_type or "llama"
        model = Model(
            self._package,
            plan.model_path,
            kind,
            context_length=plan.context_length,
            threads=plan.threads,
            batch_tokens=plan.batch_tokens,
            gpu_layers=plan.gpu_layers,
        )
        progress(1.0)
        return CtransformersSession(model, kind, plan)


class CtransformersSession:
    """One loaded model."""

    def __init__(self, model: Model, kind: str, plan: LoadPlan) -> None:
        self._numpy: Any = importlib.import_module("numpy")
        self._model = model
        self._plan = plan
        self._vocabulary = Vocabulary(model, kind)
        self._threads = ComputeThreads(plan)
        made = model.context_length or plan.context_length
        room = EvaluationRoom(kind, read_ggml_header(Path(plan.model_path), model_type=kind).shape, made)
        self._room = room
        self._context_length = min(plan.context_length, room.usable_context())
        growth = room.growth()
        if growth is not None and not plan.vocabulary_only:
            model.make_room(growth)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together: of most types as their file says, whatever was asked for."""
        return self._context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        return self._vocabulary.tokenize(segments)

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        if options.json_schema is not None or options.grammar is not None:
            raise UsageError(
                "ctransformers cannot keep an answer to a JSON schema or a grammar",
                fix="llmrun models convert makes a GGUF of a llama file, for llama-cpp, which can",
            )
        answer = Answer(self._vocabulary, len(tokens), options, self.context_length)
        sampler = Sampler(self._numpy, tokens, options)
        answer.begin()
        if self._prefill(tokens, answer, cancel):
            answer.prefilled()
            self._check_logits()
            yield from self._write(sampler, answer, cancel)
        yield from answer.end()

    def _write(self, sampler: Sampler, answer: Answer, cancel: Cancellation) -> Iterator[Event]:
        self._threads.begin(prompt=False)
        while True:
            token = sampler.choose(self._model.logits(self._numpy))
            if delta := answer.add(token, answer.describe(token, self._row, -1)):
                yield delta
            if answer.finish is not None or cancel.requested:
                return
            self._compute([token], prompt=False)

    def _compute(self, tokens: Sequence[int], *, prompt: bool) -> float:
        """Take the next tokens; return the seconds that it took."""
        self._model.threads = self._threads.now
        return self._threads.timed(lambda: self._model.process(tokens), len(tokens), prompt=prompt)

    def _row(self, _output: int) -> Any:
        return self._model.logits(self._numpy)

    def _prefill(self, tokens: Sequence[int], answer: Answer, cancel: Cancellation) -> bool:
        """Process what is new of a prompt, in pieces that take less than a second; False if it was cancelled."""
        model = self._model
        shared = 0
        for old, new in zip(model.processed, tokens[:-1], strict=False):
            if old != new:
                break
            shared += 1
        model.cut_back(shared)
        answer.cached_tokens = begin = shared
        self._threads.begin(prompt=True)
        piece = 1
        while begin < len(tokens):
            if cancel.requested:
                return False
            piece = min(piece, len(tokens) - begin, self._room.most_tokens(begin))
            seconds = self._compute(tokens[begin : begin + piece], prompt=True)
            begin += piece
            affordable = int(_PIECE_SECONDS * piece / max(seconds, 1e-6))
            piece = max(1, min(self._plan.batch_tokens, 4 * piece, affordable))
        return True

    def _check_logits(self) -> None:
        if not self._numpy.isfinite(self._model.logits(self._numpy)).all():
            self._model.cut_back(0)
            raise ModelFileError(
                f"the weights of {self._plan.model_path} look damaged: the model's output is not finite",
                fix="download the model again",
            )

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer one request after another: the library holds one sequence."""
        del parallel
        return generate_one_by_one(self, requests, cancel)

    def close(self) -> None:
        """The library frees the model when it is not used any more."""
