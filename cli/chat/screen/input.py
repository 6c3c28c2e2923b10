"""The prompt: turns of one line or of many, with history and completion.

Enter sends. A line is gone on with below it by Alt-Enter, or by Enter behind a backslash; a paste keeps its newlines;
between two `\"\"\"` Enter is a newline. Ctrl-X Ctrl-E opens the editor, Ctrl-R searches what was typed before. Ctrl-C
takes back what was typed; where nothing was, it asks for a second one, which leaves as Ctrl-D does.
"""

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
from llmrun.cli.output import write_out

__all__ = ["ScreenReader", "screen_reader"]

_QUOTES = '"""'
_PROMPT = "> "
_AGAIN = "Ctrl-C again leaves"
_STYLE = Style.from_dict({"prompt": "bold", "hint": "ansibrightblack"})
_MENU_ROWS = 5


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
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", _PROMPT)],
            multiline=True,
            prompt_continuation=[("", " " * len(_PROMPT))],
            history=history,
            completer=ChatCompleter(),
            complete_while_typing=Condition(_is_command),
            complete_in_thread=True,
            reserve_space_for_menu=_MENU_ROWS,
            enable_open_in_editor=True,
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
        text = self._session.prompt()
        self._was_blank = not text.strip()
        if not text.startswith("/") or text.startswith("//"):
            self._keyboard.quiet()
        return _without_quotes(text)

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
                buffer.validate_and_handle()

        @bindings.add("escape", "enter", filter=at_prompt)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add("c-c", filter=at_prompt)
        def _take_back(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.current_buffer.reset()
            elif self._is_armed:
                event.app.exit(exception=EOFError, style="class:exiting")
            else:
                self._is_armed = True

        return bindings


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
