"""A batch that was interrupted goes on, and every request ends up with exactly one result. On the fake engine."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_parts import ECHO, command, fake, model

__all__ = ["command", "model"]

Run = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[bytes]"]
_KILL_SECONDS = 25.0  # for this test, of which most goes into starting the command


def write_requests(tmp_path: Path, count: int, **changes: str) -> None:
    """Write prompts `p0`, `p1`, …; `changes` has others for some ids."""
    requests = [{"id": f"r{n}", "prompt": changes.get(f"r{n}", f"p{n}")} for n in range(count)]
    (tmp_path / "r").write_text("".join(json.dumps(request) + "\n" for request in requests))


def read_results(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]


@pytest.mark.slow
def test_killed_at_random_moments_every_request_has_one_result(
    start_llmrun: Start, llmrun: Run, command: list[Any], tmp_path: Path
) -> None:
    count = 1000
    write_requests(tmp_path, count)
    chance = random.Random(7)
    env = fake(token_seconds=0.0015)  # a whole run takes some three seconds
    deadline = time.monotonic() + _KILL_SECONDS
    kills, sizes = 0, [0]
    while time.monotonic() < deadline:
        process = start_llmrun(*command, "--resume", "--parallel", "4", "--quiet", env=env)
        seconds = chance.uniform(0.3, 0.9)
        try:
            process.wait(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        if chance.random() < 0.5 and (tmp_path / "o").exists():  # the machine went down, too
            data = (tmp_path / "o").read_bytes()
            (tmp_path / "o").write_bytes(data[: len(data) - chance.randrange(0, min(len(data), 300) or 1)])
        sizes.append((tmp_path / "o").stat().st_size if (tmp_path / "o").exists() else 0)
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 0, result.errors
    found = read_results(tmp_path)
    assert sorted(record["id"] for record in found) == sorted(f"r{number}" for number in range(count))
    assert all(record["text"] == "p" + record["id"][1:] and record["error"] is None for record in found)
    assert kills >= 5
    assert len(set(sizes)) > 3  # it was killed while it wrote, and not only before


def test_resume_asks_only_for_what_is_missing(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, 10)
    assert llmrun(*command, env=ECHO).code == 0
    lines = (tmp_path / "o").read_bytes().splitlines(keepends=True)
    (tmp_path / "o").write_bytes(b"".join(lines[:6]) + lines[6][:40])
    result = llmrun(*command, "--resume", env=fake(answer="new"))
    assert result.code == 0, result.errors
    assert "the last line of " in result.errors
    assert "was not whole: its 40 bytes were cut off" in result.errors
    assert "6 of 10 requests have a result already" in result.errors
    assert "4 answers" in result.errors
    found = read_results(tmp_path)
    assert [record["text"] == "new" for record in found] == [False] * 6 + [True] * 4
    assert len({record["id"] for record in found}) == 10
    before = (tmp_path / "o").read_bytes()
    again = llmrun(*command, "--resume", env=fake(load_error="was loaded"))
    assert again.code == 0, again.errors
    assert (tmp_path / "o").read_bytes() == before


def test_resume_without_an_output_begins(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, 3)
    assert llmrun(*command, "--resume", env=ECHO).code == 0
    assert len(read_results(tmp_path)) == 3


def test_errors_count_as_done_unless_they_are_retried(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, 4, r1="x" * 600)
    assert llmrun(*command, env=ECHO).code == 12
    before = (tmp_path / "o").read_bytes()
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 12
    assert "1 of 4 requests failed" in result.errors
    assert (tmp_path / "o").read_bytes() == before
    result = llmrun(*command, "--retry-errors", env=ECHO)  # still too long
    assert result.code == 12
    write_requests(tmp_path, 4, r1="short")  # what failed may be mended
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 2
    assert "line 2: the request with the id 'r1' is not the one" in result.errors
    result = llmrun(*command, "--retry-errors", env=ECHO)
    assert result.code == 0, result.errors
    found = read_results(tmp_path)
    assert [record["id"] for record in found].count("r1") == 3
    last = {record["id"]: record for record in found}
    assert last["r1"]["text"] == "short"
    assert all(record["error"] is None for record in last.values())
    assert llmrun(*command, "--resume", env=fake(load_error="was loaded")).code == 0


@pytest.mark.parametrize("change", ["--temperature=0.1", "--seed=5", "--max-tokens=7", "--system=x"])
def test_other_options_are_another_batch(llmrun: Run, command: list[Any], tmp_path: Path, change: str) -> None:
    write_requests(tmp_path, 3)
    command.remove("--raw")
    assert llmrun(*command, env=ECHO).code == 0
    before = (tmp_path / "o").read_bytes()
    result = llmrun(*command, "--resume", change, env=ECHO)
    assert result.code == 2
    assert "the id 'r0' is not the one that was answered" in result.errors
    assert (tmp_path / "o").read_bytes() == before


def test_another_model_is_refused(llmrun: Run, command: list[Any], model: Path, tmp_path: Path) -> None:
    write_requests(tmp_path, 3)
    assert llmrun(*command, env=ECHO).code == 0
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes())
    write_requests(tmp_path, 4)
    command[1] = other
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 2
    assert f"has results of another model: {model}" in result.errors


def test_results_of_other_requests(llmrun: Run, command: list[Any], tmp_path: Path) -> None:
    write_requests(tmp_path, 5)
    assert llmrun(*command, env=ECHO).code == 0
    write_requests(tmp_path, 2)
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 0
    assert "3 results in " in result.errors
    (tmp_path / "r").write_text('{"prompt": "another batch"}\n')
    result = llmrun(*command, "--resume", env=ECHO)
    assert result.code == 2
    assert "none of the 5 results in " in result.errors


def test_two_commands_cannot_write_to_one_output(
    start_llmrun: Start, llmrun: Run, command: list[Any], tmp_path: Path
) -> None:
    write_requests(tmp_path, 200)
    first = start_llmrun(*command, env=fake(token_seconds=0.05))
    deadline = time.monotonic() + 10
    while not (tmp_path / "o").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    result = llmrun(*command, "--resume", env=ECHO)
    assert first.poll() is None
    assert result.code == 2
    assert "another llmrun is writing to" in result.errors
