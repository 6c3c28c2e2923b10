"""`make perf`: how fast llmrun is against its peers, as ratios from alternating runs, written to docs/performance.md.

Nothing is asserted: on a busy machine the intervals are wide, and say so. What needs the peers is left out where
`make peers` has not made them.

Usage: python tests/perf/perf.py MODEL.gguf [--pairs N] [--only PART…] [--plain-library FOLDER] [--document FILE.md]
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import psutil
from bench import Bench
from pairs import HEADING, Row
from peers import find_peers, find_xllamacpp
from rows_batch import measure_batch_command, measure_batch_vllm
from rows_bench import measure_bench
from rows_command import measure_cold_start, measure_memory, measure_prefix_cache, measure_warm_start
from rows_ctransformers import measure_ctransformers
from rows_decode import measure_bandwidth_share, measure_batch, measure_contention, measure_lookup
from rows_engine import measure_against_bench, measure_against_xllamacpp
from rows_library import measure_against_library, measure_against_plain_build
from rows_pytorch import measure_pytorch
from rows_screen import measure_screen
from rows_startup import measure_startup
from rows_vllm import measure_vllm

from llmrun.engines.install.wheels import read_installed_record
from llmrun.errors import LlmrunError

_BEGIN = "<!-- tables: written by `make perf` -->"
_END = "<!-- end of the tables -->"
_PARTS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "bench": measure_against_bench,
    "measuring": measure_bench,
    "xllamacpp": measure_against_xllamacpp,
    "cold": measure_cold_start,
    "warm": measure_warm_start,
    "prefix": measure_prefix_cache,
    "batch": measure_batch,
    "batch-command": measure_batch_command,
    "lookup": measure_lookup,
    "memory": measure_memory,
    "bandwidth": measure_bandwidth_share,
    "contention": measure_contention,
    "library": measure_against_library,
    "startup": measure_startup,
    "screen": measure_screen,
    "pytorch": measure_pytorch,
    "vllm": measure_vllm,
    "batch-vllm": measure_batch_vllm,
    "ctransformers": measure_ctransformers,
}
_NEEDS_PEERS = frozenset({"bench", "cold", "warm", "memory"})


def main() -> None:
    """Measure, print the table, and put it into the document."""
    given = _parse()
    started, load = time.monotonic(), [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="llmrun-perf-") as folder:
        bench = Bench(
            model=given.model,
            threads=psutil.cpu_count(logical=False) or 1,
            pairs=given.pairs,
            peers=find_peers(),
            xllamacpp=find_xllamacpp(),
            scratch=Path(folder),
        )
        parts = _choose(bench, given.only or list(_PARTS))
        if given.plain_library:
            parts.append(partial(measure_against_plain_build, plain=given.plain_library))
        print(HEADING)
        rows: list[Row] = []
        for part in parts:
            try:
                rows.extend(part(bench))
            except LlmrunError as error:
                print(f"left out: {error.message}", flush=True)
            load.append(os.getloadavg()[0])
    text = "\n".join([_heading(given.model, load, time.monotonic() - started), "", HEADING, *map(Row.render, rows)])
    print(f"\n{text}")
    if given.document:
        _write(given.document, text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of a short row; long ones take a share of it")
    parser.add_argument("--only", nargs="+", choices=list(_PARTS), metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--plain-library", help="folder with libllama.so of a plain build")
    parser.add_argument("--document", type=Path, help="put the table between the marks in this file")
    return parser.parse_args()


def _choose(bench: Bench, names: Iterable[str]) -> list[Callable[[Bench], Iterable[Row]]]:
    """Return what can be measured here."""
    parts = []
    for name in names:
        if (bench.peers is None and name in _NEEDS_PEERS) or (bench.xllamacpp is None and name == "xllamacpp"):
            print(f"{name}: left out; `make peers` makes what it is compared with")
            continue
        parts.append(_PARTS[name])
    return parts


def _heading(model: str, load: list[float], seconds: float) -> str:
    """Say what was measured where, and how busy the machine was."""
    record = read_installed_record() or {}
    build = (
        f"llama-cpp-python {record.get('version', '?')} by {record.get('compiler', '?')} ({record.get('because', '?')})"
    )
    return (
        f"Measured on {time.strftime('%Y-%m-%d')} in {seconds / 60:.0f} minutes: {_processor()}, "
        f"{psutil.cpu_count(logical=False)} cores, {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, {build}, {Path(model).resolve().name}. Load average "
        f"{min(load):.1f} to {max(load):.1f}; about {psutil.cpu_count(logical=False)} is the measurement's own."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _write(document: Path, text: str) -> None:
    """Replace what is between the marks."""
    before, begin, rest = document.read_text().partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{document} lacks the marks {_BEGIN} and {_END}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()
