"""What a memory plan is asked, and what it answers. All sizes in bytes."""

from llmrun.engines.types import EngineName
from llmrun.values import value

__all__ = ["SHARE", "Division", "MemoryNeed", "MemoryPlan", "PlanRequest"]

SHARE = 0.9
"""The share of the free memory that a plan may take: the rest is for other programs, and for what estimates miss."""


@value
class PlanRequest:
    """What the user asked for; None leaves the choice to the plan.

    Attributes:
        context_length: Tokens of prompt and answer together.
        threads: CPU threads.
        gpu_layers: Layers on the GPU, -1 for all.
        kv_type: Type of the KV cache.
        vocabulary_only: No weights are loaded (`--dry-run`).
        draft_path: A smaller model that guesses ahead.
        lookup: Whether to guess ahead from the text so far: `auto`, `on` or `off`.
        cache: Whether the KV state of long prompts is kept between runs.
        dtype: Type that PyTorch engines compute in, or `auto`.
        quantization: Quantize while loading: `4-bit`, `8-bit` or None.
        pickle: Weights that are Python pickles may be loaded.
        remote_code: Code that the model brings along may be run.
        model_type: What a legacy file holds, where its header cannot tell.
        parallel: Sequences that are expected at once.
    """

    context_length: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    kv_type: str = "f16"
    vocabulary_only: bool = False
    draft_path: str | None = None
    lookup: str = "auto"
    cache: bool = True
    dtype: str = "auto"
    quantization: str | None = None
    pickle: bool = False
    remote_code: bool = False
    model_type: str | None = None
    parallel: int = 1


@value
class MemoryNeed:
    """An estimate of what the engine's process takes, by part.

    Attributes:
        weights_bytes: Every weight once: mapped pages of the file that were copied into another layout are not counted
            again, because the system takes them back when memory is short.
        kv_bytes: The KV cache, and states of fixed size, for the whole context.
        compute_bytes: Buffers that only fill while a prompt is processed.
        overhead_bytes: The process itself: libraries, vocabulary, graphs.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        """The peak of the whole engine process, in main memory and on GPUs together."""
        return self.load_bytes + self.compute_bytes

    @property
    def load_bytes(self) -> int:
        """What is resident once the model is loaded and its context made, before a prompt is processed."""
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes


@value
class Division:
    """A need, and how it divides between main memory and GPUs."""

    need: MemoryNeed
    main_bytes: int
    gpu_bytes: int = 0
    gpu_layers: int = 0


@value
class MemoryPlan:
    """How an engine would take its memory on a machine.

    Attributes:
        engine: Which engine.
        context_length: What was asked for, or the most of the trained context that fits.
        need: The estimate for that context.
        main_bytes: The part in main memory, gpu_bytes the part on GPUs; with unified memory all of it is in main
            memory.
        main_free_bytes: What this process may take; gpu_free_bytes likewise, None without a GPU that can be used.
        fits: Each part is within 90% of what is free for it.
        largest_context: The largest context that fits; 0 when none does.
        gpu_layers: Layers on the GPU; -1 for all.
        gpus: GPUs that share every layer.
    """

    engine: EngineName
    context_length: int
    need: MemoryNeed
    main_bytes: int
    gpu_bytes: int
    main_free_bytes: int
    gpu_free_bytes: int | None
    fits: bool
    largest_context: int
    gpu_layers: int
    gpus: int = 1
