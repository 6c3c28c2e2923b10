"""Malformed legacy files: every one is refused in one sentence and at once, and chance damage never does harm."""

import itertools
import random
import time
from pathlib import Path

import legacy_faults as faults
import legacy_models as legacy
import pytest

from llmrun.errors import LlmrunError, ModelFileError
from llmrun.models.ggml.info import read_ggml_info

LEAST = 500


@pytest.mark.parametrize(
    ("every", "least"),
    [pytest.param(9, LEAST, id="a ninth"), pytest.param(1, 9 * LEAST, id="all", marks=pytest.mark.slow)],
)
def test_faults_01_to_13_every_malformed_file_is_refused_at_once(tmp_path: Path, every: int, least: int) -> None:
    """In this process; tests/cli/test_legacy_faults.py has the same files through the command."""
    accepted, unclear, slow, count = [], [], [], 0
    path = tmp_path / "m.bin"
    for case in itertools.islice(faults.cases(), 0, None, every):
        path.write_bytes(case.data)
        began = time.process_time()
        try:
            read_ggml_info(path)
            accepted.append(case.name)
        except ModelFileError as error:
            if str(path) not in error.message or "\n" in error.message:
                unclear.append(case.name)
        if time.process_time() - began > 0.5:
            slow.append(case.name)
        count += 1
    assert accepted == []
    assert unclear == []
    assert slow == []
    assert count >= least


@pytest.mark.parametrize("name", legacy.ALL)
def test_any_bit_may_be_turned_over(tmp_path: Path, name: str) -> None:
    """A changed weight, score or letter of a token is nothing that a header shows; but nothing else gets through."""
    data = legacy.write(faults.SMALL[name])
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    sound = read_ggml_info(path)
    noise = random.Random(0)
    for _ in range(60):
        place = noise.choice((noise.randrange(len(data)), noise.randrange(60)))
        path.write_bytes(faults.flipped(data, place, noise.randrange(8)))
        try:
            found = read_ggml_info(path)
        except LlmrunError as error:
            assert isinstance(error, ModelFileError)  # noqa: PT017 - nothing else may come
        else:
            assert (found.parameters, found.tensor_types) == (sound.parameters, sound.tensor_types)


@pytest.mark.parametrize("name", ["llama-ggjt-3", "gpt2", "mpt"])
def test_noise_behind_a_magic(tmp_path: Path, name: str) -> None:
    head = legacy.write(faults.SMALL[name])[:8]
    path = tmp_path / "m.bin"
    for seed in range(20):
        path.write_bytes(head + random.Random(seed).randbytes(5000))
        with pytest.raises(ModelFileError):
            read_ggml_info(path)


def test_a_file_of_zeros_behind_a_sound_beginning_costs_nothing(tmp_path: Path) -> None:
    """A sparse file of a tebibyte: the reader steps, and does not read."""
    path = tmp_path / "m.bin"
    path.write_bytes(legacy.write(faults.SMALL["gpt2"])[:2000])
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    with pytest.raises(ModelFileError):
        read_ggml_info(path)
    assert time.process_time() - began < 0.5
