"""The search for faster settings on times that are planted, and what is kept of it."""

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from selection_cases import LAPTOP

from llmrun.engines.installed.facts import EngineFacts
from llmrun.engines.installed.kept import keep
from llmrun.engines.measure.contention import Contention, others_share
from llmrun.engines.measure.store import kept_key, model_names
from llmrun.engines.measure.tune import Settings, candidates, count_steps, tune
from llmrun.engines.measure.tuned import Tuning, forget_tuning, keep_tuning, kept_tuning, open_tuning, with_tuning
from llmrun.engines.memory.types import PlanRequest
from llmrun.engines.selection.judgement import judge
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.errors import EngineCrashedError
from llmrun.models.reference import parse_reference
from llmrun.models.types import LocalModel, ModelFile, ModelFormat, ModelInfo

DEFAULT = Settings(threads=2, batch_tokens=512, flash_attention="auto")
EVERY = candidates(EngineName.LLAMA_CPP, DEFAULT, (1, 2), ("f16",), (None,))


def planted(seconds: Callable[[Settings], float], noise: float = 0.01, seed: int = 0) -> Any:
    """Return what measures settings, and the list of all runs."""
    draw, runs = random.Random(seed), []

    def measure(settings: Settings, repetitions: int) -> list[float]:
        runs.append(settings)
        return [draw.gauss(seconds(settings), noise * seconds(settings)) for _ in range(repetitions)]

    return measure, runs


def test_every_setting_is_tried_and_the_default_comes_first() -> None:
    assert EVERY[0] == DEFAULT
    assert len(EVERY) == len(set(EVERY)) == 2 * 3 * 3
    assert len(candidates(EngineName.PYTORCH, DEFAULT, (1, 2, 4), ("f16",), (None,))) == 3


def test_a_faster_setting_is_found_with_few_runs() -> None:
    measure, runs = planted(lambda each: 0.8 if each == EVERY[5] else 1.0 + 0.01 * each.threads)
    steps: list[None] = []
    found = tune(EVERY, measure, lambda: steps.append(None))
    assert found.best is not None
    assert found.best.settings == EVERY[5]
    assert found.real
    assert found.difference is not None
    assert found.difference.low is not None
    assert found.difference.low < 1.02 / 0.8 < (found.difference.high or 0)
    assert len(runs) == len(steps) == count_steps(len(EVERY))
    assert len(runs) < 3 * len(EVERY)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_within_the_noise_is_picked(seed: int) -> None:
    measure, _ = planted(lambda _each: 1.0, noise=0.05, seed=seed)
    assert not tune(EVERY, measure).real


def test_a_gain_of_a_hundredth_is_not_worth_a_claim() -> None:
    measure, _ = planted(lambda each: 1.0 if each == DEFAULT else 0.99, noise=0.0005)
    assert not tune(EVERY, measure).real


def test_a_machine_that_becomes_slower_is_not_taken_for_a_setting() -> None:
    calls = 0

    def measure(_settings: Settings, repetitions: int) -> list[float]:
        nonlocal calls
        calls += 1
        return [1.0 + 0.02 * calls + 0.001 * number for number in range(repetitions)]

    assert not tune(EVERY, measure).real


def test_settings_that_fail_are_left_out() -> None:
    def measure(settings: Settings, repetitions: int) -> list[float]:
        if settings.flash_attention == "off":
            raise EngineCrashedError("no kernel")
        return [1.0 + 0.001 * number for number in range(repetitions)]

    found = tune(EVERY, measure)
    failed = [trial for trial in found.trials if trial.failure]
    assert {trial.settings.flash_attention for trial in failed} == {"off"}
    assert not found.real


def test_defaults_that_fail_end_the_search() -> None:
    def measure(_settings: Settings, _repetitions: int) -> list[float]:
        raise EngineCrashedError("no")

    with pytest.raises(EngineCrashedError):
        tune(EVERY, measure)


def test_what_others_took_counts_by_its_time() -> None:
    seen = [
        Contention(seconds=3, stolen_cores=0.0, other_cores=0.0),
        Contention(seconds=1, stolen_cores=0.2, other_cores=0.6),
        Contention(seconds=0, stolen_cores=None, other_cores=None),
    ]
    assert others_share(seen) == pytest.approx(0.2)
    assert others_share([]) == 0.0


FACTS = EngineFacts(engine=EngineName.LLAMA_CPP, installed=True, version="1", stamp="a")
INFO = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    parameters=1000,
    quantization="Q4_0",
    context_length=64,
    layers=1,
    embedding_length=8,
    heads=32,
    kv_heads=(1,),
    key_length=8,
    value_length=8,
    vocabulary_size=10,
    tensor_bytes=1000,
    tensor_types=(("Q4_0", 1000),),
)
TUNING = Tuning(created="2026-11-25", threads=1, batch_tokens=256, flash_attention="off", gain=1.2, low=1.1, high=1.3)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    return LocalModel(
        ref=parse_reference(str(path)), path=path, files=(ModelFile(path=path, size_bytes=1, sha256=None),)
    )


def plan(model: LocalModel, **more: Any) -> LoadPlan:
    values: dict[str, Any] = {"context_length": 4096, "threads": 2} | more
    return LoadPlan(engine=EngineName.LLAMA_CPP, model_path=str(model.path), **values)


def test_what_was_found_is_put_into_plans(model: LocalModel) -> None:
    assert open_tuning(PlanRequest(), model, FACTS, LAPTOP) is None
    keep_tuning(TUNING, model, FACTS, LAPTOP)
    assert open_tuning(PlanRequest(), model, FACTS, LAPTOP) == TUNING
    tuned = with_tuning(plan(model), TUNING, INFO, LAPTOP)
    assert tuned is not None
    assert (tuned.threads, tuned.batch_tokens, tuned.flash_attention, tuned.tuned) == (1, 256, "off", "2026-11-25")
    forget_tuning(model, FACTS, LAPTOP)
    assert kept_tuning(model, FACTS, LAPTOP) is None


@pytest.mark.parametrize(
    "request_",
    [
        PlanRequest(threads=2),
        PlanRequest(gpu_layers=0),
        PlanRequest(kv_type="q8_0"),
        PlanRequest(parallel=4),
        PlanRequest(dtype="float32"),
        PlanRequest(quantization="8-bit"),
    ],
    ids=["threads", "layers", "KV type", "parallel", "type", "quantization"],
)
def test_what_was_asked_for_stays(model: LocalModel, request_: PlanRequest) -> None:
    keep_tuning(TUNING, model, FACTS, LAPTOP)
    assert open_tuning(request_, model, FACTS, LAPTOP) is None


def test_it_is_forgotten_when_the_engine_or_the_machine_changes(model: LocalModel) -> None:
    keep_tuning(TUNING, model, FACTS, LAPTOP)
    assert kept_tuning(model, replace(FACTS, stamp="b"), LAPTOP) is None
    assert kept_tuning(model, FACTS, replace(LAPTOP, cpu=replace(LAPTOP.cpu, name="another"))) is None


def test_scores_of_attention_have_to_fit(model: LocalModel) -> None:
    scores = 4 * 32 * 256 * 4096
    roomy, tight = (
        replace(LAPTOP, memory=replace(LAPTOP.memory, available_bytes=size)) for size in (2 * scores, scores)
    )
    assert with_tuning(plan(model), TUNING, INFO, roomy) is not None
    assert with_tuning(plan(model), TUNING, INFO, tight) is None


def test_a_kv_type_and_layers_that_were_tried_get_a_plan_of_their_own(model: LocalModel) -> None:
    found = replace(TUNING, flash_attention="on", kv_type="q8_0", gpu_layers=0)
    keep_tuning(found, model, FACTS, LAPTOP)
    facts = ModelFacts(format=ModelFormat.GGUF, architecture="llama")
    info = replace(INFO, context_length=4096)
    subject = Subject(ref=model.ref, label="m", pull=model.ref, facts=facts, info=info, model=model)
    setting = Setting(machine=LAPTOP, engines={FACTS.engine: FACTS}, request=PlanRequest(), measured=True)
    tuned = judge(subject, setting).plan
    assert tuned is not None
    assert (tuned.kv_type, tuned.gpu_layers, tuned.threads, tuned.tuned) == ("q8_0", 0, 1, "2026-11-25")
    usual = judge(subject, replace(setting, measured=False)).plan
    assert usual is not None
    assert (usual.kv_type, usual.tuned) == ("f16", "")
    assert tuned.estimated_bytes < usual.estimated_bytes


@pytest.mark.parametrize(
    "changed",
    [
        {"threads": 0},
        {"batch_tokens": 4096},
        {"flash_attention": "maybe"},
        {"threads": 10_000},
        {"threads": 1.0},
        {"threads": True},
        {"batch_tokens": "256"},
        {"created": "soon"},
        {"created": 5},
        {"more": 1},
        {"kv_type": "q9"},
        {"kv_type": ["f16"]},
        {"gpu_layers": "all"},
    ],
)
def test_a_record_that_makes_no_sense_is_none(model: LocalModel, changed: dict[str, Any]) -> None:
    keep("tuned", kept_key(model_names(model)[0], FACTS, LAPTOP), asdict(TUNING) | changed)
    assert kept_tuning(model, FACTS, LAPTOP) is None
