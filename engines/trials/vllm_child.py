"""The child process that tries vLLM: a tiny Llama with random weights, two prompts at once, some tokens each.

Called as `python -m llmrun.engines.trials.vllm_child FOLDER`; the folder holds a config.json and nothing else, because
vLLM makes random weights itself. The engine's core runs in this process, so that what it raises is what is reported.
"""

import importlib
import math
import sys
from typing import Any

from llmrun.engines.trials.reporting import report

__all__ = ["try_vllm"]

_PROMPTS = 2
_BATCH_TOKENS = 48
_NEW_TOKENS = 8


def try_vllm(folder: str) -> dict[str, Any]:
    """Generate and return what it ran on.

    Raises:
        Exception: Whatever vLLM raises: it is broken, or does not work here.
    """
    vllm: Any = importlib.import_module("vllm")
    engine = vllm.LLM(
        model=folder,
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=_PROMPTS,
        num_gpu_blocks_override=16,
        gpu_memory_utilization=0.1,
        disable_log_stats=True,
        seed=0,
    )
    options = vllm.SamplingParams(
        temperature=0.0, max_tokens=_NEW_TOKENS, ignore_eos=True, logprobs=1, detokenize=False
    )
    prompts = [{"prompt_token_ids": list(range(1 + start, 1 + start + _BATCH_TOKENS))} for start in range(_PROMPTS)]
    answers = engine.generate(prompts, options, use_tqdm=False)
    for answer in answers:
        _check(answer.outputs[0])
    config = engine.llm_engine.vllm_config
    kind = str(config.model_config.dtype).removeprefix("torch.")
    device = str(config.device_config.device_type)
    engine.llm_engine.engine_core.shutdown()
    return {"features": f"{kind} on {device}", "gpu_offload": device != "cpu"}


def _check(output: Any) -> None:
    if len(output.token_ids) != _NEW_TOKENS:
        raise ArithmeticError(f"{len(output.token_ids)} tokens were generated, and {_NEW_TOKENS} were asked for")
    for likely in output.logprobs:
        if not all(math.isfinite(entry.logprob) for entry in likely.values()):
            raise ArithmeticError("the logits are not finite numbers")


if __name__ == "__main__":
    report(lambda: try_vllm(sys.argv[1]))
