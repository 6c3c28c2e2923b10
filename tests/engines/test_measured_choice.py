"""What was measured decides which engine is chosen, if it is real, and until anything that it depends on changes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selection_cases import ALL, GGUF, LAPTOP, LLAMA, LLAMA_CPP, PYTORCH, VLLM, engines

from llmrun.engines.installed.facts import EngineFacts, assume_engine
from llmrun.engines.measure.bench import Row
from llmrun.engines.measure.candidates import identify
from llmrun.engines.measure.points import Point, Setup, Sizes
from llmrun.engines.measure.samples import Metric
from llmrun.engines.measure.speeds import MeasuredSpeed, choose_measured, explain_measured, faster_sibling
from llmrun.engines.measure.store import find_siblings, keep_rows, keep_speed, kept_speeds
from llmrun.engines.selection.select import select_engine
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.models.reference import parse_reference
from llmrun.models.types import LocalModel, ModelFile, ModelFormat, ModelInfo


def speed(engine: EngineName, decode: float, *, load: float = 0.1, noise: float = 0.01, **more: Any) -> MeasuredSpeed:
    rates = tuple(decode * (1 + noise * step) for step in (-1, -0.5, 0, 0.5, 1))
    values: dict[str, Any] = {
        "engine": engine,
        "created": "2026-11-20",
        "load_seconds": load,
        "prompt_tokens": 256,
        "answer_tokens": 64,
        "prefill": tuple(10 * rate for rate in rates),
        "decode": rates,
    }
    return MeasuredSpeed(**(values | more))


def measured(*speeds: MeasuredSpeed) -> dict[EngineName, MeasuredSpeed]:
    return {each.engine: each for each in speeds}


@pytest.mark.parametrize(
    ("speeds", "chosen", "because"),
    [
        pytest.param((), LLAMA_CPP, "the fastest engine for gguf files", id="nothing measured"),
        pytest.param(
            (speed(PYTORCH, 90),), LLAMA_CPP, "the fastest engine for gguf files", id="the first was not measured"
        ),
        pytest.param(
            (speed(LLAMA_CPP, 28.9), speed(PYTORCH, 41.2)),
            PYTORCH,
            "measured 41.2 against 28.9 tokens/s on 2026-11-20",
            id="another is faster",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 41.2), speed(PYTORCH, 28.9)),
            LLAMA_CPP,
            "measured 41.2 against 28.9 tokens/s on 2026-11-20",
            id="the first is faster",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 40, noise=0.4), speed(PYTORCH, 44, noise=0.4)),
            LLAMA_CPP,
            "no difference to pytorch was measured that the machine or chance cannot have made: ",
            id="within the noise",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 40, noise=0.0001), speed(PYTORCH, 40.4, noise=0.0001)),
            LLAMA_CPP,
            "",
            id="within what runs differ by",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 30, memory_seen=(40e9, 41e9)), speed(PYTORCH, 40, memory_seen=(39e9,))),
            PYTORCH,
            "measured 40.0 against 30.0 tokens/s",
            id="the machine stayed the same",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 30, memory_seen=(30e9, 41e9)), speed(PYTORCH, 40, memory_seen=(39e9,))),
            LLAMA_CPP,
            "no difference to pytorch was measured",
            id="the machine itself changed by more",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 40), speed(PYTORCH, 50, load=30.0)),
            LLAMA_CPP,
            "s to load",
            id="it takes too long to load",
        ),
        pytest.param(
            (speed(LLAMA_CPP, 40), speed(PYTORCH, 50, answer_tokens=8)), LLAMA_CPP, "the fastest", id="of other sizes"
        ),
        pytest.param(
            (speed(LLAMA_CPP, 40), speed(EngineName.VLLM, 90)), LLAMA_CPP, "the fastest", id="one that cannot run it"
        ),
    ],
)
def test_what_was_measured_beats_the_rules(speeds: tuple[MeasuredSpeed, ...], chosen: EngineName, because: str) -> None:
    found = select_engine(GGUF, LAPTOP, ALL, speeds=measured(*speeds))
    assert found.chosen is chosen
    assert because in found.because


def test_vllm_on_a_processor_may_be_the_faster_one() -> None:
    cpu_build = engines(PYTORCH, VLLM, vllm=replace(assume_engine(VLLM), gpu_support=False))
    faster = measured(speed(PYTORCH, 30, load=4), speed(VLLM, 60, load=4))
    assert select_engine(LLAMA, LAPTOP, cpu_build).chosen is PYTORCH
    assert select_engine(LLAMA, LAPTOP, cpu_build, speeds=faster).chosen is VLLM
    slow_start = measured(speed(PYTORCH, 30, load=4), speed(VLLM, 60, load=25))
    assert select_engine(LLAMA, LAPTOP, cpu_build, speeds=slow_start).chosen is PYTORCH


def test_what_was_asked_for_is_taken_whatever_was_measured() -> None:
    faster = measured(speed(LLAMA_CPP, 20), speed(PYTORCH, 60))
    assert select_engine(GGUF, LAPTOP, ALL, forced=LLAMA_CPP, speeds=faster).chosen is LLAMA_CPP


def test_the_reason_names_what_decided() -> None:
    quick, strong = speed(LLAMA_CPP, 40, load=0.1), speed(PYTORCH, 50, load=30.0)
    assert choose_measured(LLAMA_CPP, [PYTORCH], measured(quick, strong)) is LLAMA_CPP
    assert "to load, read 256 tokens and write 64" in (explain_measured(quick, strong) or "")


def test_a_faster_quantization_is_found_only_if_it_is_real() -> None:
    own = speed(LLAMA_CPP, 30)
    same, faster = speed(LLAMA_CPP, 30.3), speed(LLAMA_CPP, 41)
    assert faster_sibling(own, [same]) is None
    assert faster_sibling(own, [same, faster]) is faster


INFO = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    name="Small",
    parameters=1000,
    quantization="Q4_K_M",
    context_length=64,
    layers=1,
    embedding_length=8,
    heads=1,
    kv_heads=(1,),
    key_length=8,
    value_length=8,
    vocabulary_size=10,
    tensor_bytes=1000,
    tensor_types=(("Q4_K", 1000),),
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    return local(tmp_path / "model.gguf")


def local(path: Path, sha256: str | None = None) -> LocalModel:
    if not path.exists():
        path.write_bytes(b"x" * 100)
    file = ModelFile(path=path, size_bytes=100, sha256=sha256)
    return LocalModel(ref=parse_reference(str(path)), path=path, files=(file,))


FACTS = EngineFacts(engine=LLAMA_CPP, installed=True, version="1", stamp="a")


def found(model: LocalModel, facts: EngineFacts = FACTS, machine: Machine = LAPTOP) -> dict[EngineName, MeasuredSpeed]:
    return kept_speeds(model, {facts.engine: facts}, machine)


def test_a_measurement_is_found_again(model: LocalModel) -> None:
    kept = speed(LLAMA_CPP, 40)
    assert found(model) == {}
    keep_speed(kept, model, INFO, FACTS, LAPTOP)
    assert found(model) == {LLAMA_CPP: kept}


@pytest.mark.parametrize(
    ("answer_tokens", "kept"), [pytest.param(4096, True, id="little of it"), pytest.param(16, False, id="most of it")]
)
def test_noise_counts_by_the_time_of_a_whole_request(model: LocalModel, answer_tokens: int, kept: bool) -> None:
    setup = Setup(engine=LLAMA_CPP, threads=LAPTOP.cpu.threads)
    samples = {Metric.PREFILL: (900.0, 300.0, 1500.0), Metric.DECODE: (40.0, 40.1, 39.9), Metric.LOAD: (0.1,)}
    row = Row(
        model=identify(model, INFO),
        point=Point(setup=setup, sizes=Sizes(prompt_tokens=512, answer_tokens=answer_tokens)),
        samples=samples,
    )
    models = {row.model.digest: (model, INFO)}
    (said,) = keep_rows(
        [row], models, {LLAMA_CPP: FACTS}, LAPTOP, "2026-11-20", memory_seen={setup.threads: (4e10, 3e10)}
    )
    assert ("is kept" in said) is kept
    if kept:
        assert found(model)[LLAMA_CPP].memory_seen == (4e10, 3e10)


def test_it_is_forgotten_when_anything_that_it_depends_on_changes(model: LocalModel) -> None:
    keep_speed(speed(LLAMA_CPP, 40), model, INFO, FACTS, LAPTOP)
    assert found(model, replace(FACTS, version="2")) == {}
    assert found(model, replace(FACTS, stamp="b")) == {}
    assert found(model, replace(FACTS, installed=False)) == {}
    assert found(model, replace(FACTS, engine=PYTORCH)) == {}
    cpu = replace(LAPTOP.cpu, affinity=1)
    assert found(model, machine=replace(LAPTOP, cpu=cpu)) == {}
    assert found(model, machine=replace(LAPTOP, cpu=replace(LAPTOP.cpu, name="another"))) == {}
    assert found(model) != {}
    os.utime(model.path, ns=(1, 1))
    assert found(model) == {}


def test_the_same_contents_are_known_in_another_place(model: LocalModel, tmp_path: Path) -> None:
    keep_speed(speed(LLAMA_CPP, 40), replace(model, files=local(model.path, "ab").files), INFO, FACTS, LAPTOP)
    assert found(local(tmp_path / "copy.gguf", "ab")) != {}
    assert found(local(tmp_path / "other.gguf", "cd")) == {}


def test_a_damaged_record_is_none(model: LocalModel, tmp_path: Path) -> None:
    keep_speed(speed(LLAMA_CPP, 40), model, INFO, FACTS, LAPTOP)
    (file,) = (tmp_path / "cache" / "measured").glob("*.json")
    good = file.read_text()
    changes = (
        ('"decode": [', '"decode": ["x", '),
        ('"decode": [', '"decode": [1, '),  # one more than of the prompts
        ('"prompt_tokens": 256', '"prompt_tokens": Infinity'),
        ('"answer_tokens": 64', '"answer_tokens": -1'),
        ('"load_seconds": 0.1', '"load_seconds": NaN'),
        ('"created": "2026-11-20"', '"created": "soon"'),
        ('"created": "2026-11-20"', '"created": 1'),
    )
    assert all(old in good for old, _ in changes)
    for damaged in (*(good.replace(*change) for change in changes), good[:50], "[]", "[" * 100_000):
        file.write_text(damaged)
        assert found(model) == {}
        assert find_siblings(local(tmp_path / "other.gguf"), INFO, FACTS, LAPTOP) == []


def test_other_quantizations_of_the_model_are_found(model: LocalModel, tmp_path: Path) -> None:
    other = local(tmp_path / "model-q8.gguf")
    keep_speed(speed(LLAMA_CPP, 41), other, replace(INFO, quantization="Q8_0", tensor_bytes=2000), FACTS, LAPTOP)
    keep_speed(speed(LLAMA_CPP, 50), local(tmp_path / "another.gguf"), replace(INFO, name="Other"), FACTS, LAPTOP)
    keep_speed(speed(LLAMA_CPP, 30), model, INFO, FACTS, LAPTOP)
    (sibling,) = find_siblings(model, INFO, FACTS, LAPTOP)
    assert (sibling.path, sibling.quantization) == (str(other.path), "Q8_0")
    assert sibling.speed.decode_mean == pytest.approx(41)
    assert find_siblings(model, INFO, replace(FACTS, version="2"), LAPTOP) == []
    other.path.unlink()
    assert find_siblings(model, INFO, FACTS, LAPTOP) == []
