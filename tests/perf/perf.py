"""`make perf`: how fast llmrun is against doing the same directly, as ratios from alternating runs.

Absolute times on a shared machine move by half from hour to hour, so every figure here is a ratio of two things
measured in turns, with the middle of the ratios and the range of their middle half. Nothing is asserted.

Usage: python tests/perf/perf.py MODEL.gguf [--rounds N] [--plain-library FOLDER] [--output FILE.md]
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

PROGRAM = Path(sys.executable).with_name("llmrun")
HERE = Path(__file__).parent
QUESTION = "Why is the sky blue? Explain it to a child."
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"NO_COLOR": "1"}

# Where the first own line of work of each command is: starting the engine's process, listing models, choosing a build.
FIRST_WORK = {
    "run": ("llmrun.engines.client:WorkerClient.__init__", ["run", "./model.gguf", "hi"]),
    "models list": ("llmrun.models.store:list_models", ["models", "list"]),
    "install": ("llmrun.engines.install.install:install_engine", ["install", "llama-cpp", "--dry-run"]),
}
FIRST_WORK_PROGRAM = """
import importlib, os, sys
from functools import reduce
*path, name = "{function}".split(".")
holder = reduce(getattr, path, importlib.import_module("{module}"))
setattr(holder, name, lambda *_, **__: os._exit(0))
from llmrun.cli.app import main
main({arguments})
"""
Row = tuple[str, str, str, str]
Command = list[str | Path]


def once(command: Command, env: dict[str, str] | None = None) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT | (env or {}), timeout=300)
    return time.perf_counter() - started


def first_byte(command: Command) -> float:
    """Return the seconds from the start of a command to the first byte of its output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - started
        process.communicate()
    return seconds


def peak_memory(command: Command) -> float:
    """Return the largest sum of the proportional set sizes (PSS) of a command's processes, in MiB."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        try:
            for member in [watched, *watched.children(recursive=True)]:
                total += member.memory_full_info().pss
        except psutil.Error:
            continue
        peak = max(peak, total)
        time.sleep(0.005)
    return peak / 2**20


def number_lines(command: Command, env: dict[str, str] | None = None) -> list[list[float]]:
    """Return the numbers that a command prints, line by line."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT | (env or {}), timeout=600
    )
    return [[float(word) for word in line.split()] for line in done.stdout.strip().splitlines()]


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Run the two in turns, after one round that is thrown away."""
    ours()
    theirs()
    mine: list[float] = []
    others: list[float] = []
    for index in range(rounds):
        for run, into in ((ours, mine), (theirs, others))[:: 1 if index % 2 else -1]:
            into.append(run())
    return mine, others


def ratio_row(name: str, unit: str, mine: list[float], others: list[float], goal: str) -> Row:
    """Return a table row: both medians, the median of the ratios, and the range of their middle half."""
    ratios = [a / b for a, b in zip(mine, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    row = (
        name,
        f"{statistics.median(mine):.3g} / {statistics.median(others):.3g} {unit}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        goal,
    )
    print(" | ".join(row), flush=True)
    return row


def startup(rounds: int) -> list[Row]:
    """Measure the command line alone."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text((HERE / "bare_typer.py").read_text())
        with_rich: Command = [sys.executable, str(bare), "--help"]
        without_rich: Command = [sys.executable, str(bare), "two"]
        cache = {"LLMRUN_CACHE_DIR": folder, "HF_HOME": folder}
        rows = [
            ratio_row(
                "`llmrun --help` / a bare Typer app's",
                "s",
                *alternate(lambda: once([PROGRAM, "--help"]), lambda: once(with_rich), rounds),
                "at most 1.15",
            )
        ]
        for name, (target, arguments) in FIRST_WORK.items():
            module, function = target.rsplit(":", 1)
            program = FIRST_WORK_PROGRAM.format(arguments=arguments, module=module, function=function)
            command: Command = [sys.executable, "-c", program]
            rows.append(
                ratio_row(
                    f"`llmrun {name}` to its first own line of work / a Typer app without rich",
                    "s",
                    *alternate(partial(once, command, cache), lambda: once(without_rich), rounds),
                    "0.12 s / 0.075 s",
                )
            )
        return rows


def against_library(model: str, rounds: int) -> list[Row]:
    """Measure the command against llama_cpp.Llama: same build, prompt, threads and context."""
    threads = str(psutil.cpu_count(logical=False) or 1)
    ours: Command = [PROGRAM, "run", model, QUESTION, "--temperature", "0", "--max-tokens", "128", "--threads", threads]
    ours += ["--context-length", "2048", "--quiet"]
    theirs: Command = [sys.executable, HERE / "direct_llama.py", model, QUESTION, threads]
    rows = [
        ratio_row(
            "cold start to first text / llama_cpp.Llama",
            "s",
            *alternate(lambda: first_byte(ours), lambda: first_byte(theirs), rounds),
            "at most 1.25",
        )
    ]
    speeds = number_lines([sys.executable, HERE / "library_speed.py", model, threads, str(2 * rounds)])
    for name, position, other, goal in (
        ("decode, 96 tokens / llama_cpp.Llama streaming text", 1, 4, "at least 1.0"),
        ("decode, 96 tokens / llama_cpp.Llama making token ids only", 1, 3, "at least 1.0"),
        ("prefill, 512 tokens / llama_cpp.Llama", 0, 2, "-"),
    ):
        mine, others = ([line[at] for line in speeds] for at in (position, other))
        rows.append(ratio_row(name, "tokens/s", mine, others, goal))
    mine, others = alternate(lambda: peak_memory(ours), lambda: peak_memory(theirs), max(3, rounds // 3))
    rows.append(ratio_row("peak memory, all processes (PSS) / llama_cpp.Llama", "MiB", mine, others, "at most +60 MiB"))
    difference = statistics.median(a - b for a, b in zip(mine, others, strict=True))
    rows.append(("peak memory, difference", f"{difference:+.0f} MiB", "", "at most +60 MiB"))
    print(" | ".join(rows[-1]), flush=True)
    return rows


def against_plain_build(model: str, plain: str, rounds: int) -> list[Row]:
    """Measure this build of llama.cpp against a plain one, through the same adapter."""
    threads = str(psutil.cpu_count(logical=False) or 1)
    bench: Command = [sys.executable, HERE / "adapter_speed.py", model, threads]
    tuned: list[list[float]] = []
    other: list[list[float]] = []
    for index in range(rounds):
        for env in ({}, {"LLAMA_CPP_LIB_PATH": plain})[:: 1 if index % 2 else -1]:
            (other if env else tuned).append(number_lines(bench, env)[-1])
    return [
        ratio_row(
            f"{name}, tuned build / plain build",
            "tokens/s",
            [speed[position] for speed in tuned],
            [speed[position] for speed in other],
            goal,
        )
        for position, name, goal in (
            (1, "decode, 128 tokens", "1.5 with AMX"),
            (0, "prefill, 512 tokens", "2.5 with AMX"),
        )
    ]


def processor() -> str:
    """Return the name of the processor, for the table's heading."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--plain-library", help="folder with libllama.so of a plain build")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = startup(given.rounds) + against_library(given.model, given.rounds)
    if given.plain_library:
        rows += against_plain_build(given.model, given.plain_library, given.rounds)
    heading = f"{processor()}, {psutil.cpu_count(logical=False)} cores, Python {platform.python_version()}"
    table = [
        f"Measured on {time.strftime('%Y-%m-%d')}: {heading}; {given.rounds} alternating rounds each.",
        "",
        "| what | medians | ratio (middle half) | goal |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    print("\n" + "\n".join(table))
    if given.output:
        given.output.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
