"""The parts of a measurement that need no engine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmrun.engines.measure.bench import Row
from llmrun.engines.measure.candidates import ModelIdentity
from llmrun.engines.measure.contention import Contention, ContentionWatch, is_disturbed
from llmrun.engines.measure.energy import EnergyMeter
from llmrun.engines.measure.limits import decode_bytes, prefill_operations
from llmrun.engines.measure.memory import process_tree, tree_peak
from llmrun.engines.measure.points import Point, Setup, Sizes, Sweep, check_sizes, request_for
from llmrun.engines.measure.result import find_warnings
from llmrun.engines.measure.run import Measured, decode_rate_of_many
from llmrun.engines.measure.samples import Metric
from llmrun.engines.measure.workload import Workload
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.types import EngineName, Segment
from llmrun.errors import NotEnoughMemoryError, UsageError
from llmrun.models.types import ModelFormat, ModelInfo

SETUP = Setup(engine=EngineName.LLAMA_CPP, threads=2)


def model(**changes: Any) -> ModelInfo:
    """Return a small Llama: two layers, two KV heads of 8, 1000 tokens, a context of 2048."""
    values: dict[str, Any] = {
        "format": ModelFormat.GGUF,
        "architecture": "llama",
        "parameters": 1_000_000,
        "quantization": "F16",
        "context_length": 2048,
        "layers": 2,
        "embedding_length": 32,
        "heads": 4,
        "kv_heads": (2, 2),
        "key_length": 8,
        "value_length": 8,
        "vocabulary_size": 1000,
        "tensor_bytes": 2_000_000,
        "tensor_types": (("F16", 2_000_000),),
    }
    return ModelInfo(**(values | changes))


def row(samples: dict[Metric, tuple[float, ...]], *, depth: int = 0, cached: int = 0, **seen: Any) -> Row:
    contention = Contention(seconds=1.0, **({"stolen_cores": 0.0, "other_cores": 0.0} | seen))
    return Row(
        model=ModelIdentity(
            reference="m",
            path="m",
            digest="d",
            format="gguf",
            architecture="llama",
            quantization=None,
            parameters=1,
            size_bytes=1,
        ),
        point=Point(setup=SETUP, sizes=Sizes(prompt_tokens=8, answer_tokens=8, depth=depth)),
        samples=samples,
        measured=Measured(
            samples={}, peak_memory_bytes=1, gpu_memory_bytes=None, cached_tokens=cached, contention=contention
        ),
    )


def test_a_sweep_is_every_value_with_every_other() -> None:
    sweep = Sweep(prompt_tokens=(64, 128), depths=(0, 256), threads=(1, 2), kv_types=("f16", "q8_0"))
    assert len(list(sweep.setups(EngineName.LLAMA_CPP, 4))) == 4
    assert [(sizes.prompt_tokens, sizes.depth) for sizes in sweep.sizes()] == [(64, 0), (128, 0), (64, 256), (128, 256)]
    (only,) = Sweep().setups(EngineName.PYTORCH, 4)
    assert (only.threads, only.parallel, only.gpu_layers) == (4, 1, None)


def test_the_context_holds_the_depth_and_the_longer_part() -> None:
    assert Sizes(prompt_tokens=512, answer_tokens=128).context_length() == 513
    assert Sizes(prompt_tokens=0, answer_tokens=128, depth=100).context_length() == 229
    assert Sizes(prompt_tokens=512, answer_tokens=128, depth=100).context_length(4) == 741  # whole requests, too
    sizes = [Sizes(prompt_tokens=512, answer_tokens=128)]
    one = request_for(SETUP, sizes, PlanRequest())
    four = request_for(Setup(engine=EngineName.LLAMA_CPP, threads=2, parallel=4), sizes, PlanRequest())
    assert (one.context_length, one.lookup, one.cache, one.threads) == (513, "off", False, 2)
    assert four.context_length == 4 * 768  # llama.cpp's cells come in multiples of 256


@pytest.mark.parametrize(
    ("sweep", "error", "words"),
    [
        pytest.param(Sweep(prompt_tokens=(2048,)), NotEnoughMemoryError, "2,049 tokens", id="a prompt of the context"),
        pytest.param(Sweep(depths=(0, 1900)), NotEnoughMemoryError, "-d 1535 fits", id="too deep"),
        pytest.param(Sweep(answer_tokens=(1,)), UsageError, "-n 1", id="one token has no rate"),
        pytest.param(Sweep(prompt_tokens=(0,), answer_tokens=(0,)), UsageError, "nothing", id="nothing to measure"),
    ],
)
def test_sizes_that_cannot_be_measured(sweep: Sweep, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        check_sizes(sweep, model(), "model.gguf")
    assert words in f"{raised.value} {getattr(raised.value, 'fix', '')}"


def test_what_is_said_to_fit_does() -> None:
    check_sizes(Sweep(depths=(1535,)), model(), "model.gguf")
    check_sizes(Sweep(prompt_tokens=(2047,)), model(), "model.gguf")


def test_prompts_begin_differently_and_are_the_same_in_the_next_process() -> None:
    def tokenize(segments: Any) -> list[int]:
        assert segments == [Segment(text=segments[0].text, special=False)]
        return [len(word) * 1000 + index for index, word in enumerate(segments[0].text.split())]

    first, second = Workload.from_tokenizer(tokenize), Workload.from_tokenizer(tokenize)
    prompts = [first.fresh(600) for _ in range(50)]
    assert prompts == [second.fresh(600) for _ in range(50)]
    assert len({prompt[0] for prompt in prompts}) == 50
    assert all(len(prompt) == 600 for prompt in prompts)
    assert first.depth(100) == first.depth(200)[:100]
    assert len(first.fresh(10_000)) == 10_000
    assert first.digest == second.digest == Workload(first.tokens).digest
    assert first.digest != Workload([1, 2, 3]).digest


def test_several_answers_count_while_all_of_them_are_written() -> None:
    assert decode_rate_of_many([[0.0, 1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 2.5, 3.5]]) == pytest.approx(6 / 3)
    one_after_another = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert decode_rate_of_many(one_after_another) == pytest.approx(5 / 5)


def test_a_step_reads_the_weights_and_the_cache() -> None:
    weights = 2_000_000  # the table of embeddings is too small a part of the model to be one that the output shares
    table = 1000 * 32 * 2
    assert decode_bytes(EngineName.LLAMA_CPP, model(), "f16", 0) == weights - table
    kept = decode_bytes(EngineName.LLAMA_CPP, model(), "f16", 100) - (weights - table)
    assert kept == 100 * 2 * 2 * 16 * 2
    quantized = decode_bytes(EngineName.LLAMA_CPP, model(), "q8_0", 100) - (weights - table)
    assert quantized == pytest.approx(kept * 34 / 64)


def test_a_prompts_token_is_multiplied_by_all_but_the_tables() -> None:
    weights = 1_000_000 - 2 * 32_000
    assert prefill_operations(EngineName.LLAMA_CPP, model(), 0) == 2 * weights
    assert prefill_operations(EngineName.LLAMA_CPP, model(), 100) == 2 * weights + 2 * 4 * 16 * 100 * 2


def test_what_other_programs_and_the_host_took_is_seen(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 1000 9000 0 0 0 100 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    watch = ContentionWatch([], stat)
    stat.write_text("cpu  901000 0 1000 9000 0 0 0 50100 0 0\n")
    seen = watch.end([])
    assert seen.other_cores is not None
    assert seen.stolen_cores is not None
    assert seen.stolen_cores * seen.seconds == pytest.approx(500)
    assert 0 < seen.other_cores * seen.seconds <= 9000
    assert is_disturbed(seen)


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    seen = ContentionWatch([], tmp_path / "stat").end([])
    assert seen.stolen_cores is None
    assert seen.seconds > 0


def test_energy_counts_packages_and_wraps(tmp_path: Path) -> None:
    for zone, value in (("intel-rapl:0", 900), ("intel-rapl:0:0", 5), ("intel-rapl:1", 10)):
        folder = tmp_path / zone
        folder.mkdir()
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("999\n")
    meter = EnergyMeter(powercap=tmp_path)
    before = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("60\n")
    assert meter.joules_since(before) == pytest.approx((200 + 50) / 1e6)
    assert meter.source == "processor packages (RAPL)"
    nothing = EnergyMeter(powercap=tmp_path / "none")
    assert (nothing.source, nothing.joules_since(nothing.read())) == (None, None)


def test_the_peak_of_a_process_and_its_children_is_seen() -> None:
    program = "import subprocess, sys; data = b'x' * (64 << 20); print(len(data), flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        pids = process_tree(process.pid)
        peak = tree_peak(pids)
        process.stdin.close()
        process.wait(timeout=10)
    assert len(pids) == 2
    assert (64 << 20) < peak < (160 << 20)
    assert process_tree(process.pid) == []


def test_noise_disturbance_and_lost_depth_are_said() -> None:
    quiet = row({Metric.DECODE: (100.0, 101.0, 99.0), Metric.PREFILL: (500.0, 500.5, 499.0)})
    assert find_warnings(quiet) == []
    noisy = row({Metric.DECODE: (100.0, 150.0, 60.0), Metric.PREFILL: (500.0, 500.5, 499.0)})
    (warning,) = find_warnings(noisy)
    assert warning.startswith("too noisy to mean anything: decode")
    disturbed = row({}, other_cores=0.9, others=(("cc1plus", 0.8),))
    assert find_warnings(disturbed) == ["disturbed: other programs used 0.90 cores (cc1plus 0.80)"]
    assert find_warnings(row({}, stolen_cores=0.5)) == [
        "disturbed: other programs used 0.00 cores; 0.50 cores were stolen by the host"
    ]
    assert find_warnings(row({}, depth=300, cached=256)) == [
        "44 tokens of the depth were processed again, and count as prompt"
    ]
