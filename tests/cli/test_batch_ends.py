"""How a batch ends when it is told to, when the disk is full, and when the engine dies. On the fake engine."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_parts import command, fake, model

__all__ = ["command", "model"]

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
PROGRAM = Path(sys.executable).with_name("llmrun")


def write_requests(tmp_path: Path, prompts: list[str]) -> None:
    (tmp_path / "r").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def read_results(tmp_path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]
    found = {record["id"]: record for record in lines}
    assert len(found) == len(lines)
    return found


def wait_for_results(tmp_path: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (tmp_path / "o").exists() and (tmp_path / "o").read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    pytest.fail("no results came")


def children(process: "subprocess.Popen[bytes]") -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def is_gone(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        pytest.param(signal.SIGHUP, 129, id="HUP"),
    ],
)
@pytest.mark.parametrize("deaf", [False, True])
def test_told_to_stop(
    start_llmrun: Start, llmrun: Run, command: list[Any], tmp_path: Path, number: int, code: int, deaf: bool
) -> None:
    write_requests(tmp_path, ["short"] * 5 + ["long " * 100] * 20)
    script = {"hang_at": 3, "only_prompt": "long"} if deaf else {"token_seconds": 0.005}
    process = start_llmrun(*command, "--parallel", "3", env=fake(**script))
    wait_for_results(tmp_path, 5 if not deaf else 3)
    started = children(process)
    assert started
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - began < 1.5
    assert process.returncode == code, errors
    found = read_results(tmp_path)
    text = f"stopped: {len(found)} of 25 requests have a result in {tmp_path / 'o'}; the same command with --resume"
    assert text in errors.decode()
    assert b"Traceback" not in errors
    assert {record["finish_reason"] for record in found.values()} == {"stop"}
    assert all(is_gone(pid) for pid in started)
    result = llmrun(*command, "--resume", env=fake())
    assert result.code == 0, result.errors
    assert len(read_results(tmp_path)) == 25


def test_interrupted_while_the_model_loads(start_llmrun: Start, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["a"])
    process = start_llmrun(*command, env=fake(load_seconds=20))
    deadline = time.monotonic() + 10
    while not children(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=3)
    assert process.returncode == 130, errors
    assert errors == b""
    assert not (tmp_path / "o").exists()


def test_a_full_disk(environment: dict[str, str], llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["x" * 100] * 50)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))

    done = subprocess.run(
        [PROGRAM, *command],
        env=environment | fake(),
        preexec_fn=limit,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    errors = done.stderr.decode()
    assert done.returncode == 8, errors
    assert f"{tmp_path / 'o'} cannot be written: File too large" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    whole = (tmp_path / "o").read_bytes()
    assert whole.endswith(b"\n")
    before = read_results(tmp_path)
    assert 5 < len(before) < 50
    result = llmrun(*command, "--resume", env=fake())
    assert result.code == 0, result.errors
    assert (tmp_path / "o").read_bytes().startswith(whole)
    assert len(read_results(tmp_path)) == 50


def test_standard_output_that_is_full(environment: dict[str, str], command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["a"] * 5)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PROGRAM, *command[:-1], "-"], env=environment | fake(), stdout=full, stderr=subprocess.PIPE, timeout=30
        )
    assert done.returncode == 74, done.stderr


def test_a_reader_that_goes_away(environment: dict[str, str], command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["a"] * 500)
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [PROGRAM, *command[:-1], "-"], env=environment | fake(token_seconds=0.01), stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    os.read(ours, 100)
    os.close(ours)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 141
    assert b"error" not in errors


@pytest.mark.parametrize("parallel", ["1", "4"])
def test_the_request_that_kills_the_engine_fails_alone(
    llmrun: Run, command: list[Any], tmp_path: Path, parallel: str
) -> None:
    write_requests(tmp_path, [f"p{n}" for n in range(20)] + ["kill it"] + [f"p{n}" for n in range(21, 40)])
    script = fake(crash_signal=int(signal.SIGSEGV), crash_at=3, only_prompt="kill")
    result = llmrun(*command, "--parallel", parallel, env=script)
    assert result.code == 12, result.errors
    assert "it is started again, and what it was answering" in result.errors
    found = read_results(tmp_path)
    assert len(found) == 40
    failed = found.pop("21")
    assert failed["error"]["exit_code"] == 70
    assert failed["error"]["code"] == "engine-crashed"
    assert "SIGSEGV" in failed["error"]["message"]
    assert all(record["error"] is None and record["text"] == f"p{int(name) - 1}" for name, record in found.items())


def test_a_request_that_hangs_fails_alone(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["a", "b", "hang", "c"])
    script = fake(hang_at=2, only_prompt="hang") | {"LLMRUN_ENGINE_TIMEOUT": "0.7"}
    result = llmrun(*command, "--parallel", "2", env=script)
    assert result.code == 12, result.errors
    found = read_results(tmp_path)
    assert {name: (record["error"] or {}).get("exit_code") for name, record in found.items()} == {
        "1": None, "2": None, "3": 75, "4": None,
    }  # fmt: skip


def test_an_engine_that_always_dies_ends_the_batch(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, [f"p{n}" for n in range(1000)])
    result = llmrun(*command, "--parallel", "4", env=fake(crash_signal=int(signal.SIGABRT), crash_at=2))
    assert result.code == 70, result.errors
    assert "SIGABRT" in result.errors
    assert "stopped: 3 of 1,000 requests have a result" in result.errors
    assert {record["error"]["exit_code"] for record in read_results(tmp_path).values()} == {70}
    result = llmrun(*command, "--retry-errors", env=fake())
    assert result.code == 0, result.errors


def test_an_engine_that_does_not_even_load(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, ["a"])
    result = llmrun(*command, env=fake(crash_signal=int(signal.SIGABRT)))
    assert result.code == 70, result.errors
    assert not (tmp_path / "o").exists()
