"""What Tab completes at the prompt: commands, and what each of them takes behind its name."""

from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from llmrun.errors import LlmrunError

__all__ = ["ChatCompleter"]

_Found = tuple[str, str]
_PARTS = ("prompt", "system", "options", "model")


class ChatCompleter(Completer):
    """Completes commands in the first line; a message is left alone."""

    def __init__(self) -> None:
        from llmrun.cli.chat.commands import COMMANDS

        self._commands = {command.name: command for command in COMMANDS}
        self._paths = PathCompleter(expanduser=True)
        self._by_kind: dict[str, Callable[[str], Iterable[_Found]]] = {
            "model": _models,
            "session": _sessions,
            "option": _options,
            "part": lambda _start: ((part, "") for part in _PARTS),
            "text": lambda _start: (),
        }

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Return what fits."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for command in self._commands.values():
                if command.name.startswith(name.lower()):
                    yield _completion(command.name, name, command.help, f"/{command.name}")
            return
        found = self._commands.get(name.lower())
        if found is None:
            return
        argument = argument.lstrip()
        if found.argument == "file":
            yield from self._paths.get_completions(Document(argument), complete_event)
            return
        words = self._help_words if found.name == "help" else self._by_kind.get(found.argument)
        if words is None:
            return
        typed = argument.rpartition(" ")[2] if found.argument == "option" else argument
        for word, about in words(argument):
            if word.startswith(typed) and word != typed:
                yield _completion(word, typed, about)

    def _help_words(self, _start: str) -> Iterable[_Found]:
        return ((command.name, command.help) for command in self._commands.values())


def _completion(word: str, typed: str, about: str, shown: str | None = None) -> Completion:
    return Completion(word, start_position=-len(typed), display=shown or word, display_meta=about)


def _models(start: str) -> Iterator[_Found]:
    from llmrun.cli.completion.answers import model_names

    try:
        yield from model_names(start)
    except (LlmrunError, OSError):
        return


def _sessions(_start: str) -> Iterator[_Found]:
    from llmrun.engines.conversation.sessions import session_names

    try:
        yield from ((name, "") for name in session_names())
    except (LlmrunError, OSError):
        return


def _options(start: str) -> Iterator[_Found]:
    from llmrun.cli.chat.settings import OPTION_NAMES, option_choices

    name, space, _ = start.partition(" ")
    names = option_choices(name) if space else OPTION_NAMES
    return ((word, "") for word in names)
