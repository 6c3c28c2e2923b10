"""The first lines of a worker, before it imports what it needs to answer.

Reading the weights of a model takes no part of Python and most of the time until an answer begins. So the engine's
library comes first, then its weights in a thread of their own, and all other modules are imported meanwhile.
"""

import time

__all__ = ["main"]


def main(engine: str, weights: int | None = None) -> None:
    """Run the worker of an engine.

    Args:
        engine: Its name.
        weights: A descriptor from which the path of a model can be read whose weights will most likely be wanted.
    """
    entered = time.monotonic()
    if weights is not None:
        from llmrun.engines.llama_cpp.weights import begin_early

        begin_early(weights)
    from llmrun.engines.worker import main as serve

    serve(engine, entered)
