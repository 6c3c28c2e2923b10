"""`llmrun bench` where a standard stream is closed or full: what was measured is not lost, and nothing is a bug."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("llmrun")
ENV = {"LLMRUN_FAKE": json.dumps({"answer": "abc", "token_seconds": 0.005, "prefill_seconds": 0.05})}
FAKE = ("--engine", "fake", "-p", "8", "-n", "4", "-r", "3", "--no-limits", "--no-cold-start")


@pytest.mark.parametrize("command", [("bench", *FAKE), ("which-backend",), ("run", "Hello", "--engine", "fake")])
def test_without_standard_error_all_is_as_with_it(
    environment: dict[str, str], real_model: Path, command: tuple[str, ...]
) -> None:
    words = [command[0], str(real_model), *command[1:]]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" 2>&-', PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment | ENV,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize("output", ["json", "md"])
def test_what_is_to_be_kept_is_kept_where_the_result_cannot_be_written(
    start_llmrun: Callable[..., "subprocess.Popen[bytes]"], real_model: Path, output: str
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = start_llmrun("bench", real_model, *FAKE, "--save", "--output", output, env=ENV, stdout=full)
    os.close(full)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 74, errors
    assert b"fake, 8 + 4 is " in errors  # kept, or too noisy on a busy machine
