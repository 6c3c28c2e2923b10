"""Buffers of the library that an evaluation must not overrun, which of its builds is loaded, threads that give way."""

import subprocess
import sys
from pathlib import Path

import legacy_models as legacy
import pytest

from llmrun.engines.ctransformers.library import choose_build
from llmrun.engines.ctransformers.limits import heed
from llmrun.engines.ctransformers.room import EvaluationRoom
from llmrun.engines.ctransformers.threads import ComputeThreads
from llmrun.engines.memory.ctransformers import divide
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.hardware.machine import probe_machine
from llmrun.models.ggml.info import read_ggml_info
from llmrun.models.ggml.types import GgmlShape

PROGRAM = """
import sys
from pathlib import Path
from llmrun.engines.ctransformers.library import Model, load_package
from llmrun.engines.ctransformers.room import EvaluationRoom
from llmrun.models.ggml.header import read_ggml_header
path, context, grows = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "grows"
model = Model(load_package(), str(path), "gpt2", context_length=context, threads=1, batch_tokens=512)
room = EvaluationRoom("gpt2", read_ggml_header(path).shape, context)
model.make_room(room.growth()) if grows else model.process([1])
for position in (0, context // 2, context - 1):
    model.processed = [0] * position
    model.process([1] * min(room.most_tokens(position), context - position))
print("computed")
"""


def shape(vocabulary: int, width: int, heads: int, layers: int) -> GgmlShape:
    return GgmlShape(vocabulary=vocabulary, width=width, heads=heads, layers=layers, file_type=2)


@pytest.mark.ctransformers
def test_the_end_of_a_long_context_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPT-2 of many layers: a token at the end of its context takes more than the 256 MiB that the pool has at first.

    Without more room the library is killed by its own access: the bound is not far from what is needed.
    """
    context = 8192
    monkeypatch.setattr(legacy, "CONTEXT", context)
    path = tmp_path / "deep.bin"
    path.write_bytes(legacy.write(legacy.Legacy(model_type="gpt2", file_type=2002, width=128, layers=64)))
    codes = []
    for grows in ("grows", "stays"):
        command = [sys.executable, "-c", PROGRAM, str(path), str(context), grows]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        codes.append((done.returncode < 0, done.stdout.endswith("computed\n")))
    assert codes == [(False, True), (True, False)]


@pytest.mark.parametrize(
    ("kind", "model", "context", "first", "last", "usable", "grows"),
    [
        pytest.param("gpt2", shape(50_257, 768, 12, 12), 1024, 90, 50, 1024, False, id="GPT-2"),
        pytest.param("gpt2", shape(50_257, 5120, 40, 40), 2048, 10, 3, 2048, True, id="Cerebras-GPT 13B"),
        pytest.param("gptj", shape(50_400, 4096, 16, 28), 2048, 8, 8, 2048, False, id="GPT-J"),
        pytest.param("dolly-v2", shape(50_280, 5120, 40, 36), 2048, 6, 4, 2048, False, id="Dolly 12B"),
        pytest.param("starcoder", shape(49_152, 6144, 48, 40), 8192, 162, 15, 8192, False, id="StarCoder"),
        pytest.param("mpt", shape(50_432, 4096, 32, 32), 65_536, 216, 1, 28_318, False, id="MPT StoryWriter"),
        pytest.param("replit", shape(32_768, 2560, 32, 32), 2048, 4, 4, 2048, True, id="Replit 3B"),
        pytest.param("llama", shape(32_000, 4096, 32, 32), 4096, 512, 512, 4096, False, id="LLaMA 7B"),
    ],
)
def test_published_models(
    kind: str, model: GgmlShape, context: int, first: int, last: int, usable: int, grows: bool
) -> None:
    room = EvaluationRoom(kind, model, context)
    assert (room.most_tokens(0), room.most_tokens(context - 1)) == (first, last)
    assert (room.usable_context(), room.growth() is not None) == (usable, grows)


@pytest.mark.parametrize(
    ("flags", "architecture", "gpu", "build"),
    [
        ({"avx", "f16c", "avx2"}, "x86_64", False, "avx2"),
        ({"avx", "f16c"}, "x86_64", False, "avx"),
        ({"avx"}, "x86_64", False, "basic"),
        ({"avx2"}, "x86_64", True, None),
        ({"asimd"}, "arm64", False, None),
        (set(), "x86_64", False, None),
    ],
)
def test_which_build(tmp_path: Path, flags: set[str], architecture: str, gpu: bool, build: str | None) -> None:
    assert choose_build(tmp_path, frozenset(flags), architecture, gpu=gpu) == build


def test_a_build_of_the_users_own_comes_first(tmp_path: Path) -> None:
    (tmp_path / "lib" / "local").mkdir(parents=True)
    assert choose_build(tmp_path, frozenset({"avx2"}), "x86_64", gpu=False) == "local"


def threads_after(plan: LoadPlan, monkeypatch: pytest.MonkeyPatch, share: float) -> int:
    """Compute for half a minute with threads that get this share of their cores; a lone one gets all of its own."""
    clock, processor = [0.0], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.process_time", lambda: processor[0])
    followed = ComputeThreads(plan)

    def compute() -> None:
        alone = followed.now == 1
        seconds = 0.02 if alone else 0.01 / share**4
        clock[0] += seconds
        processor[0] += seconds * followed.now * (1.0 if alone else share)

    followed.begin(prompt=True)
    for _ in range(20):
        followed.timed(compute, 16, prompt=True)
    followed.begin(prompt=False)
    counts = []
    for _ in range(400):
        followed.timed(compute, 1, prompt=False)
        counts.append(followed.now)
    return sorted(counts)[len(counts) // 2]


def test_threads_give_way_to_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = LoadPlan(engine=EngineName.CTRANSFORMERS, model_path="m", context_length=64, threads=2)
    assert threads_after(plan, monkeypatch, 1.0) == 2
    assert threads_after(plan, monkeypatch, 0.6) == 1
    fixed = LoadPlan(
        engine=EngineName.CTRANSFORMERS, model_path="m", context_length=64, threads=2, threads_are_fixed=True
    )
    assert threads_after(fixed, monkeypatch, 0.6) == 2


@pytest.mark.parametrize(
    ("name", "asked", "expected", "notices"),
    [("gpt2", 1000, 64, 1), ("gpt2", 50, 50, 0), ("mpt", 1000, 64, 1), ("llama-ggjt-3", 1000, 1000, 0)],
)
def test_a_context_that_the_file_fixes(tmp_path: Path, name: str, asked: int, expected: int, notices: int) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(legacy.write(legacy.ALL[name]))
    request, said = heed(read_ggml_info(path), probe_machine(), PlanRequest(context_length=asked))
    assert (request.context_length, len(said)) == (expected, notices)


@pytest.mark.parametrize(("name", "element_bytes"), [("gpt2", 4), ("starcoder", 4), ("gptj", 2), ("mpt", 2)])
def test_the_cache_of_some_types_has_32_bits(tmp_path: Path, name: str, element_bytes: int) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(legacy.write(legacy.ALL[name]))
    need = divide(read_ggml_info(path), 256).need
    assert need.kv_bytes == 2 * legacy.LAYERS * 256 * legacy.WIDTH * element_bytes
