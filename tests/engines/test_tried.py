"""With a model, an engine is tried when the answer rests on it, and no other: trials take up to half a minute."""

from dataclasses import replace

import pytest
from selection_cases import CTRANSFORMERS, GGUF, LAPTOP, LLAMA, LLAMA_CPP, PYTORCH, REAL, SERVER, VLLM, engines

from llmrun.engines.installed.facts import CRASHES, HEALTHY, EngineFacts
from llmrun.engines.plan import PlanRequest
from llmrun.engines.selection.model_facts import ModelFacts
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import Subject
from llmrun.engines.selection.tried import judge_tried
from llmrun.engines.types import EngineName
from llmrun.hardware.types import Machine
from llmrun.models.reference import parse_reference


class Checks:
    """Stands in for the trials: the engines that it names crash, the others work."""

    def __init__(self, *crashing: EngineName, **changed: frozenset[str]) -> None:
        self.crashing = crashing
        self.changed = changed
        self.tried: list[EngineName] = []

    def __call__(self, engine: EngineName, facts: EngineFacts) -> EngineFacts:
        self.tried.append(engine)
        health = CRASHES if engine in self.crashing else HEALTHY
        supported = self.changed.get(engine.value, facts.architectures)
        return replace(facts, health=health, architectures=supported, architectures_source="installed")


class Finder:
    """Finds the model, and counts how often it was asked."""

    def __init__(self, facts: ModelFacts) -> None:
        ref = parse_reference("a-model")
        self.subject = Subject(ref=ref, label="a-model", pull=ref, facts=facts)
        self.calls = 0

    def __call__(self, setting: Setting) -> Subject:
        self.calls += 1
        return self.subject


def setting(machine: Machine, forced: EngineName | None = None, installed: tuple[EngineName, ...] = REAL) -> Setting:
    return Setting(machine=machine, engines=engines(*installed), request=PlanRequest(), forced=forced, runnable=None)


@pytest.mark.parametrize(
    ("facts", "machine", "forced", "crashing", "tried", "chosen"),
    [
        pytest.param(GGUF, LAPTOP, None, (), [LLAMA_CPP], LLAMA_CPP, id="gguf: llama-cpp alone"),
        pytest.param(
            GGUF, LAPTOP, None, (LLAMA_CPP,), [LLAMA_CPP, PYTORCH], PYTORCH, id="gguf: the next after a crash"
        ),
        pytest.param(LLAMA, LAPTOP, None, (), [PYTORCH], PYTORCH, id="no GPU: vllm is not tried"),
        pytest.param(LLAMA, SERVER, None, (), [VLLM], VLLM, id="a server: vllm alone"),
        pytest.param(LLAMA, SERVER, None, (VLLM,), [VLLM, PYTORCH], PYTORCH, id="a server: pytorch after vllm"),
        pytest.param(LLAMA, SERVER, None, (VLLM, PYTORCH), [VLLM, PYTORCH], None, id="none is left"),
        pytest.param(LLAMA, SERVER, PYTORCH, (), [PYTORCH], PYTORCH, id="the one that was asked for"),
        pytest.param(LLAMA, SERVER, PYTORCH, (PYTORCH,), [PYTORCH], None, id="what was asked for crashes"),
        pytest.param(GGUF, LAPTOP, CTRANSFORMERS, (), [], None, id="what was asked for does not read it"),
    ],
)
def test_what_is_tried(
    facts: ModelFacts,
    machine: Machine,
    forced: EngineName | None,
    crashing: tuple[EngineName, ...],
    tried: list[EngineName],
    chosen: EngineName | None,
) -> None:
    check = Checks(*crashing)
    judged, after = judge_tried(Finder(facts), setting(machine, forced), check)
    assert (check.tried, judged.chosen) == (tried, chosen)
    for engine in tried:
        assert after.engines[engine].health == (CRASHES if engine in crashing else HEALTHY)


def test_what_was_tried_before_is_not_tried_again() -> None:
    check = Checks()
    judged, after = judge_tried(Finder(LLAMA), setting(SERVER), check)
    again, _ = judge_tried(Finder(LLAMA), after, check)
    assert check.tried == [VLLM]
    assert again == judged


def test_a_better_engine_is_asked_before_a_table_speaks_against_it() -> None:
    """The installed vLLM may be newer than the table that ships."""
    new = replace(LLAMA, architecture="NewForCausalLM", remote_code=True, trusted=True)
    knows = Checks(vllm=frozenset({"NewForCausalLM"}))
    assert judge_tried(Finder(new), setting(SERVER), knows)[0].chosen is VLLM
    assert knows.tried == [VLLM]
    does_not = Checks()
    assert judge_tried(Finder(new), setting(SERVER), does_not)[0].chosen is PYTORCH
    assert does_not.tried == [VLLM, PYTORCH]


def test_the_model_is_looked_for_again_only_after_a_crash() -> None:
    """A variant of it is chosen for the engines that work."""
    finder = Finder(GGUF)
    judge_tried(finder, setting(LAPTOP), Checks())
    assert finder.calls == 1
    judge_tried(finder, setting(LAPTOP), Checks(LLAMA_CPP))
    assert finder.calls == 3


def test_an_engine_that_stays_unknown_is_tried_once() -> None:
    tried: list[EngineName] = []

    def check(engine: EngineName, facts: EngineFacts) -> EngineFacts:
        tried.append(engine)
        return facts

    judged, _ = judge_tried(Finder(LLAMA), setting(SERVER), check)
    assert (tried, judged.chosen) == ([VLLM], VLLM)


def test_what_is_not_installed_is_not_tried() -> None:
    check = Checks()
    judged, _ = judge_tried(Finder(GGUF), setting(LAPTOP, installed=(VLLM,)), check)
    assert (check.tried, judged.chosen) == ([], None)
