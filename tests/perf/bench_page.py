"""`make bench-page`: docs/measured.md, SmolLM2 on all four engines of this machine, as `llmrun bench` itself says it.

The page holds what the commands on it print, and the pictures that they draw. The model is there as each engine reads
it: the GGUF file, its safetensors twin, and a `ggjt` file for ctransformers (see legacy_smollm2.py).

Usage: python tests/perf/bench_page.py MODEL.gguf TWIN DOCS
"""

import argparse
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import ENVIRONMENT, PROGRAM
from legacy_smollm2 import write_legacy_smollm2

GGUF, FOLDER, LEGACY = "SmolLM2-135M-Instruct.Q4_1.gguf", "./SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.ggjt.bin"
PAGE, IMAGES = "measured.md", "images"
_LIMIT_SECONDS = 1500.0
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        text: What is measured, and what to look at.
        arguments: Of `llmrun`.
        picture: Name of the picture that the command draws; None: it draws none.
    """

    title: str
    text: str
    arguments: tuple[str, ...]
    picture: str | None = None


SECTIONS = (
    Section(
        title="Every engine",
        text="""\
One model in three kinds of files: the GGUF (on llama-cpp, and on pytorch, which unpacks it), the safetensors folder
(pytorch and vllm), and a file of the time before GGUF (ctransformers). The same token ids go to all of them. The
`ggjt` format has no heads that share keys and values and no output shared with the embedding, so that file holds 30%
more weights for the same arithmetic.""",
        arguments=("bench", GGUF, FOLDER, LEGACY, "--engine", "all", "-r", "7"),
        picture="bench-engines.svg",
    ),
    Section(
        title="A deeper context",
        text="The same with 0 to 1,536 tokens in the context already: attention reads all of them for every token.",
        arguments=(
            *("bench", GGUF, FOLDER, LEGACY, "--engine", "all"),
            *("-p", "128", "-n", "32", "-d", "0,512,1024,1536", "-r", "5", "--no-cold-start"),
        ),
        picture="bench-depth.svg",
    ),
    Section(
        title="Several requests at once",
        text="""\
Requests that come together are computed together by llama-cpp and vllm: each weight is read once for all of them.
`throughput` is what vLLM's own benchmark calls output tokens/s.""",
        arguments=(
            *("bench", GGUF, FOLDER, "--engine", "llama-cpp,vllm", "-p", "128", "-n", "64", "-b", "1,2,4,8,16"),
            *("-r", "5", "--no-cold-start"),
        ),
        picture="bench-parallel.svg",
    ),
    Section(
        title="Tuning",
        text="Settings that are faster than the defaults on this machine, if there are any.",
        arguments=("bench", GGUF, "--tune"),
    ),
    Section(
        title="A measurement that chooses",
        text="""\
The rules never choose vllm on a processor, because it starts slowly. For long answers it can be the faster one all the
same; only a measurement knows, and only a difference beyond what the machine itself changed by meanwhile counts.""",
        arguments=(
            *("bench", FOLDER, "--engine", "all", "-p", "128", "-n", "1024", "-r", "5"),
            *("--no-cold-start", "--save"),
        ),
    ),
    Section(title="", text="From then on:", arguments=("which-backend", FOLDER)),
)


def main() -> None:
    """Measure, and write the page and its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("model", "twin", "docs"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", type=int, nargs="+", help="measure these sections again (from 0); the others stay")
    given = parser.parse_args()
    page = given.docs / PAGE
    written = dict(enumerate([""] * len(SECTIONS))) if given.only is None else _read_sections(page)
    with tempfile.TemporaryDirectory(prefix="llmrun-page-") as scratch:
        folder = Path(scratch)
        (folder / GGUF).symlink_to(given.model.resolve())
        (folder / FOLDER).symlink_to(given.twin.resolve())
        write_legacy_smollm2(given.model, folder / LEGACY)
        for index in given.only or range(len(SECTIONS)):
            section = SECTIONS[index]
            written[index] = "\n".join(_written(section, folder))
            if section.picture:
                (given.docs / IMAGES / section.picture).write_bytes((folder / section.picture).read_bytes())
    parts = [f"{_MARK.format(index)}\n\n{text.strip()}\n" for index, text in sorted(written.items())]
    page.write_text("\n".join([*_INTRODUCTION, *parts]), encoding="utf-8")


def _read_sections(page: Path) -> dict[int, str]:
    """Return what was written before, by the number of the section."""
    pieces = re.split(_MARK.format(r"(\d+)"), page.read_text(encoding="utf-8"))
    return {int(number): text for number, text in zip(pieces[1::2], pieces[2::2], strict=True)}


_MARK = "<!-- section {} -->"
_INTRODUCTION = (
    "# Measured",
    "",
    "SmolLM2-135M-Instruct on all four engines of one machine, as [`llmrun bench`](bench.md) tells it. Written by",
    "`make bench-page`, which runs the commands below; nothing is edited by hand. The machine is a shared one, whose",
    "speed changes from minute to minute: what the tool calls noise is noise.",
    "",
)


def _written(section: Section, folder: Path) -> Iterator[str]:
    """Run a section's command, and yield its part of the page."""
    time.sleep(_PAUSE_SECONDS)
    drawn = ("--plot", section.picture) if section.picture else ()
    command = (*section.arguments, *drawn)
    print(f"llmrun {shlex.join(command)}", flush=True)
    # A cache of its own: what is kept there for the page says nothing about what was kept here before.
    done = subprocess.run(
        [PROGRAM, *command],
        cwd=folder,
        env=ENVIRONMENT | {"COLUMNS": "110", "LLMRUN_CACHE_DIR": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=_LIMIT_SECONDS,
    )
    if done.returncode != 0:
        raise SystemExit(f"it ended with {done.returncode}")
    text = done.stdout.replace(f"{folder}{os.sep}", "").replace(f"{folder.resolve()}{os.sep}", "")
    yield from (f"## {section.title}\n",) if section.title else ()
    yield f"{section.text}\n"
    yield f"```console\n$ llmrun {shlex.join(command)}\n{text.rstrip()}\n```\n"
    if section.picture:
        yield f"![{section.title}: prefill and decode]({IMAGES}/{section.picture})\n"


if __name__ == "__main__":
    main()
