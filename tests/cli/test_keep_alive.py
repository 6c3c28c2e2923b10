"""`run --keep-alive` through the real command: the model stays, is found, is unloaded, and never in the way."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_builder as build
import pytest
from warm_helpers import Warm, ended, eventually, warm

from llmrun.engines.warm.folder import process_born, runtime_folder
from llmrun.engines.warm.workers import list_warm

__all__ = ["warm"]

Run = Callable[..., Any]


class Commands:
    """`llmrun` with the fake engine, in the runtime folder that the test looks into."""

    def __init__(self, llmrun: Run, start: Callable[..., subprocess.Popen[bytes]], warm: Warm) -> None:
        self._llmrun, self._start = llmrun, start
        self.environment = {
            "LLMRUN_ENGINE": "fake",
            "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"],
            "LLMRUN_NO_STANDBY": "1",  # which way a command takes is tested in test_standby.py
        }
        pairs = build.llama_pairs(**{"llama.context_length": build.u32(4096)})
        warm.model.write_bytes(build.build_gguf(pairs))
        self.model = warm.model

    def script(self, **script: Any) -> None:
        self.environment["LLMRUN_FAKE"] = json.dumps(script)

    def run(self, prompt: str, *arguments: str) -> Any:
        return self("run", str(self.model), prompt, "--raw", *arguments)

    def __call__(self, *arguments: str) -> Any:
        return self._llmrun(*arguments, env=self.environment)

    def start(self, prompt: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._start("run", str(self.model), prompt, "--raw", *arguments, env=self.environment)


@pytest.fixture
def commands(llmrun: Run, start_llmrun: Callable[..., subprocess.Popen[bytes]], warm: Warm) -> Commands:
    return Commands(llmrun, start_llmrun, warm)


def test_the_next_command_finds_the_model_loaded(commands: Commands) -> None:
    first = commands.run("one", "--keep-alive", "1m", "--json")
    assert first.code == 0, first.errors
    assert commands.run("two").text == "two\n"
    (worker,) = list_warm()
    assert worker.keep_seconds == 60
    result = commands.run("three", "--stats")
    assert (result.text, "attach" in result.errors) == ("three\n", True)
    assert str(worker.pid) in commands("ps").text
    assert commands("stop", str(commands.model)).code == 0
    assert ended(worker, 0)
    assert commands("stop", str(commands.model)).code == 3


def test_without_the_option_nothing_stays(commands: Commands) -> None:
    assert commands.run("one").text == "one\n"
    assert list_warm() == []
    assert commands("ps").code == 0


def test_zero_unloads(commands: Commands) -> None:
    commands.run("one", "--keep-alive", "forever")
    (worker,) = list_warm()
    assert commands.run("two", "--keep-alive", "0").text == "two\n"
    assert ended(worker, 0)


def test_other_options_load_the_model_anew(commands: Commands) -> None:
    commands.run("one", "--keep-alive", "1m")
    commands.run("two", "--keep-alive", "1m", "--context-length", "512")
    assert sorted(worker.context_length for worker in list_warm()) == [512, 4096]
    assert commands("stop", "--all").code == 0
    assert list_warm() == []


@pytest.mark.parametrize("text", ["soon", "-1", ""])
def test_odd_durations_are_refused(commands: Commands, text: str) -> None:
    result = commands.run("one", f"--keep-alive={text}")
    assert (result.code, result.text) == (2, "")
    assert list_warm() == []


def test_commands_at_once_all_answer_and_leave_one(commands: Commands) -> None:
    processes = [commands.start(f"prompt {number}", "--keep-alive", "1m") for number in range(4)]
    answers = sorted(process.communicate(timeout=60)[0] for process in processes)
    assert answers == [f"prompt {number}\n".encode() for number in range(4)]
    assert len(list_warm()) == 1


def test_a_worker_killed_in_mid_answer(commands: Commands) -> None:
    commands.script(answer="x" * 4000, token_seconds=0.02)
    commands.run("one", "--keep-alive", "1m", "--max-tokens", "1")
    (worker,) = list_warm()
    process = commands.start("two")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    os.kill(worker.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 70, errors
    assert b"SIGKILL" in errors
    assert commands.run("three", "--max-tokens", "2").text == "xx\n"
    assert list_warm() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_ended_leaves_the_worker_idle(commands: Commands, number: signal.Signals) -> None:
    commands.script(answer="x" * 4000, token_seconds=0.02)
    commands.run("one", "--keep-alive", "1m", "--max-tokens", "1")
    (worker,) = list_warm()
    process = commands.start("two")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (-9 if number is signal.SIGKILL else 128 + number)
    assert eventually(lambda: not list_warm()[0].busy, 3)
    assert time.monotonic() - began < 3
    assert process_born(worker.pid) == worker.born
    assert commands.run("three", "--max-tokens", "2").text == "xx\n"


def test_a_reader_that_goes_away_leaves_the_worker(commands: Commands) -> None:
    commands.script(answer="x" * 4000, token_seconds=0.001)
    process = commands.start("one", "--keep-alive", "1m")
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    (worker,) = list_warm()
    assert not worker.busy


def test_a_changed_model_file_is_loaded_anew(commands: Commands) -> None:
    commands.run("one", "--keep-alive", "10m")
    (worker,) = list_warm()
    data = Path(commands.model).read_bytes()
    commands.model.write_bytes(data)
    assert commands.run("two").text == "two\n"
    assert ended(worker, 2)


def test_a_runtime_folder_open_to_others_is_refused(commands: Commands) -> None:
    runtime_folder().chmod(0o777)
    for result in (commands.run("one"), commands("ps"), commands("stop", "--all")):
        assert (result.code, result.text) == (9, "")
        assert "open to others" in result.errors


def test_a_dry_run_is_the_same_beside_a_warm_worker(commands: Commands) -> None:
    arguments = ("run", str(commands.model), "hi", "--dry-run")
    before = commands(*arguments)
    commands.run("one", "--keep-alive", "1m")
    after = commands(*arguments)
    assert (after.code, after.text) == (before.code, before.text)


def test_a_worker_that_dies_before_it_answers_is_replaced(commands: Commands) -> None:
    commands.script(prefill_seconds=1.5)
    commands.run("one", "--keep-alive", "1m")
    (worker,) = list_warm()
    process = commands.start("two", "--stats")
    assert eventually(lambda: any(found.busy for found in list_warm()))
    os.kill(worker.pid, signal.SIGKILL)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"two\n"), errors
    assert b"spawn" in errors  # said or not: one that dies while it is greeted was never there
