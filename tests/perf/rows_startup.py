"""The command line alone: imports, and how soon each command begins its own work."""

import sys
from collections.abc import Iterator
from functools import partial

from bench import HERE, PROGRAM, Bench, Command, once
from pairs import Row, compare, take_turns

__all__ = ["measure_startup"]

# Where the first own line of work of each command is: starting the engine's process, listing models, choosing a build.
_FIRST_WORK = {
    "run": ("llmrun.engines.client:WorkerClient.__init__", ["run", "./model.gguf", "hi"]),
    "models list": ("llmrun.models.store.stored:list_models", ["models", "list"]),
    "install": ("llmrun.engines.install.install:install_engine", ["install", "llama-cpp", "--dry-run"]),
}
_FIRST_WORK_PROGRAM = """
import importlib, os, sys
from functools import reduce
*path, name = "{function}".split(".")
holder = reduce(getattr, path, importlib.import_module("{module}"))
setattr(holder, name, lambda *_, **__: os._exit(0))
from llmrun.cli.app import main
main({arguments})
"""


def measure_startup(bench: Bench) -> Iterator[Row]:
    """Measure against the least that a Typer application can be."""
    bare = bench.scratch / "bare.py"
    bare.write_text((HERE / "bare_typer.py").read_text())
    with_rich: Command = [sys.executable, bare, "--help"]
    without_rich: Command = [sys.executable, bare, "two"]
    taken = take_turns(lambda: once([PROGRAM, "--help"]), lambda: once(with_rich), bench.pairs)
    yield compare("`llmrun --help` / a bare Typer app's", "s", taken, "at most 1.15")
    cache = {"LLMRUN_CACHE_DIR": str(bench.scratch / "cache"), "HF_HOME": str(bench.scratch)}
    for name, (target, arguments) in _FIRST_WORK.items():
        module, function = target.rsplit(":", 1)
        program = _FIRST_WORK_PROGRAM.format(arguments=arguments, module=module, function=function)
        command: Command = [sys.executable, "-c", program]
        taken = take_turns(partial(once, command, cache), lambda: once(without_rich), bench.pairs)
        yield compare(f"`llmrun {name}` to its first own line of work / a Typer app without rich", "s", taken)
