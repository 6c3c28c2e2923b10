"""Convert a legacy llama to GGUF, and prove that the result works: `llmrun models convert`.

The new file is read back by llmrun's own reader, and then loaded by llama.cpp in a worker process, which answers a
prompt with one token: only then is it put in place. The legacy file is never touched.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from llmrun.engines.types import EngineName, LoadPlan, SamplingOptions
from llmrun.errors import LlmrunError, ModelFileError, UsageError
from llmrun.models.ggml.convert import LlamaFacts, convert_llama, default_target, read_convertible
from llmrun.models.ggml.info import describe_ggml
from llmrun.models.gguf.info import read_gguf_info
from llmrun.models.types import ModelInfo, Segment
from llmrun.progress import Progress

__all__ = ["ConvertRequest", "Converted", "convert_file"]

_CTRANSFORMERS_EPSILON = 5e-6  # Source: LLAMA_DEFAULT_RMS_EPS in llama-ggml.h of ctransformers 0.2.27
_LLAMA_1_EPSILON, _LLAMA_2_EPSILON = 1e-6, 1e-5  # Source: norm_eps in params.json of the two
_LLAMA_2_CONTEXT, _LLAMA_1_CONTEXT = 4096, 2048
_ROPE_BASE, _CODE_LLAMA_ROPE_BASE = 10_000.0, 1_000_000.0  # Source: rope_theta in params.json of Code Llama
_CODE_LLAMA = re.compile(r"code-?llama", re.IGNORECASE)
_TRIAL_CONTEXT, _TRIAL_PROMPT = 256, "Hello"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertRequest:
    """What was asked for; None stands for what the catalogue or the file's name says."""

    path: Path
    output: Path | None = None
    overwrite: bool = False
    context_length: int | None = None
    rms_epsilon: float | None = None
    rope_base: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The file that was written, what its header says, and whether llama.cpp has run it."""

    path: Path
    info: ModelInfo
    loaded: bool


def convert_file(request: ConvertRequest, *, progress: Progress) -> Converted:
    """Convert a legacy file.

    Raises:
        ModelFileError: It is no llama that can be converted, or the result does not work.
        UsageError: An option is out of range, or the target is there already.
        StorageError: The disk is full, or cannot be written.
    """
    _check(request)
    header = read_convertible(request.path)
    target = request.output or default_target(request.path)
    old = describe_ggml(header, family=_family_of(request.path))
    facts = _facts(request, target, old, progress)
    loaded = False

    def check(path: Path) -> None:
        nonlocal loaded
        _check_same(old, read_gguf_info(path))
        loaded = _try_out(path, progress)

    convert_llama(header, target, facts, overwrite=request.overwrite, progress=progress, check=check)
    return Converted(path=target, info=read_gguf_info(target, family=old.family), loaded=loaded)


def _check(request: ConvertRequest) -> None:
    if request.context_length is not None and not 1 <= request.context_length < 2**31:
        raise UsageError(f"--context-length wants at least 1 token, found {request.context_length}")
    if request.rms_epsilon is not None and not 0 < request.rms_epsilon < 1:
        raise UsageError(f"--rms-epsilon wants a number between 0 and 1, found {request.rms_epsilon}")
    if request.rope_base is not None and not 1 <= request.rope_base < 1e12:
        raise UsageError(f"--rope-base wants a number of at least 1, found {request.rope_base}")


def _family_of(path: Path) -> str | None:
    from llmrun.models.catalogue import family_of_file

    return family_of_file(path.name)


def _facts(request: ConvertRequest, target: Path, old: ModelInfo, progress: Progress) -> LlamaFacts:
    """Fill in what the file does not say, and say aloud what nothing but a habit tells."""
    from llmrun.models.prompt.conversation import choose_template

    second = _is_llama_2(request.path, old)
    epsilon = request.rms_epsilon
    if epsilon is None and (second or old.family):
        epsilon = _LLAMA_2_EPSILON if second else _LLAMA_1_EPSILON
    if epsilon is None:
        epsilon = _CTRANSFORMERS_EPSILON
        progress.note(
            f"the file does not say the epsilon of its norms: {epsilon}, as ctransformers takes for all; "
            "--rms-epsilon 1e-5 is right for Llama 2, 1e-6 for Llama 1"
        )
    context_length = request.context_length or old.context_length
    if context_length is None:
        context_length = _LLAMA_2_CONTEXT if second else _LLAMA_1_CONTEXT
        progress.note(f"the file does not say its context length: {context_length}; --context-length sets another")
    rope_base = request.rope_base or _ROPE_BASE
    if request.rope_base is None and _CODE_LLAMA.search(request.path.name):
        rope_base = _CODE_LLAMA_ROPE_BASE
        progress.note(f"taken for a Code Llama by its name: --rope-base {rope_base:.0f}")
    template = choose_template(old)
    return LlamaFacts(
        name=target.stem,
        context_length=context_length,
        rms_epsilon=epsilon,
        rope_base=rope_base,
        chat_template=template.source if template else None,
    )


def _is_llama_2(path: Path, info: ModelInfo) -> bool:
    """Grouped heads came with Llama 2, and so did the context of 4,096 tokens; else its name says so."""
    grouped = bool(info.kv_heads) and info.kv_heads[0] != info.heads
    named = re.search(r"llama-?2|llama2", info.family or path.name, re.IGNORECASE)
    return grouped or named is not None


def _check_same(old: ModelInfo, new: ModelInfo) -> None:
    """Compare what both headers say of the weights."""
    pairs = (
        ("weights", old.parameters, new.parameters),
        ("bytes of weights", old.tensor_bytes, new.tensor_bytes),
        ("layers", old.layers, new.layers),
        ("tokens", old.vocabulary_size, new.vocabulary_size),
    )
    for name, before, after in pairs:
        if before != after:
            raise ModelFileError(f"the converted file has {after:,} {name}, and the legacy file {before:,}")


def _try_out(path: Path, progress: Progress) -> bool:
    """Run one prompt through llama.cpp; return False where it is not installed.

    Raises:
        ModelFileError: It does not load, or its answer is not one.
    """
    from importlib.util import find_spec

    if find_spec("llama_cpp") is None:
        progress.note("the new file was not run, because llama-cpp is not installed: llmrun install llama-cpp")
        return False
    from llmrun.engines.client import WorkerClient
    from llmrun.hardware.machine import probe_machine

    plan = LoadPlan(
        engine=EngineName.LLAMA_CPP,
        model_path=str(path),
        context_length=_TRIAL_CONTEXT,
        context_is_fixed=True,
        threads=probe_machine().cpu.threads,
    )
    options = SamplingOptions(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=1, seed=0)
    progress.begin("running it once with llama-cpp", None, "steps")
    worker = WorkerClient(EngineName.LLAMA_CPP)
    try:
        worker.load(plan)
        for _event in worker.generate([Segment(text=_TRIAL_PROMPT, special=False)], options):
            progress.advance(1)
    except LlmrunError as error:
        raise ModelFileError(
            f"the converted file does not work with llama-cpp, so it was not kept: {error.message}",
            fix="run the legacy file as it is: --engine ctransformers",
        ) from error
    finally:
        worker.close()
        progress.finish()
    return True
