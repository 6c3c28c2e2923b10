"""`ps` and `stop`: what is loaded is shown, and unloaded on request."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from warm_helpers import SAMPLING, Warm, ended, segments, warm

from llmrun.cli import early
from llmrun.cli.ps import document, ps, table
from llmrun.cli.stop import stop
from llmrun.engines.types import EngineName, LoadPlan
from llmrun.engines.warm.folder import process_born, runtime_folder
from llmrun.engines.warm.record import WarmTarget, WarmWorker
from llmrun.errors import ModelNotFoundError, SecurityError, UsageError

__all__ = ["warm"]


def described(reference: str, *, busy: bool = False, keep_seconds: float | None = 600) -> WarmWorker:
    return WarmWorker(
        pid=4711,
        born=1,
        target=WarmTarget(key="k", reference=reference, path="/models/m.gguf", files=(), code=()),
        plan=LoadPlan(engine=EngineName.LLAMA_CPP, model_path="/models/m.gguf", context_length=8192, threads=2),
        version="0.1.0",
        context_length=8192,
        started=1000,
        used=1100,
        keep_seconds=keep_seconds,
        busy=busy,
        stem="/run/user/1/llmrun/x-4711",
    )


def test_the_table() -> None:
    text = table(
        [
            (described("smollm2"), 200 << 20),
            (described("a-name-" * 10, busy=True), 3 << 30),
            (described("third", keep_seconds=None), None),
            (described("fourth", keep_seconds=7300), 1),
            (described("fifth", keep_seconds=20), 1),
        ],
        now=1110,
    )
    lines = text.splitlines()
    assert lines[0].split() == ["MODEL", "ENGINE", "PID", "MEMORY", "CONTEXT", "UNTIL"]
    assert lines[1].split(maxsplit=6) == ["smollm2", "llama-cpp", "4711", "200.0", "MiB", "8,192", "idle, 10 min left"]
    assert "answering" in lines[2]
    assert lines[3].split()[-1] == "stopped"
    assert lines[4].endswith("idle, 2 h left")
    assert lines[5].endswith("idle, 10 s left")
    assert max(map(len, lines)) <= 100


def test_the_document_has_every_fact() -> None:
    (entry,) = document([(described("smollm2", keep_seconds=None), 5)])["workers"]
    assert entry == {
        "model": "smollm2",
        "path": "/models/m.gguf",
        "engine": "llama-cpp",
        "pid": 4711,
        "resident_bytes": 5,
        "context_length": 8192,
        "busy": False,
        "started": 1000,
        "used": 1100,
        "keep_seconds": None,
        "expires": None,
    }


def test_ps_with_nothing_loaded(warm: Warm, capfd: pytest.CaptureFixture[str]) -> None:
    ps()
    out, err = capfd.readouterr()
    assert (out, "no model is loaded" in err) == ("", True)
    ps(json_output=True)
    assert json.loads(capfd.readouterr().out) == {"version": 1, "workers": []}


def test_ps_shows_what_is_loaded(warm: Warm, capfd: pytest.CaptureFixture[str]) -> None:
    worker = warm.kept()
    ps()
    out, err = capfd.readouterr()
    assert err == ""
    assert out.splitlines()[1].split()[:3] == ["some-model", "fake", str(worker.pid)]
    ps(json_output=True)
    (entry,) = json.loads(capfd.readouterr().out)["workers"]
    assert entry["pid"] == worker.pid
    assert entry["resident_bytes"] > 1 << 20
    assert math.isclose(entry["expires"] - entry["used"], 60)


@pytest.mark.parametrize("by", ["reference", "path", "link", "pid", "other words"])
def test_stop_finds_the_model(warm: Warm, by: str, capfd: pytest.CaptureFixture[str]) -> None:
    worker = warm.kept()
    link = warm.folder / "link.gguf"
    link.symlink_to(warm.model)
    text = {
        "reference": "some-model",
        "path": str(warm.model),
        "link": str(link),
        "pid": str(worker.pid),
        "other words": os.path.relpath(warm.model),
    }[by]
    stop(text)
    assert ended(worker, 0)
    assert f"(process {worker.pid}) was unloaded" in capfd.readouterr().err


def test_stop_of_what_is_not_loaded(warm: Warm) -> None:
    worker = warm.kept()
    with pytest.raises(ModelNotFoundError, match="another-model is not loaded"):
        stop("another-model")
    with pytest.raises(UsageError, match="either a MODEL or --all"):
        stop(None)
    with pytest.raises(UsageError, match="either a MODEL or --all"):
        stop("some-model", every=True)
    assert process_born(worker.pid) == worker.born


def test_stop_everything(warm: Warm, capfd: pytest.CaptureFixture[str]) -> None:
    workers = [warm.kept(context_length=1), warm.kept(context_length=2)]
    stop(None, every=True, json_output=True)
    entries = json.loads(capfd.readouterr().out)["workers"]
    assert {(entry["pid"], entry["ended"]) for entry in entries} == {(worker.pid, True) for worker in workers}
    assert all(ended(worker, 0) for worker in workers)
    stop(None, every=True)
    assert "no model is loaded" in capfd.readouterr().err


def test_stop_lets_an_answer_finish_unless_forced(warm: Warm, capfd: pytest.CaptureFixture[str]) -> None:
    warm.script(answer="x" * 4000, token_seconds=0.02)
    worker = warm.kept()
    client = warm.attached(worker)
    next(client.generate(segments("hi"), SAMPLING))
    stop("some-model")
    assert "ends after the answer" in capfd.readouterr().err
    assert process_born(worker.pid) == worker.born
    stop("some-model", force=True)
    assert ended(worker, 0)


def test_a_folder_open_to_others_is_refused(warm: Warm) -> None:
    runtime_folder().chmod(0o777)
    with pytest.raises(SecurityError, match="open to others"):
        ps()
    with pytest.raises(SecurityError, match="open to others"):
        stop(None, every=True)


def test_both_are_commands(warm: Warm) -> None:
    app = typer.Typer()
    app.command()(ps)
    app.command()(stop)
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names == {"ps", "stop"}
    code = "import typer; from llmrun.cli.stop import stop; a = typer.Typer(); a.command()(stop); a(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, "--all" in done.stdout, "--force" in done.stdout) == (0, True, True)


@pytest.mark.parametrize(
    ("model", "starts"),
    [pytest.param("some-model", False, id="loaded"), pytest.param("other-model", True, id="another is loaded")],
)
def test_no_worker_is_started_early_where_one_waits(warm: Warm, model: str, starts: bool) -> None:
    warm.kept()
    early.start(["run", model, "hi", "--engine", "fake"])
    assert bool(early._started) is starts
    early.close()
    late = early.take_worker(EngineName.FAKE)  # whoever finds no warm worker that fits
    warm.clients.append(late)
    assert late.load(warm.plan()) == 4096


def test_a_runtime_folder_that_cannot_be_used_stops_nothing_early(warm: Warm) -> None:
    Path(runtime_folder()).chmod(0o777)
    early.start(["run", "some-model", "hi", "--engine", "fake"])
    assert len(early._started) == 1
    early.close()


def test_the_renderer_is_started_early_where_a_worker_waits(warm: Warm) -> None:
    warm.kept()
    early.start(["run", "some-model", "hi", "--raw"])
    assert early._renderers == []
    early.start(["run", "some-model", "hi"])
    (started,) = early._renderers
    with early.take_renderer() as renderer:
        assert renderer is started
        assert renderer.render("{{ messages[0].content }}", [{"role": "user", "content": "hi"}], {}) == "hi"
    with early.take_renderer() as another:
        assert another is not started
    early.start(["run", "some-model", "hi"])
    early.close()
    assert early._renderers == []
