"""After a native crash `run` tries the next eligible engine once, says so, and never glues two answers together.

The engines are the fake one twice, dying as real ones do; the choice between two engines is given, because only one
engine of a model's format is sure to be installed where this runs.
"""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest

from llmrun.cli import early, preparing
from llmrun.cli.run_flow import RunRequest, execute
from llmrun.engines.client import WorkerClient
from llmrun.engines.installed.facts import assume_engine
from llmrun.engines.plan import PlanRequest
from llmrun.engines.prepare import Prepared
from llmrun.engines.selection.judgement import judge
from llmrun.engines.selection.reasons import Selection
from llmrun.engines.selection.select import fallback_notice
from llmrun.engines.selection.setting import Setting
from llmrun.engines.selection.subject import find_subject
from llmrun.engines.types import EngineName, SamplingOptions
from llmrun.errors import EngineCrashedError, NoUsableEngineError
from llmrun.hardware.machine import probe_machine
from llmrun.models.reference import parse_reference
from llmrun.progress import SILENT

Scripts = dict[EngineName, dict[str, Any]]
LLAMA_CPP, PYTORCH = EngineName.LLAMA_CPP, EngineName.PYTORCH
DIES = {"crash_signal": int(signal.SIGSEGV)}


def setting(*installed: EngineName, forced: EngineName | None = None) -> Setting:
    names = [name for name in EngineName if name is not EngineName.FAKE]
    return Setting(
        machine=replace(probe_machine(), gpus=()),
        engines={name: assume_engine(name, installed=name in installed, gpu_support=False) for name in names},
        request=PlanRequest(),
        forced=forced,
    )


def prepared(path: Path, where: Setting) -> Prepared:
    subject = find_subject(parse_reference(str(path)), where, offline=True, progress=SILENT)
    judged = judge(subject, where)
    assert judged.plan is not None
    assert judged.chosen is not None
    assert subject.model is not None
    assert subject.info is not None
    return Prepared(
        model=subject.model,
        info=subject.info,
        subject=subject,
        setting=where,
        selection=Selection(chosen=judged.chosen, because=judged.because, verdicts=judged.verdicts),
        plan=judged.plan,
        notices=(),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build.build_gguf())
    return path


def request(model: Path, **changes: Any) -> RunRequest:
    values: dict[str, Any] = {
        "model": str(model),
        "prompt": "hi",
        "files": (),
        "system": None,
        "raw": True,
        "engine": None,
        "plan": PlanRequest(),
        "sampling": SamplingOptions(
            temperature=0, top_p=1, top_k=0, min_p=0, repeat_penalty=1, max_tokens=None, seed=0
        ),
        "offline": True,
        "draft": None,
        "keep_seconds": None,
        "fallback": True,
        "dry_run": False,
        "stats": False,
        "json_output": False,
        "quiet": False,
    }
    return RunRequest(**(values | changes))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[..., None]:
    """Run with engines that follow scripts."""

    def go(scripts: Scripts, *, forced: EngineName | None = None, **changes: Any) -> None:
        where = setting(LLAMA_CPP, PYTORCH, forced=forced)

        def take(engine: EngineName) -> WorkerClient:
            monkeypatch.setenv("LLMRUN_FAKE", json.dumps(scripts[engine]))
            return WorkerClient(EngineName.FAKE)

        monkeypatch.setattr(early, "take_worker", take)
        monkeypatch.setattr(preparing, "prepare", lambda *_, **__: prepared(model, where))
        execute(request(model, **changes))

    return go


def test_the_next_engine_answers_and_both_are_named(
    run: Callable[..., None], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run({LLAMA_CPP: DIES, PYTORCH: {"answer": "Paris"}})
    out, errors = capfdbinary.readouterr()
    assert out == b"Paris\n"
    assert b"(SIGSEGV)" in errors
    assert b"; trying pytorch" in errors


@pytest.mark.parametrize("json_output", [False, True])
def test_half_an_answer_is_not_followed_by_another(
    run: Callable[..., None], capfdbinary: pytest.CaptureFixture[bytes], json_output: bool
) -> None:
    scripts = {LLAMA_CPP: {"answer": "Par", **DIES, "crash_at": 2}, PYTORCH: {"answer": "London"}}
    if json_output:  # nothing of it was shown
        run(scripts, json_output=True)
        document = json.loads(capfdbinary.readouterr().out)
        assert (document["text"], document["engine"]["name"]) == ("London", "pytorch")
    else:
        with pytest.raises(EngineCrashedError, match="SIGSEGV"):
            run(scripts)
        assert capfdbinary.readouterr().out == b"P\n"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"fallback": False}, id="--no-fallback"),
        pytest.param({"forced": LLAMA_CPP}, id="an engine that was asked for"),
    ],
)
def test_no_other_engine_where_none_is_wanted(run: Callable[..., None], changes: dict[str, Any]) -> None:
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        run({LLAMA_CPP: DIES, PYTORCH: {"answer": "London"}}, **changes)


def test_only_one_other_engine_is_tried(run: Callable[..., None]) -> None:
    with pytest.raises(NoUsableEngineError, match="instructions that this processor does not have"):
        run({LLAMA_CPP: DIES, PYTORCH: {"crash_signal": int(signal.SIGILL)}})


@pytest.mark.parametrize(
    ("installed", "forced", "said"),
    [
        pytest.param((LLAMA_CPP, PYTORCH), None, None, id="the best one"),
        pytest.param((PYTORCH,), None, "llama-cpp is not installed; using pytorch", id="a better one is missing"),
        pytest.param((PYTORCH,), PYTORCH, None, id="asked for"),
    ],
)
def test_a_better_engine_that_is_missing_is_named(
    model: Path, installed: tuple[EngineName, ...], forced: EngineName | None, said: str | None
) -> None:
    notice = fallback_notice(prepared(model, setting(*installed, forced=forced)).selection, "m.gguf")
    if said is None:
        assert notice is None
    else:
        assert notice == f"{said} (llmrun which-backend m.gguf says more)"
