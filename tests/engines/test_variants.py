"""The variant of a catalogue model that suits a machine."""

from dataclasses import replace

import pytest

from llmrun.engines.selection.variants import choose_variant, estimate_weights_bytes
from llmrun.hardware.types import GPU, CpuInfo, GpuVendor, Machine, MemoryInfo
from llmrun.models.catalogue import Candidate, find_family, resolve_tag
from llmrun.models.types import ModelFormat

GIB = 1 << 30
LAPTOP = Machine(
    system="linux",
    python_version="3.11.0",
    cpu=CpuInfo(
        name=None,
        architecture="x86_64",
        physical_cores=4,
        logical_cores=8,
        affinity=8,
        quota=None,
        isa_flags=frozenset({"avx2"}),
    ),
    memory=MemoryInfo(total_bytes=16 * GIB, available_bytes=16 * GIB),
)
SERVER = replace(
    LAPTOP,
    memory=MemoryInfo(total_bytes=512 * GIB, available_bytes=512 * GIB),
    gpus=(GPU(vendor=GpuVendor.NVIDIA, name="big", total_bytes=140 * GIB, free_bytes=140 * GIB),),
)


def candidates(name: str, tag: str | None = None) -> list[Candidate]:
    return resolve_tag(find_family(name), tag)


def anything(_candidate: Candidate) -> bool:
    return True


def with_memory(gib: float) -> Machine:
    return replace(LAPTOP, memory=MemoryInfo(total_bytes=int(gib * GIB), available_bytes=int(gib * GIB)))


@pytest.mark.parametrize(
    ("machine", "quantization"),
    [
        pytest.param(with_memory(16), "Q8_0", id="16 GiB"),
        pytest.param(with_memory(7), "Q6_K", id="7 GiB"),
        pytest.param(with_memory(3.5), "Q2_K", id="3.5 GiB"),
    ],
)
def test_the_largest_gguf_that_fits(machine: Machine, quantization: str) -> None:
    choice = choose_variant(candidates("llama-2-chat", "7b-gguf"), machine, anything)
    assert choice is not None
    assert (choice.candidate.quantization, choice.fits) == (quantization, True)
    assert choice.need_bytes <= choice.free_bytes


def test_the_smallest_is_named_when_nothing_fits() -> None:
    choice = choose_variant(candidates("llama-2-chat", "7b-gguf"), with_memory(2), anything)
    assert choice is not None
    assert (choice.candidate.quantization, choice.fits) == ("Q2_K", False)


def test_a_gpu_with_room_takes_the_unquantized_weights() -> None:
    choice = choose_variant(candidates("llama-2-chat"), SERVER, anything)
    assert choice is not None
    assert choice.candidate.variant.format is ModelFormat.PYTORCH
    assert choice.candidate.quantization is None


def test_what_no_engine_runs_is_not_chosen() -> None:
    choice = choose_variant(candidates("llama-2-chat"), SERVER, lambda c: c.variant.format is ModelFormat.GGUF)
    assert choice is not None
    assert choice.candidate.variant.format is ModelFormat.GGUF
    assert choose_variant(candidates("llama-2-chat"), SERVER, lambda _candidate: False) is None


def test_the_size_that_was_meant_is_kept() -> None:
    choice = choose_variant(candidates("llama-2-chat", "13b-gguf"), LAPTOP, anything)
    assert choice is not None
    assert choice.candidate.variant.parameters_billion == 13


def test_a_known_file_has_its_known_size() -> None:
    assert estimate_weights_bytes(candidates("smollm2-135m-instruct")[0]) == 98_362_432


def test_every_quantization_of_the_catalogue_has_a_plausible_size() -> None:
    from llmrun.models.catalogue import families

    for family in families():
        for candidate in resolve_tag(family, None):
            bits = estimate_weights_bytes(candidate) * 8 / (candidate.variant.parameters_billion * 1e9)
            assert 1.9 <= bits <= 17, (family.name, candidate)
