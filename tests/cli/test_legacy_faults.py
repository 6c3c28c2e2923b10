"""Malformed legacy files through the real command: 500 processes, each of which ends with 4 and one clear line.

What a second is measured in is processor time: the machine may have other things to do. Waiting has a bound too.
"""

import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import legacy_faults as faults
import pytest

PROGRAM = Path(sys.executable).with_name("llmrun")
EVERY, LEAST = 10, 500
HANGS_SECONDS, PROCESSOR_SECONDS = 60.0, 1.0


class Outcome(NamedTuple):
    """How a process ended; a negative code is the signal that it died of."""

    name: str
    code: int
    errors: str
    seconds: float


@pytest.mark.slow
def test_faults_01_to_13_500_malformed_files_through_the_command(tmp_path: Path, environment: dict[str, str]) -> None:
    """`run` and `which-backend` by turns."""
    chosen = list(itertools.islice(faults.cases(), 0, None, EVERY))

    def ended(number: int) -> Outcome:
        case = chosen[number]
        path = tmp_path / f"{number}.bin"
        path.write_bytes(case.data)
        command = ["run", str(path), "hi"] if number % 2 else ["which-backend", str(path)]
        outcome = run(case.name, command, environment, tmp_path / f"{number}.err")
        path.unlink()
        return outcome

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        outcomes = list(pool.map(ended, range(len(chosen))))
    assert len(outcomes) >= LEAST
    assert [outcome for outcome in outcomes if outcome.code != 4] == []
    assert [outcome for outcome in outcomes if "Traceback" in outcome.errors or "error: " not in outcome.errors] == []
    assert [outcome for outcome in outcomes if outcome.seconds > PROCESSOR_SECONDS] == []


def run(name: str, command: list[str], environment: dict[str, str], errors: Path) -> Outcome:
    """Run the program to its end and count the processor time of it and of the processes that it waited for."""
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [PROGRAM, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env=environment
        )
        watchdog = threading.Timer(HANGS_SECONDS, process.kill)
        watchdog.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watchdog.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Outcome(name, process.returncode, errors.read_text(), usage.ru_utime + usage.ru_stime)
