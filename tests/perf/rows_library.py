"""llmrun against doing the same through llama_cpp.Llama, and against a plain build of the same library."""

import subprocess
import sys
from collections.abc import Iterator, Mapping

from bench import ENVIRONMENT, HERE, Bench, Command, first_byte
from pairs import Row, compare, take_turns
from rows_command import our_command
from texts import QUESTION

__all__ = ["measure_against_library", "measure_against_plain_build"]


def measure_against_library(bench: Bench) -> Iterator[Row]:
    """Measure the command, and the worker, against the high-level class: same build, prompt, threads and context."""
    ours = our_command(bench, 128)
    theirs: Command = [sys.executable, HERE / "direct_llama.py", bench.model, QUESTION, str(bench.threads)]
    taken = take_turns(lambda: first_byte(ours), lambda: first_byte(theirs), bench.fewer(0.6))
    yield compare("cold start to first text / llama_cpp.Llama", "s", taken, "at most 1.25")
    command: Command = [sys.executable, HERE / "library_speed.py", bench.model, str(bench.threads), str(bench.pairs)]
    speeds = _number_lines(command)
    for name, position, other, wanted in (
        ("decode, 96 tokens / llama_cpp.Llama streaming text", 1, 4, "1.0x"),
        ("decode, 96 tokens / llama_cpp.Llama making token ids only", 1, 3, "1.0x"),
        ("prefill, 512 tokens / llama_cpp.Llama", 0, 2, ""),
    ):
        yield compare(name, "tokens/s", [(line[position], line[other]) for line in speeds], wanted)


def measure_against_plain_build(bench: Bench, plain: str) -> Iterator[Row]:
    """Measure this build of llama.cpp against another one, through the same adapter."""
    command: Command = [sys.executable, HERE / "adapter_speed.py", bench.model, str(bench.threads)]
    taken = []
    builds: list[dict[str, str]] = [{}, {"LLAMA_CPP_LIB_PATH": plain}]
    for index in range(bench.fewer(0.6)):
        way = 1 if index % 2 else -1
        taken.append([_number_lines(command, env)[-1] for env in builds[::way]][::way])
    for position, name in ((1, "decode, 128 tokens"), (0, "prefill, 512 tokens")):
        pairs = [(tuned[position], other[position]) for tuned, other in taken]
        yield compare(f"{name}: tuned build / plain build", "tokens/s", pairs)


def _number_lines(command: Command, env: Mapping[str, str] | None = None) -> list[list[float]]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT | dict(env or {}),
        timeout=900,
    )
    return [[float(word) for word in line.split()] for line in done.stdout.strip().splitlines()]
