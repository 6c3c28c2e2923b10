"""The estimates held against what llama.cpp really takes, in llmrun's own worker process.

What is measured: the resident memory of the process (VmRSS after a first request, which makes the context, and the high
water mark VmHWM after one with a long prompt), less the bytes of tensors that llama.cpp copied into another layout.
Those tensors are resident twice, as a copy and as pages of the mapped file; the pages are not read again, and the
system takes them back when it needs them, so the plan counts them once. llama.cpp's log says how many bytes it copied.
The KV cache is written whole when the context is made, so a long context need not be filled to be measured.

The bar: 5% after the load, 10% or 64 MiB at the peak.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from random_gguf import Shape, write_random_gguf  # type: ignore[import-not-found, unused-ignore]

from llmrun.engines.client import WorkerClient
from llmrun.engines.memory.needs import MemoryNeed, estimate_kv_bytes, estimate_need
from llmrun.engines.types import Done, EngineName, LoadPlan, SamplingOptions, Segment
from llmrun.models.gguf.info import read_gguf_info

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

MIB = 1 << 20
_COPIES = """
import sys
from llmrun.engines.llama_cpp.native import load_native
api = load_native().api
lines = []
callback = api.llama_log_callback(lambda level, text, data: lines.append(text.decode()))
api.llama_log_set(callback, None)
params = api.llama_model_default_params()
params.n_gpu_layers = 0
api.llama_model_load_from_file(sys.argv[1].encode(), params)
sizes = [line.split() for line in lines if "model buffer size" in line]
print(sum(float(words[-2]) for words in sizes if words[1] not in ("CPU", "CPU_Mapped")))
"""


@dataclass(frozen=True)
class Measured:
    """What a process took: after its first request, at its peak, and how many prompt tokens made the peak."""

    load_bytes: int
    peak_bytes: int
    prompt_tokens: int


def copied_bytes(path: Path) -> int:
    """Return the bytes of tensors that llama.cpp copies into a layout of its own, by its log."""
    done = subprocess.run([sys.executable, "-c", _COPIES, path], capture_output=True, text=True, timeout=60)
    return int(float(done.stdout) * MIB)


def read_status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(field)


class Probe:
    """A worker with a model, whose memory is looked at between requests."""

    def __init__(self, path: Path, context_length: int, kv_type: str, *, fixed: bool = True) -> None:
        self.worker = WorkerClient(EngineName.LLAMA_CPP)
        self.worker.load(
            LoadPlan(
                engine=EngineName.LLAMA_CPP,
                model_path=str(path),
                context_length=context_length,
                context_is_fixed=fixed,
                threads=2,
                kv_type=kv_type,
            )
        )

    def ask(self, digits: int) -> int:
        """Send a prompt that is one token for each digit; return its length in tokens."""
        options = SamplingOptions(
            temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repeat_penalty=1.0, max_tokens=1, seed=0
        )
        segment = Segment(text="7" * digits, special=False)
        *_, done = self.worker.generate([segment], options)
        assert isinstance(done, Done)
        return done.stats.prompt_tokens

    def read(self, field: str) -> int:
        return read_status(self.worker.pid, field)


def measure(path: Path, context_length: int, kv_type: str, digits: int) -> Measured:
    probe = Probe(path, context_length, kv_type)
    try:
        copied = copied_bytes(path)
        probe.ask(1)
        resident = probe.read("VmRSS")
        tokens = probe.ask(digits)
        return Measured(resident - copied, probe.read("VmHWM") - copied, tokens)
    finally:
        probe.worker.close()


def check(need: MemoryNeed, measured: Measured) -> None:
    """Hold an estimate against a measurement; the message has both."""
    mib = [
        round(value / MIB, 1) for value in (need.load_bytes, measured.load_bytes, need.total_bytes, measured.peak_bytes)
    ]
    print("estimated and measured, MiB: load {} {}, peak {} {}".format(*mib))
    assert need.load_bytes == pytest.approx(measured.load_bytes, rel=0.05), mib
    assert need.total_bytes == pytest.approx(measured.peak_bytes, rel=0.10, abs=64 * MIB), mib


@pytest.mark.parametrize(
    ("context_length", "kv_type", "digits"),
    [
        pytest.param(2048, "f16", 2000, id="2048 full"),
        pytest.param(8192, "f16", 1000, id="8192"),
        pytest.param(4096, "q8_0", 600, id="4096 q8_0"),
        pytest.param(8192, "q4_0", 600, id="8192 q4_0"),
    ],
)
def test_a_real_model(real_model: Path, context_length: int, kv_type: str, digits: int) -> None:
    need = estimate_need(read_gguf_info(real_model), context_length, kv_type)
    measured = measure(real_model, context_length, kv_type, digits)
    assert measured.prompt_tokens >= digits
    check(need, measured)


@pytest.mark.parametrize(
    ("shape", "context_length"),
    [
        pytest.param(Shape(), 16384, id="Q8_0"),
        pytest.param(
            Shape(tensor_type="Q4_0", width=1024, heads=16, kv_heads=8, feed_forward=4096, layers=8), 8192, id="Q4_0"
        ),
        pytest.param(
            Shape(tensor_type="Q4_K", width=1024, heads=16, kv_heads=8, feed_forward=4096, layers=8), 8192, id="Q4_K"
        ),
        pytest.param(
            Shape(vocabulary=151_936, width=256, heads=4, kv_heads=2, feed_forward=512, layers=2), 8192, id="vocabulary"
        ),
        pytest.param(
            Shape(architecture="gemma3", layers=12, window=512, kv_heads=8, feed_forward=1024), 16384, id="window"
        ),
        pytest.param(Shape(architecture="qwen3moe", experts=64, experts_used=8, feed_forward=512), 8192, id="experts"),
        pytest.param(Shape(heads=32, kv_heads=8, feed_forward=512), 8192, id="wide attention"),
    ],
)
def test_a_shape(tmp_path: Path, shape: Shape, context_length: int) -> None:
    path = write_random_gguf(tmp_path / "random.gguf", shape)
    need = estimate_need(read_gguf_info(path), context_length)
    check(need, measure(path, context_length, "f16", 1900))


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[Path, Probe]]:
    path = write_random_gguf(
        tmp_path / "growing.gguf", Shape(width=256, heads=8, kv_heads=8, head_length=128, feed_forward=512)
    )
    probe = Probe(path, 8192, "f16", fixed=False)
    yield path, probe
    probe.worker.close()


def test_a_context_that_grows_takes_its_copy_in_addition(growing: tuple[Path, Probe]) -> None:
    path, probe = growing
    info = read_gguf_info(path)
    probe.ask(4500)
    assert probe.read("VmRSS") < estimate_need(info, 5120).total_bytes * 1.05
    probe.ask(7900)
    peak = probe.read("VmHWM")
    copied = estimate_kv_bytes(info, 4608)
    assert copied > 64 * MIB, "the copy must be large enough to be seen"
    assert peak <= estimate_need(info, 8192).total_bytes + copied
    assert peak > estimate_need(info, 8192).load_bytes
