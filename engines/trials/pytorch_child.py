"""The child process that tries torch and transformers: a tiny Llama with random weights, on every device, in each type.

Called as `python -m llmrun.engines.trials.pytorch_child THREADS`. The processor in float32 is what must work; the other
types and devices are tried too, and what fails there is part of the answer. The model is wide enough (256) that the
matrix libraries take the kernels that they take for real models.
"""

import importlib
import sys
from typing import Any

from llmrun.engines.trials.reporting import report

__all__ = ["try_pytorch"]

_BATCH_TOKENS = 64
_VOCABULARY = 256
_SHAPE = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def try_pytorch(threads: int) -> dict[str, Any]:
    """Run a prompt and one more token in each type on each device, and return what worked.

    Raises:
        Exception: Whatever the packages raise: they are broken, or do not fit together.
    """
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    model = _make_model()
    sentences = [_try_device(torch, model, "cpu", ("float32", "bfloat16"))]
    _require(sentences[0])
    devices = _devices(torch)
    sentences += [_try_device(torch, model, device, ("float32", "bfloat16", "float16")) for device in devices]
    built_for = _built_for(torch)
    if built_for and not devices:
        sentences.append(f"built for {built_for}, and sees no such device")
    return {"features": "; ".join(sentences), "gpu_offload": built_for is not None}


def _make_model() -> Any:
    transformers: Any = importlib.import_module("transformers")
    config = transformers.LlamaConfig(**_SHAPE)
    config._attn_implementation = "sdpa"  # what workers use
    return transformers.LlamaForCausalLM(config).eval()


def _try_device(torch: Any, model: Any, device: str, types: tuple[str, ...]) -> str:
    """Return a sentence such as `float32, bfloat16 on cpu`."""
    works, failed = [], []
    for name in types:
        try:
            _decode(torch, model.to(device=device, dtype=getattr(torch, name)), device)
            works.append(name)
        except Exception as error:  # noqa: BLE001 - what fails here is what is being found out
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            failed.append(f"{name} on {device} fails: {message[:120]}")
    return "; ".join(([f"{', '.join(works)} on {device}"] if works else []) + failed)


def _require(of_processor: str) -> None:
    if not of_processor.startswith("float32"):
        raise SystemExit(of_processor)


def _decode(torch: Any, model: Any, device: str) -> None:
    with torch.inference_mode():
        prompt = torch.arange(_BATCH_TOKENS, device=device).reshape(1, -1)
        first = model(prompt, use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        second = model(token, past_key_values=first.past_key_values, use_cache=True)
        for logits in (first.logits, second.logits):
            if not bool(torch.isfinite(logits).all()):
                raise ArithmeticError("the logits are not finite numbers")


def _devices(torch: Any) -> list[str]:
    """Return the devices besides the processor that this build of torch sees."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found.append("xpu")
    return found


def _built_for(torch: Any) -> str | None:
    """Return what GPUs this build is for, or None for a build for processors."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    if getattr(torch.version, "hip", None):
        return f"ROCm {torch.version.hip}"
    if torch.backends.mps.is_built():
        return "Metal"
    return "XPU" if getattr(torch.version, "xpu", None) else None


if __name__ == "__main__":
    report(lambda: try_pytorch(int(sys.argv[1])))
