"""Answer one prompt of token ids with the llama-cpp adapter in this process: what the tests of the prefix cache run.

Here every prefill counts as long, so that tiny models leave their state on disk too. JSON comes in and goes out.
"""

import json
import sys
from typing import Any

from llmrun.engines.cancellation import Cancellation
from llmrun.engines.llama_cpp import prefix as llama_cpp_prefix
from llmrun.engines.llama_cpp.engine import LlamaCppEngine
from llmrun.engines.types import Delta, Done, EngineName, LoadPlan, Notice, SamplingOptions


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    llama_cpp_prefix._LEAST_SECONDS = 0.0
    plan = LoadPlan(engine=EngineName.LLAMA_CPP, context_length=4096, threads=2, **asked["plan"])
    session = LlamaCppEngine().load(plan)
    options = SamplingOptions(
        temperature=0,
        top_p=1,
        top_k=0,
        min_p=0,
        repeat_penalty=1,
        max_tokens=asked["most"],
        seed=0,
        repeatable=True,
    )
    said = []
    for tokens in asked["prompts"]:
        events = list(session.generate(tokens, options, Cancellation()))
        done = events[-1]
        assert isinstance(done, Done)
        text = "".join(event.text for event in events if isinstance(event, Delta))
        notices = [event.text for event in events if isinstance(event, Notice)]
        said.append({"text": text, "cached": done.stats.cached_tokens, "notices": notices})
    session.close()
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
