"""One model that vLLM has loaded: requests go in, steps are made, and what came of each is handed out.

A step makes one token for every answer that is being written and takes in parts of the prompts that wait; vLLM decides
which. Between two steps is the moment to see a request to cancel, to add prompts, and to hand out text.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.huggingface.grammar import compile_constraint
from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.engines.protocol import BatchEvent, BatchRequest, Failure, check_prompt
from llmrun.engines.threads.spin_control import SpinControl
from llmrun.engines.types import Delta, Event, LoadPlan, Notice, SamplingOptions, Segment, TokenLogprob
from llmrun.engines.vllm.errors import request_error
from llmrun.engines.vllm.sampling import extra_arguments, native_notices, sampling_arguments
from llmrun.errors import LlmrunError

__all__ = ["VllmSession"]

_Running = tuple[str, Answer, int]  # the caller's id, the answer, and how many alternatives are listed


class VllmSession:
    """One loaded model.

    Args:
        engine: vLLM's `LLMEngine`; None when only the vocabulary is wanted.
        tokenizer: The folder's.
        plan: How it was loaded.
        folder: What was really loaded: the model's folder, or a converted copy.
        spins: How its threads on the processor wait.
    """

    def __init__(
        self,
        engine: Any,
        tokenizer: HuggingFaceTokenizer,
        plan: LoadPlan,
        folder: Path,
        spins: SpinControl | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._plan = plan
        self._folder = folder
        self._spins = spins or SpinControl()
        self._guesses = plan.lookup == "on"
        self._requests = 0
        if engine is not None:
            self._sampling: Any = importlib.import_module("vllm.sampling_params")
            self._logits = int(engine.vllm_config.model_config.get_vocab_size())

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        return self._tokenizer.tokenize(segments)

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        request = BatchRequest(id="", tokens=tokens, options=options)
        for _, event in self.generate_many([request], 1, cancel):
            if isinstance(event, Failure):
                raise event.error
            yield event

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer many prompts, up to `parallel` of them at once."""
        source = iter(requests)
        running: dict[str, _Running] = {}
        self._spins.begin()
        try:
            while True:
                while len(running) < max(1, parallel) and not cancel.requested:
                    request = next(source, None)
                    if request is None:
                        break
                    yield from self._begin(request, running)
                if cancel.requested:
                    self._abort(running)
                    yield from self._end_all(running, source)
                    return
                if not running:
                    return
                yield from self._step(running)
        finally:
            self._abort(running)

    def _begin(self, request: BatchRequest, running: dict[str, _Running]) -> Iterator[tuple[str, BatchEvent]]:
        """Give a request to vLLM, or say why not."""
        self._requests += 1
        name = str(self._requests)
        try:
            check_prompt(request.tokens, self.context_length)
            answer = Answer(self._tokenizer, len(request.tokens), request.options, self.context_length)
            parameters = self._parameters(request.options, answer.limit)
            self._engine.add_request(name, {"prompt_token_ids": list(request.tokens)}, parameters)
        except Exception as error:
            found = error if isinstance(error, LlmrunError) else request_error(error, self._plan.model_path)
            if found is None:
                raise
            yield request.id, Failure(error=found)
            return
        if self._guesses:
            for text in native_notices(request.options):
                yield request.id, Notice(text=text)
        running[name] = (request.id, answer, request.options.logprobs or 0)

    def _parameters(self, options: SamplingOptions, limit: int) -> Any:
        sampling = self._sampling
        arguments = sampling_arguments(options, limit, native=self._guesses)
        arguments["output_kind"] = sampling.RequestOutputKind.DELTA
        ends = () if options.ignore_end else self._tokenizer.ends
        arguments["stop_token_ids"] = sorted(token for token in ends if token < self._logits)
        arguments["ignore_eos"] = options.ignore_end
        constrained = options.json_schema is not None or options.grammar is not None
        if constrained:  # here, so that a mistake in it is this request's alone
            compile_constraint(str(self._folder), self._logits, options.json_schema, options.grammar)
        if not self._guesses:
            extra = extra_arguments(options, str(self._folder))
            arguments["extra_args"] = None if extra is None else {"llmrun": extra}
        elif constrained:
            arguments["structured_outputs"] = sampling.StructuredOutputsParams(
                json=options.json_schema, grammar=options.grammar
            )
        return sampling.SamplingParams(**arguments)

    def _step(self, running: dict[str, _Running]) -> Iterator[tuple[str, BatchEvent]]:
        try:
            outputs = self._engine.step()
        except Exception as error:
            found = request_error(error, self._plan.model_path)
            if found is None:
                raise
            raise found from error
        self._spins.look()
        for output in outputs:
            known = running.get(output.request_id)
            if known is None or not output.outputs:
                continue
            name, answer, alternatives = known
            answer.cached_tokens = max(answer.cached_tokens, output.num_cached_tokens or 0)
            for delta in self._read(output.outputs[0], answer, alternatives):
                yield name, delta
            if answer.finish is not None or output.finished:
                del running[output.request_id]
                if not output.finished:
                    self._engine.abort_request([output.request_id])
                for event in answer.end():
                    yield name, event

    def _read(self, part: Any, answer: Answer, alternatives: int) -> Iterator[Delta]:
        """Take in the tokens of a step; there is more than one where guesses were right."""
        for number, token in enumerate(part.token_ids):
            if answer.finish is not None:
                return
            logprob = None
            if part.logprobs and not self._tokenizer.is_end(token):
                logprob = self._describe(token, part.logprobs[number], alternatives)
            if (delta := answer.add(token, logprob)) is not None:
                yield delta

    def _describe(self, token: int, likely: Mapping[int, Any], alternatives: int) -> TokenLogprob:
        """Return what vLLM says of a token; it lists the chosen one and the likeliest together."""
        text = self._tokenizer.token_text
        ranked = sorted(likely.items(), key=lambda item: (-item[1].logprob, item[0]))[:alternatives]
        return TokenLogprob(
            id=token,
            text=text(token),
            logprob=float(likely[token].logprob),
            top=tuple((each, text(each), float(entry.logprob)) for each, entry in ranked),
        )

    def _abort(self, running: dict[str, _Running]) -> None:
        """Have vLLM forget what is running, and its blocks be free."""
        if running:
            self._engine.abort_request(list(running))

    def _end_all(
        self, running: dict[str, _Running], source: Iterator[BatchRequest]
    ) -> Iterator[tuple[str, BatchEvent]]:
        """End every answer that was not complete as cancelled, whether it had begun or not."""
        for name, answer, _ in list(running.values()):
            for event in answer.end():
                yield name, event
        running.clear()
        for request in source:
            answer = Answer(self._tokenizer, len(request.tokens), request.options, self.context_length)
            answer.finish = None
            for event in answer.end():
                yield request.id, event

    def close(self) -> None:
        """Give the memory back, and end the processes of further GPUs."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None
        self._spins.close()
