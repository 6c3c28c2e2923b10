"""The entry point: start the engine's process, dispatch to one command, turn every intended error into one line.

Start-up time is part of the design. Only the module of the command that was typed is imported, and `run` starts its
worker before the argument parser is loaded, so that the engine is imported while this process reads the command line.
"""

import gc
import os
import sys
from collections.abc import Iterable
from importlib import import_module

from llmrun.errors import ExitCode, LlmrunError

TYPE_CHECKING = False  # as in `typing`, which takes five milliseconds to import
if TYPE_CHECKING:
    from typing import Any

    import typer

__all__ = ["COMMANDS", "build_app", "main", "run_here"]

_HELP = """Run local language models with the best engine that this machine has for them, and say why.

\b
llmrun chat smollm2-135m-instruct
llmrun run smollm2-135m-instruct "Why is the sky blue?"
git diff | llmrun run ./model.gguf "Write a commit message for this."
llmrun which-backend smollm2-135m-instruct
llmrun bench smollm2-135m-instruct --engine all
llmrun models pull smollm2-135m-instruct
llmrun install llama-cpp
"""
# Where each command is, so that only the one that was typed is imported.
COMMANDS = {
    "run": ("llmrun.cli.run", "run"),
    "chat": ("llmrun.cli.chat.command", "chat"),
    "which-backend": ("llmrun.cli.which_backend", "which_backend"),
    "bench": ("llmrun.cli.bench.command", "bench"),
    "models": ("llmrun.cli.models", "models_app"),
    "ps": ("llmrun.cli.ps", "ps"),
    "stop": ("llmrun.cli.stop", "stop"),
    "install": ("llmrun.cli.install", "install"),
    "config": ("llmrun.cli.config_show", "config_app"),
    "completion": ("llmrun.cli.completion.command", "completion"),
}
# They must work whatever is in the configuration file.
_WITHOUT_DEFAULTS = ("config", "completion")


def build_app(names: Iterable[str] = COMMANDS) -> "typer.Typer":
    """Return the application with the named commands; importing fewer of them starts faster."""
    import typer

    app = typer.Typer(
        name="llmrun",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
    ) -> None:
        if version:
            from llmrun import __version__
            from llmrun.cli.output import write_out

            write_out(f"llmrun {__version__}\n")
            raise typer.Exit

    for name in names:
        module, attribute = COMMANDS[name]
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name=name)(found)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from llmrun.cli.standby.asking import hand_over

    if "_LLMRUN_COMPLETE" in os.environ:
        from llmrun.cli.completion.answers import answer_shell

        sys.exit(answer_shell())
    words = sys.argv[1:] if arguments is None else arguments
    code = hand_over(words)
    sys.exit(run_here(words) if code is None else code)


def _defaults() -> "dict[str, Any] | None":
    """Return the user's own defaults; without a file, finding that out is all it costs."""
    from llmrun.cli.config import config_path, read_defaults

    path = config_path()
    return read_defaults(build_app(), path) if path.exists() or "LLMRUN_CONFIG" in os.environ else None


def run_here(arguments: list[str]) -> int:
    """Run the command line in this process, and return its exit code."""
    from llmrun.cli import early

    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    if name == "run":
        gc.disable()  # looking for garbage among modules takes a fifteenth of the start; the answer enables it
    early.begin(arguments)
    from llmrun.cli.output import StreamClosed, report_error, silence_stdout
    from llmrun.cli.signals import exit_on_signals

    exit_on_signals()
    try:
        early.start(arguments)
        names = (name,) if name in COMMANDS else COMMANDS
        build_app(names)(arguments, prog_name="llmrun", default_map=None if name in _WITHOUT_DEFAULTS else _defaults())
    except LlmrunError as error:
        report_error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except StreamClosed:
        silence_stdout()
        return ExitCode.PIPE
    finally:
        early.close()
    return ExitCode.OK
