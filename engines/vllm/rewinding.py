"""Seeds on processors, for prompts that vLLM takes in over several steps.

In every step vLLM samples for all sequences, throws away what it sampled for those whose prompt goes on, and takes
their random numbers back by moving the generator's offset. Generators of processors have no offset, so that any such
prompt with a seed ended the engine ("CPU Generator does not use offset"). Here those generators begin again with their
seed, which is where they were: nothing of the answer had been drawn.

Only an answer that vLLM had set aside for want of memory, and takes up again in several steps, goes on with other
random numbers than without that.

Source: GPUModelRunner._bookkeeping_sync in vllm/v1/worker/gpu_model_runner.py (vLLM 0.22); CPUModelRunner inherits it.
"""

import importlib
from typing import Any

__all__ = ["rewind_generators"]


class _Rewound:
    """Stands in for the generator of a sequence whose sampled token is thrown away."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def get_offset(self) -> int:
        """Return any number."""
        return 0

    def set_offset(self, _offset: int) -> None:
        """Begin again with the seed."""
        self._generator.manual_seed(self._generator.initial_seed())


def rewind_generators() -> None:
    """Have vLLM's runner for processors take random numbers back in the way that is possible there."""
    runner: Any = importlib.import_module("vllm.v1.worker.cpu_model_runner").CPUModelRunner
    original = getattr(runner, "_bookkeeping_sync", None)
    if original is None or getattr(original, "rewinds", False):
        return

    def bookkeeping(self: Any, *arguments: Any, **named: Any) -> Any:
        generators = self.input_batch.generators
        discarded = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0].tolist()
        real = {index: generators[index] for index in discarded if index in generators}
        generators.update({index: _Rewound(generator) for index, generator in real.items()})
        try:
            return original(self, *arguments, **named)
        finally:
            generators.update(real)

    bookkeeping.rewinds = True  # type: ignore[attr-defined]
    runner._bookkeeping_sync = bookkeeping
