"""Whole commands: cold start and memory against llama-completion, the start with a prefix that is known already."""

import itertools
import shutil
import time
from collections.abc import Iterator

from bench import PAUSE_SECONDS, PROGRAM, Bench, Command, answer, first_byte, once, output, peak_memory, plan_for
from pairs import Row, compare, difference, take_turns
from texts import QUESTION, long_text

from llmrun.engines.client import WorkerClient
from llmrun.engines.types import EngineName

__all__ = ["measure_cold_start", "measure_memory", "measure_prefix_cache", "measure_warm_start"]

_ANSWER_TOKENS = 128
_CONTEXT = 2048
_PREFIX_TOKENS = 2000
_index = itertools.count(1)


def our_command(bench: Bench, tokens: int, *more: str, question: str = QUESTION) -> Command:
    """Return the command that asks a question."""
    fixed = ("--temperature", "0", "--threads", str(bench.threads), "--context-length", str(_CONTEXT), "--quiet")
    return [PROGRAM, "run", bench.model, question, "--max-tokens", str(tokens), *fixed, *more]


def their_command(bench: Bench, tokens: int) -> Command:
    """Return llama-completion with the same prompt, rendered beforehand, and the same options."""
    assert bench.peers is not None
    rendered = output([PROGRAM, "run", bench.model, QUESTION, "--dry-run", "--quiet"])
    options = ("-n", str(tokens), "-t", str(bench.threads), "-c", str(_CONTEXT), "--temp", "0")
    quiet = ("-no-cnv", "--no-display-prompt", "--no-warmup", "-fit", "off")
    return [bench.peers.completion, "-m", bench.model, "-p", rendered, *options, *quiet]


def measure_cold_start(bench: Bench) -> Iterator[Row]:
    """Measure from the start of the process to the first byte of the answer."""
    theirs = their_command(bench, 8)
    ours = our_command(bench, 8, "--no-cache") if _knows("--no-cache") else our_command(bench, 8)
    taken = take_turns(lambda: _paused(ours), lambda: _paused(theirs), bench.pairs)
    yield compare("cold start to first text: `llmrun run` / llama-completion", "s", taken, "at most 1.5x")


def measure_warm_start(bench: Bench) -> Iterator[Row]:
    """Measure the same with a worker that an earlier command left running."""
    if not _knows("--keep-alive"):
        return
    theirs = their_command(bench, 8)

    def ours() -> Command:
        """Ask something new: an old question is in the worker's context."""
        return our_command(bench, 8, "--keep-alive", "1m", question=f"{next(_index)} times: {QUESTION}")

    once(ours())
    try:
        taken = take_turns(lambda: _paused(ours()), lambda: _paused(theirs), bench.pairs)
    finally:
        once([PROGRAM, "stop", "--all"])
    yield compare("warm start to first text / cold llama-completion", "s", taken, "at most 0.5x")


def measure_memory(bench: Bench) -> Iterator[Row]:
    """Measure the peak of all processes while a question is answered."""
    ours, theirs = our_command(bench, _ANSWER_TOKENS), their_command(bench, _ANSWER_TOKENS)
    taken = take_turns(lambda: peak_memory(ours), lambda: peak_memory(theirs), bench.fewer(0.4), discard=0)
    yield difference("peak memory, all processes (PSS) / llama-completion", "MiB", taken, "at most +80 MiB")


def measure_prefix_cache(bench: Bench) -> Iterator[Row]:
    """Measure a new worker's first token after a prefix that another worker has seen."""
    folder = bench.scratch / "prefixes"

    def first_text(*, cached: bool) -> float:
        """Start a worker, ask twice about the same long text if it is to be cached; return the second one's time."""
        time.sleep(PAUSE_SECONDS)
        text = long_text(next(_index), _PREFIX_TOKENS)
        plan = plan_for(bench, context_length=4096, cache_folder=str(folder) if cached else None, cache_key="perf")
        seconds = 0.0
        for question in ("What comes first?", "What comes last?") if cached else ("What comes last?",):
            started = time.perf_counter()
            worker = WorkerClient(EngineName.LLAMA_CPP)
            worker.load(plan)
            loaded = time.perf_counter()
            seconds = loaded - started + answer(worker, text + question, 8)[1]
            worker.close()
        return seconds

    taken = take_turns(lambda: first_text(cached=False), lambda: first_text(cached=True), bench.fewer(0.3), discard=0)
    shutil.rmtree(folder, ignore_errors=True)
    name = f"worker's start to first text after a known prefix of {_PREFIX_TOKENS:,} tokens: without / with the cache"
    yield compare(name, "s", taken, "5x")


def _knows(option: str) -> bool:
    return option in output([PROGRAM, "run", "--help"])


def _paused(command: Command) -> float:
    time.sleep(PAUSE_SECONDS)
    return float(first_byte(command))
