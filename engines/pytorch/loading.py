"""From the files of a model to the model on a device, with the checks that transformers leaves out.

transformers gives a tensor that is missing or has another shape random numbers and goes on; here that is an error. No
code of the model's own is run, and no pickle is read, unless the plan says so. Attention is scaled dot-product ("sdpa")
whatever the configuration asks for: written out, it takes a matrix of n² numbers for every head.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrun.engines.old_families.mapping import find_mapping
from llmrun.engines.old_families.model import load_llama
from llmrun.engines.types import LoadPlan
from llmrun.errors import LlmrunError, ModelFileError, NotEnoughMemoryError, SecurityError, UsageError

__all__ = ["choose_device", "choose_dtype", "load_model"]

FLOAT32_PARAMETERS = 1_000_000_000
"""Up to so many weights, a processor without instructions for bfloat16 computes in float32 what is stored in 16 bits.
With them, 16 bits are faster for every size (1.5 times for SmolLM2 on AVX512_BF16), and half as large."""
_SHOWN_NAMES = 3


def choose_device(torch: Any, plan: LoadPlan) -> str:
    """Return the best kind of device that this build of torch sees, or the processor where the plan wants that."""
    if torch.cuda.is_available():
        return "cpu" if plan.gpu_layers == 0 else "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    return "cpu"


def choose_dtype(torch: Any, plan: LoadPlan, device: str, stored: str | None, parameters: int) -> Any:
    """Return the type to compute in.

    Args:
        torch: The library.
        plan: `dtype` as asked for, or `auto`.
        device: From `choose_device`.
        stored: The type that config.json names.
        parameters: Number of weights.
    """
    if plan.dtype != "auto":
        return getattr(torch, plan.dtype)
    if device == "cpu":
        small = parameters <= FLOAT32_PARAMETERS and not _computes_bfloat16(torch)
        return torch.float32 if small or stored in (None, "float32", "float64") else torch.bfloat16
    if device == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.float16 if stored == "float16" else torch.bfloat16


def _computes_bfloat16(torch: Any) -> bool:
    """Return whether the processor has instructions for it."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def load_model(torch: Any, plan: LoadPlan, device: str, progress: Callable[[float], None]) -> Any:
    """Return the model, ready to run.

    Raises:
        ModelFileError: Tensors are missing or of another shape, or transformers refuses the files.
        NotEnoughMemoryError: There is no room for the weights.
        SecurityError: It needs what was not asked for: its own code, or pickles.
        UsageError: A quantization that is not possible here.
    """
    path = Path(plan.model_path)
    mapping = find_mapping(path) if path.is_dir() else None
    try:
        if mapping is not None and plan.quantization is None:
            dtype = choose_dtype(torch, plan, device, None, plan.estimated_bytes // 2)
            return load_llama(path, mapping, dtype=dtype, device=device, pickle=plan.pickle, progress=progress).eval()
        return _load_by_library(torch, plan, path, device).eval()
    except LlmrunError:
        raise
    except MemoryError as error:
        raise NotEnoughMemoryError(f"pytorch has no room for {path}") from error
    except Exception as error:
        raise _load_error(path, error) from error


def _load_by_library(torch: Any, plan: LoadPlan, path: Path, device: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, gguf = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    common = {"local_files_only": True, "trust_remote_code": plan.remote_code, **gguf}
    config = transformers.AutoConfig.from_pretrained(str(folder), **common)
    stored = str(getattr(config, "dtype", None) or "").removeprefix("torch.") or None
    dtype = choose_dtype(torch, plan, device, stored, _count_parameters(path))
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        use_safetensors=None if plan.pickle else True,
        **_placement(plan, device),
        **_quantization(torch, plan, device),
        **common,
    )
    _check_loaded(path, found)
    return model


def _count_parameters(path: Path) -> int:
    """Return about how many weights the files hold, 16 bits each."""
    files = path.glob("*.safetensors") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files) // 2


def _placement(plan: LoadPlan, device: str) -> dict[str, Any]:
    """Return where the weights go: all on the device if the plan says so, else as much of them as fits."""
    if device == "cpu":
        return {}
    whole = plan.gpu_layers == -1 and plan.gpus <= 1
    return {"device_map": {"": device} if whole else "auto"}


def _quantization(torch: Any, plan: LoadPlan, device: str) -> dict[str, Any]:
    if plan.quantization is None:
        return {}
    if device == "cpu" or not _is_installed("bitsandbytes"):
        where = "quantizes for GPUs only" if device == "cpu" else "is not installed"
        raise UsageError(
            f"--quantization {plan.quantization} is done by bitsandbytes, which {where}",
            fix="a GGUF file of the model, quantized already, runs on llama-cpp"
            if device == "cpu"
            else "python -m pip install bitsandbytes",
        )
    transformers: Any = importlib.import_module("transformers")
    four = plan.quantization == "4-bit"
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config}


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _check_loaded(path: Path, found: Any) -> None:
    """Refuse a model of which a part is random numbers."""
    missing = sorted(found.get("missing_keys") or ())
    odd = sorted(_describe_mismatch(each) for each in found.get("mismatched_keys") or ())
    for names, what in ((missing, "has no tensor"), (odd, "does not fit its config.json:")):
        if names:
            more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
            raise ModelFileError(
                f"{path} {what} {', '.join(names[:_SHOWN_NAMES])}{more}", fix="download the model again"
            )


def _describe_mismatch(entry: Any) -> str:
    """Return what transformers says of a tensor of another shape: its name, and mostly both shapes."""
    if not isinstance(entry, tuple) or len(entry) < 3:
        return str(entry[0] if isinstance(entry, tuple) else entry)
    name, is_there, wanted = entry[:3]
    return f"{name} is {tuple(is_there)}, and has to be {tuple(wanted)}"


def _load_error(path: Path, error: Exception) -> LlmrunError:
    """Return what an error of transformers stands for."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0][:300]
    low = str(error).lower()
    if "trust_remote_code" in low:
        return SecurityError(
            f"{path} needs the code that it brings along, which is not run unasked",
            fix="--trust-remote-code runs that code, with all your rights",
        )
    if "out of memory" in low or "can't allocate memory" in low:
        return NotEnoughMemoryError(f"pytorch has no room for {path}: {text}")
    if "no file named model.safetensors" in low or "weights_only" in low:
        return SecurityError(
            f"the only weights of {path} are pickles, which can run code: they are not read unasked",
            fix="--allow-pickle reads them",
        )
    return ModelFileError(f"transformers refused {path}: {text}")
