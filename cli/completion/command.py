"""`llmrun completion SHELL`: print the script that makes a shell complete commands, options and models."""

from typing import Annotated

import typer

from llmrun.cli.completion.script import SHELLS

__all__ = ["completion"]


def _shell(value: str) -> str:
    if value not in SHELLS:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(SHELLS)}")
    return value


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", callback=_shell, help=f"{', '.join(SHELLS)}.")],
) -> None:
    """Print the script that makes a shell complete commands, options, engines and names of models.

    \b
    bash        llmrun completion bash >> ~/.bash_completion
    zsh         llmrun completion zsh > ~/.zfunc/_llmrun
                with  fpath+=~/.zfunc; autoload -Uz compinit; compinit
                in ~/.zshrc
    fish        llmrun completion fish > ~/.config/fish/completions/llmrun.fish
    powershell  llmrun completion powershell >> $PROFILE

    \b
    eval "$(llmrun completion bash)"    for this shell only
    """  # noqa: D301 - the backspace before the examples keeps their lines apart
    from llmrun.cli.completion.script import completion_script
    from llmrun.cli.output import write_out

    write_out(completion_script(shell))
