"""`llmrun bench --tune` through the real command, and what `run` and `which-backend` make of what it keeps."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmrun.cli.bench.tune import tune_text
from llmrun.engines.installed.facts import probe_engines
from llmrun.engines.measure.points import Sizes
from llmrun.engines.measure.statistics import Difference
from llmrun.engines.measure.tune import Settings, Trial, TuneResult
from llmrun.engines.measure.tuned import Tuning, keep_tuning
from llmrun.engines.types import EngineName
from llmrun.hardware.machine import probe_machine
from llmrun.models.reference import parse_reference
from llmrun.models.resolver.resolve import find_on_disk

ENV = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.02, "prefill_seconds": 0.05})}
FAKE = ("--engine", "fake", "-p", "8", "-n", "4", "--threads", "1,2,3", "--tune")


def test_where_nothing_is_faster_that_is_what_is_said(
    llmrun: Callable[..., Any], real_model: Path, tmp_path: Path
) -> None:
    done = llmrun("bench", real_model, *FAKE, "--output", "json", env=ENV, timeout=120)
    assert done.code == 0, done.errors
    found = json.loads(done.stdout)
    assert {trial["settings"]["threads"] for trial in found["trials"]} >= {1, 2, 3}
    assert (found["real"], found["kept"]) == (False, False)
    assert found["others_took_cores"] >= 0
    assert not list(tmp_path.glob("cache/tuned/*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("-p", "8,16"), 2, id="several sizes"),
        pytest.param(("-p", "0"), 2, id="no prompt"),
        pytest.param(("--output", "csv"), 2, id="a form that it has not"),
        pytest.param(("--engine", "fake,llama-cpp"), 2, id="several engines"),
        pytest.param(("--engine", "all"), 2, id="all engines"),
        pytest.param(("-b", "2"), 2, id="several at once"),
        pytest.param(("--save",), 2, id="saving"),
        pytest.param(("--plot", "x.svg"), 2, id="a picture"),
        pytest.param(("-p", "9000"), 5, id="longer than the context"),
    ],
)
def test_bad_input(llmrun: Callable[..., Any], real_model: Path, arguments: tuple[str, ...], code: int) -> None:
    assert llmrun("bench", real_model, *FAKE, *arguments, env=ENV).code == code


def test_defaults_that_do_not_run_are_the_error(llmrun: Callable[..., Any], real_model: Path) -> None:
    done = llmrun("bench", real_model, *FAKE, env={"LLMRUN_FAKE": json.dumps({"load_error": "not today"})})
    assert done.code == 4
    assert "not today" in done.errors


@pytest.mark.engine
def test_what_was_kept_is_used_unless_something_else_is_asked_for(
    llmrun: Callable[..., Any],
    real_model: Path,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMRUN_CACHE_DIR", environment["LLMRUN_CACHE_DIR"])
    path = Path(shutil.copy(real_model, tmp_path / "model.gguf"))
    model, machine = find_on_disk(parse_reference(str(path))), probe_machine()
    assert model is not None
    tuning = Tuning(
        created="2026-11-25", threads=1, batch_tokens=128, flash_attention="on", gain=1.2, low=1.1, high=1.3
    )
    keep_tuning(tuning, model, probe_engines(machine)[EngineName.LLAMA_CPP], machine)
    assert "tuned on 2026-11-25" in " ".join(llmrun("which-backend", path).text.split())
    common = ("run", path, "Hello", "--max-tokens", "4", "--temperature", "0", "--json")
    tuned = llmrun(*common)
    assert tuned.code == 0, tuned.errors
    assert json.loads(tuned.stdout)["plan"]["threads"] == 1
    assert json.loads(llmrun(*common, "--threads", "2").stdout)["plan"]["threads"] == 2
    measured = llmrun(
        "bench", path, "-p", "8", "-n", "4", "-r", "1", "--no-limits", "--no-cold-start", "--output", "json"
    )
    assert json.loads(measured.stdout)["rows"][0]["threads"] == machine.cpu.threads  # a measurement is of the defaults


def test_a_search_that_is_interrupted_keeps_nothing(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], real_model: Path, tmp_path: Path
) -> None:
    process = start_llmrun("bench", real_model, *FAKE, env=ENV)
    assert process.stderr is not None
    seen = b""
    while b"tuning" not in seen:
        seen += os.read(process.stderr.fileno(), 4096)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert (process.returncode, output) == (130, b"")
    assert not list(tmp_path.glob("cache/tuned/*"))


def result(*, real: bool) -> TuneResult:
    default, best = (
        Trial(settings=Settings(threads=count, batch_tokens=512, flash_attention="auto"), final=[float(count)] * 3)
        for count in (2, 1)
    )
    difference = Difference(ratio=2.0, low=1.9, high=2.1, p_value=0.001)
    return TuneResult(trials=(default, best), best=best, difference=difference, real=real)


def test_the_verdict_in_words() -> None:
    sizes = Sizes(prompt_tokens=8, answer_tokens=4)
    kept = tune_text(result(real=True), EngineName.LLAMA_CPP, sizes, "")
    assert "2.00x as fast as the defaults (95% interval 1.90 to 2.10): 1 thread," in kept
    assert "run and chat use it from now on" in kept
    assert kept.splitlines()[2].split()[0] == "1.000"  # the fastest first
    disturbed = tune_text(result(real=True), EngineName.LLAMA_CPP, sizes, "other programs took 0.90 cores")
    assert "not kept: other programs took 0.90 cores" in disturbed
    chance = tune_text(result(real=False), EngineName.LLAMA_CPP, sizes, "nothing is really faster")
    assert "nothing is really faster than the defaults" in chance
