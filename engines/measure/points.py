"""What is to be measured: a sweep over sizes and settings, and whether each of its points can be measured at all.

A point is one row of the result. Points that need the same process (same model, engine and settings) follow one
another, so that a model is loaded once for all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from llmrun.engines.memory.kv import round_context
from llmrun.engines.memory.needs import trained_context
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName
from llmrun.errors import NotEnoughMemoryError, UsageError
from llmrun.models.types import ModelInfo

__all__ = ["Point", "Setup", "Sizes", "Sweep", "check_sizes", "request_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a process is started for.

    Attributes:
        engine: Which engine.
        threads: CPU threads.
        kv_type: Type of the KV cache.
        gpu_layers: Layers on the GPU, -1 for all, None for as many as fit.
        parallel: Requests at once.
    """

    engine: EngineName
    threads: int
    kv_type: str = "f16"
    gpu_layers: int | None = None
    parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a process is asked.

    Attributes:
        prompt_tokens: Tokens whose prefill is timed; 0: none is.
        answer_tokens: Tokens whose decoding is timed; 0: none is.
        depth: Tokens that are in the context before either.
    """

    prompt_tokens: int
    answer_tokens: int
    depth: int = 0

    def context_length(self, parallel: int = 1) -> int:
        """Return for how many tokens one sequence must have room.

        Prefill and decode are timed apart, and decoding goes on from one token after the depth; of several requests at
        once, whole ones are timed too.
        """
        both = self.prompt_tokens + self.answer_tokens if parallel > 1 else max(self.prompt_tokens, self.answer_tokens)
        return self.depth + both + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of the result."""

    setup: Setup
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Every value of every list, with every value of the others.

    Attributes:
        repetitions: How often each point is measured after its warm-up.
    """

    prompt_tokens: tuple[int, ...] = (512,)
    answer_tokens: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    parallel: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = ()
    kv_types: tuple[str, ...] = ("f16",)
    gpu_layers: tuple[int | None, ...] = (None,)
    repetitions: int = 5

    def setups(self, engine: EngineName, threads: int) -> Iterator[Setup]:
        """Yield what processes are needed for an engine; `threads` is their number where none was asked for."""
        for parallel, kv_type, layers, count in product(
            self.parallel, self.kv_types, self.gpu_layers, self.threads or (threads,)
        ):
            yield Setup(engine=engine, threads=count, kv_type=kv_type, gpu_layers=layers, parallel=parallel)

    def sizes(self) -> list[Sizes]:
        """Return what each process is asked; neither prompt nor answer is nothing to ask."""
        return [
            Sizes(prompt_tokens=prompt, answer_tokens=answer, depth=depth)
            for depth, prompt, answer in product(self.depths, self.prompt_tokens, self.answer_tokens)
            if prompt or answer
        ]


def check_sizes(sweep: Sweep, info: ModelInfo, name: str) -> None:
    """Refuse sizes that mean nothing, or that the model's context does not hold.

    Raises:
        UsageError: There would be nothing to measure.
        NotEnoughMemoryError: The context is too small; says what fits.
    """
    if not sweep.sizes():
        raise UsageError("-p 0 with -n 0 leaves nothing to measure", fix="leave one of them out")
    for sizes in sweep.sizes():
        if sizes.answer_tokens == 1:
            raise UsageError("-n 1 gives no decode rate: that takes two tokens at least", fix="-n 2 or more, or -n 0")
        room = trained_context(info)
        needed = sizes.context_length(max(sweep.parallel))
        if needed > room:
            raise NotEnoughMemoryError(
                f"-p {sizes.prompt_tokens} and -n {sizes.answer_tokens} at depth {sizes.depth} take a context of "
                f"{needed:,} tokens, and that of {name} holds {room:,}",
                fix=_what_fits(sizes, max(sweep.parallel), room),
            )


def _what_fits(sizes: Sizes, parallel: int, room: int) -> str:
    shallow = sizes.context_length(parallel) - sizes.depth
    if shallow <= room:
        return f"-d {room - shallow} fits"
    most = room - 1 - sizes.depth
    together = "-p and -n" if parallel == 1 else "-p and -n together"
    return f"{together} up to {most} fit" if most > 1 else f"{together} up to {room - 1} fit at depth 0"


def request_for(setup: Setup, sizes: Sequence[Sizes], base: PlanRequest) -> PlanRequest:
    """Return what a plan is asked for: room for the largest of the sizes, nothing guessed ahead, nothing kept on disk.

    llama.cpp divides one context among the sequences; the other engines make one of this size for each.
    """
    longest = max(each.context_length(setup.parallel) for each in sizes)
    if setup.engine is EngineName.LLAMA_CPP and setup.parallel > 1:
        longest = setup.parallel * round_context(longest)
    return replace(
        base,
        context_length=longest,
        threads=setup.threads,
        gpu_layers=setup.gpu_layers,
        kv_type=setup.kv_type,
        parallel=setup.parallel,
        lookup="off",
        cache=False,
    )
