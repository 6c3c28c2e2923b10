"""`make gpu-check` on machines that do not exist: what it asks, and what its table says."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_check
import pytest

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.hardware.types import GPU, GpuVendor

H200 = GPU(
    vendor=GpuVendor.NVIDIA,
    name="NVIDIA H200",
    total_bytes=143_771 << 20,
    free_bytes=143_000 << 20,
    compute_capability="9.0",
    driver="580.159",
)
MODELS = {"gguf": "/m.gguf", "folder": "/m"}


def facts(**support: bool | None) -> dict[EngineName, EngineFacts]:
    names = {"llama_cpp": EngineName.LLAMA_CPP, "pytorch": EngineName.PYTORCH, "vllm": EngineName.VLLM}
    return {
        names[name]: EngineFacts(engine=names[name], installed=True, version="1.0", gpu_support=gpu)
        for name, gpu in support.items()
    }


class Program:
    """Answers with three tokens; on the processor the third is another one."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], Mapping[str, str]]] = []

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        self.asked.append((arguments, environment))
        if "pytorch" in arguments and not environment:
            raise RuntimeError("exit code 5: no room")
        last = 3 if environment else 4
        return {
            "logprobs": [{"id": number} for number in (1, 2, last)],
            "timings": {
                "start_seconds": {"spawn": 0.5, "load": 1.5},
                "prefill_tokens_per_second": 1234.5,
                "decode_tokens_per_second": 67.89,
            },
        }


def test_the_table_compares_every_engine_with_the_processor() -> None:
    program = Program()
    answers, notes = gpu_check.check(facts(llama_cpp=True, pytorch=True, vllm=True), MODELS, 3, program)
    assert notes == []
    table = gpu_check.render([H200, H200], answers, notes).splitlines()
    assert "NVIDIA H200, one of 2, compute capability 9.0, driver 580.159" in table[0]
    assert table[4:] == [
        "| llama-cpp | GPU | 2.0 | 1,234 | 67.9 | 2 of 3 |",
        "| llama-cpp | processor | 2.0 | 1,234 | 67.9 | - |",
        "| pytorch | GPU | failed: exit code 5: no room | - | - | - |",
        "| pytorch | processor | 2.0 | 1,234 | 67.9 | - |",
        "| vllm | GPU | 2.0 | 1,234 | 67.9 | 2 of 3 |",
    ]
    on_processor = [arguments for arguments, environment in program.asked if environment]
    assert [arguments[arguments.index("--gpu-layers") + 1] for arguments in on_processor] == ["0", "0"]


def test_what_cannot_use_the_gpu_is_named_and_not_run() -> None:
    program = Program()
    answers, notes = gpu_check.check(facts(llama_cpp=False), {**MODELS, "folder": ""}, 3, program)
    assert answers == program.asked == []
    assert notes == [
        "llama-cpp 1.0 is built without support for this GPU",
        "pytorch is not installed: `llmrun install pytorch`",
        "vllm is not installed: `llmrun install vllm`",
    ]


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        pytest.param([1, 2], [1, 2], 2, id="all"),
        pytest.param([1, 2, 3], [1, 2], 2, id="one goes on"),
        pytest.param([1, 2], [3, 2], 0, id="none"),
        pytest.param([], [1], 0, id="empty"),
    ],
)
def test_agreement(one: list[int], other: list[int], count: int) -> None:
    assert gpu_check.agreement(one, other) == count


def test_without_a_gpu_it_says_so() -> None:
    if any(gpu.vendor is GpuVendor.NVIDIA for gpu in probe_machine().gpus):
        pytest.skip("there is one")
    script = Path(gpu_check.__file__)
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no NVIDIA GPU was found" in done.stderr
