"""The child process that tries ctransformers: a batch and some tokens of tiny models in the formats before GGUF.

Called as `python -m llmrun.engines.trials.ctransformers_child THREADS TYPE=FILE...`. The library that ctransformers
picks for this processor is loaded as it would be for a real model; what it prints of its own goes where it went.
"""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

from llmrun.engines.trials.reporting import report

__all__ = ["try_ctransformers"]

_BATCH_TOKENS = 32
_SINGLE_TOKENS = 8
_FIRST_ORDINARY = 3  # the special tokens come before


def try_ctransformers(threads: int, files: list[str]) -> dict[str, Any]:
    """Decode with every model and return which library did it.

    Raises:
        Exception: Whatever the package raises: it is broken, or has no library for this machine.
    """
    llm: Any = importlib.import_module("ctransformers.llm")
    lib: Any = importlib.import_module("ctransformers.lib")
    for kind, _, path in (file.partition("=") for file in files):
        config = llm.Config(threads=threads, batch_size=_BATCH_TOKENS)
        _decode(llm.LLM(path, kind, config=config), kind)
    library = Path(lib.find_library())
    return {"features": f"its {library.parent.name} library", "gpu_offload": None}


def _decode(model: Any, kind: str) -> None:
    tokens = list(range(_FIRST_ORDINARY, _FIRST_ORDINARY + _BATCH_TOKENS))
    model.eval(tokens)
    for _ in range(_SINGLE_TOKENS):
        logits = list(model.logits)
        if not logits or not all(math.isfinite(logit) for logit in logits):
            raise ArithmeticError(f"the logits of {kind} are not finite numbers")
        model.eval([model.sample(top_k=1, temperature=1.0, seed=1)])


if __name__ == "__main__":
    report(lambda: try_ctransformers(int(sys.argv[1]), sys.argv[2:]))
