"""The prompt: turns of one line or of many, with history and completion.

Enter sends. A line is gone on with below it by Alt-Enter, or by Enter behind a backslash; a paste keeps its newlines;
between two `\"\"\"` Enter is a newline. Ctrl-X Ctrl-E opens the editor, Ctrl-R searches what was typed before. Ctrl-C
takes back what was typed; where nothing was, it asks for a second one, which leaves as Ctrl-D does.
"""

import time

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import PromptSession
from prompt_toolkit.styles import Style

from llmrun.cli.chat.screen.completion import ChatCompleter
from llmrun.cli.chat.screen.history import open_history
from llmrun.cli.chat.screen.keyboard import Keyboard
from llmrun.cli.chat.screen.rows import cells_of
from llmrun.cli.output import inert, write_out

__all__ = ["ScreenReader", "screen_reader"]

_QUOTES = '"""'
_PROMPT = "> "
_AGAIN = "Ctrl-C again leaves"
_STYLE = Style.from_dict({"prompt": "bold", "hint": "ansibrightblack"})
_MENU_ROWS = 5
_LINES_SHOWN = 3
_LINE_SHOWN = 200
_STILL_STOPPING_SECONDS = 0.4  # what is pressed so soon was meant for the answer


class ScreenReader:
    """Reads turns from a terminal.

    Args:
        keyboard: What is quiet between a turn and the next prompt.
        history: What was typed before.
        source: Where keys come from; None: standard input.
        output: Where the prompt goes; None: standard output.
    """

    def __init__(
        self, keyboard: Keyboard, history: History, source: Input | None = None, output: Output | None = None
    ) -> None:
        self._keyboard = keyboard
        self._is_armed = False
        self._was_blank = True
        self._shown_at = 0.0
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", _PROMPT)],
            multiline=True,
            prompt_continuation=[("", " " * len(_PROMPT))],
            history=history,
            completer=ChatCompleter(),
            complete_while_typing=Condition(_is_command),
            complete_in_thread=True,
            reserve_space_for_menu=_MENU_ROWS,
            enable_suspend=True,
            search_ignore_case=True,
            tempfile_suffix=".md",
            placeholder=self._hint,
            key_bindings=self._bindings(),
            style=_STYLE,
            include_default_pygments_style=False,
            input=source,
            output=output,
        )
        self._session.default_buffer.on_text_changed += self._disarm

    def read(self) -> str:
        """Return the next turn.

        Raises:
            EOFError: The user leaves.
        """
        self._keyboard.restore()
        self._is_armed = False
        if not self._was_blank:
            write_out("\n")
        self._shown_at = time.monotonic()
        self._session.app.erase_when_done = False
        text = self._session.prompt()
        if self._session.app.erase_when_done:
            write_out(_shortened(text))
        self._was_blank = not text.strip()
        if not text.startswith("/") or text.startswith("//"):
            self._keyboard.quiet()
        return _without_quotes(text)

    def _is_tall(self, text: str) -> bool:
        """Whether a turn does not fit on the screen: of such a one, the beginning and the end stay to be seen."""
        size = self._session.app.output.get_size()
        rows = sum(1 + cells_of(line) // max(size.columns - len(_PROMPT), 1) for line in text.split("\n"))
        return rows > size.rows - 1

    def _hint(self) -> StyleAndTextTuples:
        return [("class:hint", _AGAIN)] if self._is_armed else []

    def _disarm(self, _buffer: Buffer) -> None:
        self._is_armed = False

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        at_prompt = has_focus(DEFAULT_BUFFER)

        @bindings.add("enter", filter=at_prompt)
        def _enter(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if _goes_on(buffer):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            elif _is_quoting(buffer.text):
                buffer.insert_text("\n")
            else:
                event.app.erase_when_done = self._is_tall(buffer.text)
                buffer.validate_and_handle()

        @bindings.add("escape", "enter", filter=at_prompt)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add("c-x", "c-e", filter=at_prompt)
        def _edit(event: KeyPressEvent) -> None:
            event.current_buffer.open_in_editor(validate_and_handle=False)

        @bindings.add("<sigint>")
        @bindings.add("c-c", filter=at_prompt)
        def _take_back(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            elif self._is_armed:
                self._is_armed = False  # nothing of it stays on the screen
                event.app.exit(exception=EOFError, style="class:exiting")
            elif time.monotonic() - self._shown_at > _STILL_STOPPING_SECONDS:
                self._is_armed = True

        return bindings


def _shortened(text: str) -> str:
    """Return a long turn as it stays on the screen."""
    lines = text.strip("\n").split("\n")
    left_out = len(lines) - 2 * _LINES_SHOWN
    if left_out > 0:
        lines = [*lines[:_LINES_SHOWN], f"({left_out:,} more lines)", *lines[-_LINES_SHOWN:]]
    shown = [inert(line if len(line) <= _LINE_SHOWN else f"{line[:_LINE_SHOWN]} (and so on)") for line in lines]
    return _PROMPT + f"\n{' ' * len(_PROMPT)}".join(shown) + "\n"


def _is_command() -> bool:
    return get_app().current_buffer.text.startswith("/")


def _goes_on(buffer: Buffer) -> bool:
    """Whether the cursor is at the end of a line, behind a backslash that does not follow another."""
    line = buffer.document.current_line_before_cursor
    backslashes = len(line) - len(line.rstrip("\\"))
    return backslashes % 2 == 1 and not buffer.document.current_line_after_cursor


def _is_quoting(text: str) -> bool:
    """Whether a text begins with three quotes that are not closed yet."""
    stripped = text.strip()
    is_closed = len(stripped) >= 2 * len(_QUOTES) and stripped.endswith(_QUOTES)
    return stripped.startswith(_QUOTES) and not is_closed


def _without_quotes(text: str) -> str:
    stripped = text.strip()
    if not stripped.startswith(_QUOTES) or _is_quoting(text):
        return text
    return stripped.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")


def screen_reader(keyboard: Keyboard) -> ScreenReader:
    """Return what reads turns from the terminal behind standard input."""
    return ScreenReader(keyboard, open_history())
