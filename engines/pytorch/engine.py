"""Models in Hugging Face folders through PyTorch, on the processor or on whatever device torch sees.

Why not `model.generate`: it hides the token loop behind streamers that wait for ever when it raises, cannot be stopped
inside a prompt, starts every request from nothing, and spends more time around the layers than in them. Here the loop
is our own, the keys and values stay from one request to the next, and models of LLaMA's shape have a forward pass
without detours (`slim`), all others the one of transformers (`library`).
"""

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrun.engines.answer import Answer
from llmrun.engines.cancellation import Cancellation
from llmrun.engines.huggingface.grammar import Constraint, compile_constraint
from llmrun.engines.huggingface.tokenizer import HuggingFaceTokenizer
from llmrun.engines.protocol import BatchEvent, BatchRequest, generate_one_by_one
from llmrun.engines.pytorch.decoding import Decoder, Sequencer
from llmrun.engines.pytorch.library import LibraryDecoder
from llmrun.engines.pytorch.loading import choose_device, load_model
from llmrun.engines.pytorch.sampling import Sampler
from llmrun.engines.pytorch.slim import SlimDecoder, can_be_slim
from llmrun.engines.threads.neighbours import Neighbours
from llmrun.engines.threads.spin_control import SpinControl
from llmrun.engines.threads.spinning import limit_spinning
from llmrun.engines.types import EngineName, Event, LoadPlan, SamplingOptions, Segment
from llmrun.errors import NoUsableEngineError

__all__ = ["PytorchEngine", "PytorchSession"]

_PIECE_TOKENS = {"cpu": 256}
_GPU_PIECE_TOKENS = 2048


class PytorchEngine:
    """Loads Hugging Face folders, and GGUF files as transformers reads them."""

    name = EngineName.PYTORCH

    def __init__(self) -> None:
        self._neighbours = Neighbours.watch() if limit_spinning() else None
        try:
            self._torch: Any = importlib.import_module("torch")
        except (ImportError, OSError) as error:
            raise NoUsableEngineError(
                f"pytorch cannot be loaded: {str(error).splitlines()[0][:200]}", fix="llmrun install pytorch"
            ) from error

    def load(self, plan: LoadPlan, progress: Callable[[float], None] = lambda _fraction: None) -> "PytorchSession":
        """Load a model; `progress` gets the share of the weights that has been read."""
        path = Path(plan.model_path)
        torch = self._torch
        torch.set_num_threads(plan.threads)
        tokenizer = HuggingFaceTokenizer(path) if path.is_dir() else _tokenizer_of_gguf(path)
        if plan.vocabulary_only:
            return PytorchSession(torch, None, tokenizer, plan)
        device = choose_device(torch, plan)
        model = load_model(torch, plan, device, progress)
        progress(1.0)
        neighbours = self._neighbours if str(device).startswith("cpu") else None
        spins = SpinControl.for_torch(torch, plan.threads, neighbours)
        return PytorchSession(torch, model, tokenizer, plan, spins)


class PytorchSession:
    """One loaded model; without weights (`model` is None) it only tokenizes."""

    def __init__(
        self,
        torch: Any,
        model: Any,
        tokenizer: HuggingFaceTokenizer,
        plan: LoadPlan,
        spins: SpinControl | None = None,
    ) -> None:
        self._torch = torch
        self._plan = plan
        self._tokenizer = tokenizer
        self._spins = spins or SpinControl()
        self._sequencer: Sequencer | None = None
        if model is None:
            return
        self._device = model.get_input_embeddings().weight.device
        self._logits = int(model.get_output_embeddings().weight.shape[0])
        with torch.inference_mode():
            decoder: Decoder = SlimDecoder(model, plan.context_length) if can_be_slim(model) else LibraryDecoder(model)
        piece = _PIECE_TOKENS.get(self._device.type, _GPU_PIECE_TOKENS)
        self._sequencer = Sequencer(decoder, piece, plan.model_path, self._spins.look)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._plan.context_length

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Turn segments into ids. Control tokens are recognised in `special` segments only; BOS comes first once."""
        return self._tokenizer.tokenize(segments)

    def generate(self, tokens: Sequence[int], options: SamplingOptions, cancel: Cancellation) -> Iterator[Event]:
        """Yield text as it is decoded, then `Done` with counts and times."""
        assert self._sequencer is not None
        constraint = self._constraint(options)
        answer = Answer(self._tokenizer, len(tokens), options, self._plan.context_length)
        sampler = Sampler(tokens, options, self._device)
        answer.begin()
        self._spins.begin()
        in_pieces = options.repeatable and not options.continues
        yield from self._sequencer.write(tokens, sampler, answer, constraint, cancel, in_pieces=in_pieces)
        yield from answer.end()

    def _constraint(self, options: SamplingOptions) -> Constraint | None:
        if options.json_schema is None and options.grammar is None:
            return None
        compiled = compile_constraint(self._tokenizer, self._logits, options.json_schema, options.grammar)
        return Constraint(compiled)

    def generate_many(
        self, requests: Iterable[BatchRequest], parallel: int, cancel: Cancellation
    ) -> Iterator[tuple[str, BatchEvent]]:
        """Answer one request after another; what they begin with in common is processed once."""
        del parallel
        return generate_one_by_one(self, requests, cancel)

    def close(self) -> None:
        """Let go of the weights."""
        self._sequencer = None
        self._spins.close()


def _tokenizer_of_gguf(path: Path) -> HuggingFaceTokenizer:
    """Return the tokenizer of a GGUF file, by way of a folder that is there for a moment only: workers are killed."""
    transformers: Any = importlib.import_module("transformers")
    found = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    with tempfile.TemporaryDirectory(prefix="llmrun-tokenizer-") as folder:
        found.save_pretrained(folder)
        (Path(folder) / "config.json").write_text("{}")
        return HuggingFaceTokenizer(folder)
