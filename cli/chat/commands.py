"""What a line that begins with a slash does: one table of commands, each of them one small function.

A line is a command if its first word is a slash and a name: `/etc/passwd is …` is text, and so is what begins with two
slashes, of which one is taken away. The table is also what completes the commands, and what /help shows.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from llmrun.cli.chat import commands_files, commands_show, commands_turns
from llmrun.cli.chat.state import Chat, Leave
from llmrun.errors import UsageError

__all__ = ["COMMANDS", "Argument", "Command", "command_words", "run_command"]

Argument = Literal["none", "text", "file", "model", "session", "option", "part", "number"]
_COMMAND = re.compile(r"/([A-Za-z?][\w-]*)?(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: Without its slash.
        argument: What kind of argument it takes, for completion.
        usage: What follows the name in /help.
        help: One line.
        run: What it does with the text behind the name.
    """

    name: str
    argument: Argument
    usage: str
    help: str
    run: Callable[[Chat, str], None]


def _leave(_chat: Chat, _text: str) -> None:
    raise Leave


def _help(chat: Chat, text: str) -> None:
    wanted = text.strip().removeprefix("/")
    shown: Sequence[Command] = [_find(wanted)] if wanted else COMMANDS
    width = max(len(f"/{command.name} {command.usage}") for command in shown)
    lines = [f"  {f'/{command.name} {command.usage}':<{width}}  {command.help}" for command in shown]
    if not wanted:
        lines.append("  A line that begins with // is text. Ctrl-C stops an answer; Ctrl-D leaves.")
    chat.view.notice("commands\n" + "\n".join(lines))


COMMANDS: tuple[Command, ...] = (
    Command("help", "text", "[COMMAND]", "what the commands do", _help),
    Command("system", "text", "[TEXT]", "show or change the system message; /system none takes it away",
            commands_turns.system),
    Command("clear", "none", "", "begin anew; the system message stays", commands_turns.clear),
    Command("undo", "none", "", "take the last turn back", commands_turns.undo),
    Command("retry", "none", "", "have the last turn answered again", commands_turns.retry),
    Command("edit", "number", "[N]", "change turn N (the last one) in your editor, and go on from there",
            commands_turns.edit),
    Command("set", "option", "[OPTION VALUE]", "show the options, or change one", commands_show.set_option),
    Command("show", "part", "[prompt|system|options|model]", "what the model sees, or what is set", commands_show.show),
    Command("context", "none", "", "what fills the context", commands_show.context),
    Command("model", "model", "[NAME]", "go on with another model", commands_files.model),
    Command("save", "session", "NAME", "copy the conversation into a session of that name, and go on there",
            commands_files.save),
    Command("load", "session", "NAME", "go on with another session", commands_files.load),
    Command("sessions", "none", "", "the sessions there are", commands_show.sessions),
    Command("export", "file", "FILE.md|FILE.json", "write the conversation to a new file", commands_files.export),
    Command("file", "file", "[PATH]", "put a file in front of the next turn; without PATH, take files back",
            commands_files.file),
    Command("copy", "none", "", "the last answer to the clipboard", commands_files.copy),
    Command("stats", "none", "", "counts and speeds", commands_show.stats),
    Command("exit", "none", "", "leave", _leave),
)  # fmt: skip
_ALIASES = {"?": "help", "quit": "exit", "bye": "exit", "q": "exit", "": "help"}


def command_words(line: str) -> tuple[str, str] | None:
    """Return the name of a command and the text behind it; None if a line is no command."""
    found = _COMMAND.fullmatch(line.strip()) if line.startswith("/") else None
    return None if found is None else ((found[1] or "").lower(), (found[2] or "").strip())


def run_command(chat: Chat, name: str, text: str) -> None:
    """Do what a command says.

    Raises:
        UsageError: There is no such command, or it cannot do that.
        Leave: The user wants to leave.
        LlmrunError: It failed.
    """
    command = _find(name)
    if text and command.argument == "none":
        raise UsageError(f"/{command.name} takes nothing behind it")
    command.run(chat, text)


def _find(name: str) -> Command:
    wanted = _ALIASES.get(name, name)
    for command in COMMANDS:
        if command.name == wanted:
            return command
    near = get_close_matches(name, [command.name for command in COMMANDS], n=1, cutoff=0.5)
    raise UsageError(
        f"there is no command /{name}",
        fix=f"/{near[0]}, or //{name} to send it as text" if near else f"/help, or //{name} to send it as text",
    )
